"""DVPO and its baselines: advantages, losses, updates."""
