"""Directories that are whole or not there."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from .ranks import barrier, is_main, world_size

PARTIAL = ".partial"


def write_whole(directory, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside `directory`, then put it in that one's place; every rank must call it."""
    directory = Path(directory)
    partial, old = directory.with_name(directory.name + PARTIAL), directory.with_name(directory.name + ".old")
    if is_main():
        shutil.rmtree(partial, ignore_errors=True)
    barrier()
    write(partial)
    barrier()
    if is_main():
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            os.rename(directory, old)
        os.rename(partial, directory)
        shutil.rmtree(old, ignore_errors=True)
    barrier()


def save_language_model(model: PreTrainedModel, directory: Path) -> None:
    """`save_pretrained`, sharded or not: the weights are gathered and rank 0 writes; every rank must call it."""
    if world_size() == 1:
        model.save_pretrained(directory)
        return
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if is_main():
        sharded = type(model)
        # FSDP2 swaps the class for one of its own, whose name must not get into the config
        model.__class__ = next(c for c in sharded.__mro__[1:] if not c.__name__.startswith("FSDP"))
        try:
            model.save_pretrained(directory, state_dict=weights)
        finally:
            model.__class__ = sharded


def without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """None for what is undefined, since JSON has no NaN and the Hub rejects a config that does."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
