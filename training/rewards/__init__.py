"""Reward functions and models, and noise on what they say."""
