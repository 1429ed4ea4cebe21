"""Resumable checkpoints: trained weights, optimizer, schedule, random state and data position, written atomically.

A checkpoint is written as `step-N.partial` and renamed when every rank is done, so a directory `step-N` is whole.
It is the run's own working state in torch's distributed checkpoint format, for the same script to read; what leaves
the run is safetensors (`save_pretrained`).
"""

import json
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from modeling_dvpo.ranks import (
    barrier,
    is_main,
    rank,
    world_size,
)

CHECKPOINTS = "checkpoints"
# What does not train is read from the checkpoint that the run started from.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def save_checkpoint(output_dir, step: int, learners: dict, progress: dict, *, keep: int) -> None:
    """Write `checkpoints/step-N`, then delete all but the newest `keep`; every rank must call it.

    Args:
        learners: `Learner`s by name.
        progress: JSON-able state of the loop (running means, best metric ...).
    """
    folder = Path(output_dir) / CHECKPOINTS
    target, partial = folder / f"step-{step}", folder / f"step-{step}.partial"
    if is_main():
        for leftover in folder.glob("*.partial"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    barrier()
    with _one_process_is_fine():
        dcp.save({name: _state(learner) for name, learner in learners.items()}, checkpoint_id=partial)
    save_file(_random_state(), partial / f"random-{rank()}.safetensors")
    if is_main():
        schedules = {name: learner.schedule.state_dict() for name, learner in learners.items()}
        skipped = {name: learner.skipped for name, learner in learners.items()}
        state = {"step": step, "world_size": world_size(), "schedules": schedules, "skipped": skipped}
        state["progress"] = progress
        (partial / "progress.json").write_text(json.dumps(state), encoding="utf-8")
    barrier()
    if is_main():
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in list_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
    barrier()


def list_checkpoints(output_dir) -> list[Path]:
    """Whole checkpoints, oldest first."""
    folders = [p for p in (Path(output_dir) / CHECKPOINTS).glob("step-*") if p.suffix != ".partial"]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def load_checkpoint(path: Path, learners: dict) -> dict:
    """Restore weights, optimizers, schedules and random state in place; returns the progress that was saved.

    The number of ranks may differ from the one that saved; the data order does not depend on it, dropout's does.
    """
    state = {name: _state(learner) for name, learner in learners.items()}
    with _one_process_is_fine():
        dcp.load(state, checkpoint_id=path)
    saved = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    for name, learner in learners.items():
        set_state_dict(
            learner.model,
            learner.optimizer,
            model_state_dict=state[name]["model"],
            optim_state_dict=state[name]["optimizer"],
            options=OPTIONS,
        )
        learner.schedule.load_state_dict(saved["schedules"][name])
        learner.skipped = saved["skipped"][name]
    if saved["world_size"] == world_size():
        _restore_random_state(load_file(path / f"random-{rank()}.safetensors"))
    return saved["progress"]


def _state(learner) -> dict[str, dict]:
    model, optimizer = get_state_dict(learner.model, learner.optimizer, options=OPTIONS)
    return {"model": model, "optimizer": optimizer}


@contextmanager
def _one_process_is_fine():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _random_state() -> dict[str, torch.Tensor]:
    # dropout and sampled targets draw from torch; the data order is a function of seed and epoch
    cuda = {f"cuda_{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return {"cpu": torch.get_rng_state(), **cuda}


def _restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state.pop("cpu"))
    for name, device_state in state.items():
        torch.cuda.set_rng_state(device_state, int(name.removeprefix("cuda_")))
