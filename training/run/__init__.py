"""A run's settings, directory, log and pushes."""
