"""Distributional critics for LLM post-training, native to Hugging Face."""

__version__ = "0.1.0"
