"""The two loops, from settings to trained models."""
