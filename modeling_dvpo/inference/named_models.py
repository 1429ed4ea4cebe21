"""Models that a caller may give themselves or by name."""

import os

import torch
from transformers import AutoTokenizer

from ..auto import AutoModelForDistributionalValue

Named = str | os.PathLike


def critic_and_tokenizer(critic, tokenizer, device, dtype):
    """Both as objects; without a tokenizer, the one beside the critic.

    Raises:
        ValueError: the critic is an object and there is no tokenizer.
    """
    if tokenizer is None:
        if not isinstance(critic, Named):
            raise ValueError("The critic is a model, so nothing says where its tokenizer is: give tokenizer.")
        tokenizer = critic
    if isinstance(tokenizer, Named):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    return loaded(AutoModelForDistributionalValue, critic, device, dtype), tokenizer


def loaded(auto_class, model, device, dtype):
    """The model itself, or the one of this name."""
    if not isinstance(model, Named):
        return model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return auto_class.from_pretrained(model, dtype=dtype).to(device)
