"""Reward sets and prompts: read, checked, tokenised, laid out as tensors."""
