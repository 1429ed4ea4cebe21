"""The critic itself: the files of this folder, and no others, are shipped into every critic's repository."""
