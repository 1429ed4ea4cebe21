"""What a policy writes: generation, conversations with environments, scored samples."""
