"""A run's directory: never two runs in one, and resumed only with the settings it was started with.

A directory belongs to a run once step 1 is done. What fails before that, bad data or too little memory, leaves the
directory as it was, so the next try needs no clean-up.
"""

import json
import shutil
from pathlib import Path

from modeling_dvpo.ranks import is_main

from ..errors import ConfigError

RUN_FILE = "run.json"
# Settings that may differ when a run goes on: they change no number of its curve.
FREE_TO_CHANGE = {
    "resume", "overwrite_output_dir", "output_dir", "report_to", "logging_steps", "save_steps", "save_total_limit",
    "push_to", "push_every", "push_private", "num_workers", "max_tokens_per_device", "gradient_checkpointing",
    "max_skipped_updates", "init_timeout", "train_timeout",
}  # fmt: skip


def check_run_directory(output_dir, settings: dict, *, resume: bool, overwrite: bool) -> None:
    """Refuse a directory that this run must not write to; changes nothing.

    Raises:
        ConfigError: the directory holds something and neither `resume` nor `overwrite` was given; what it holds is
            no run; or the run to be resumed had other settings.
    """
    folder = Path(output_dir)
    if resume and overwrite:
        raise ConfigError("resume and overwrite_output_dir exclude each other.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir {folder} is a file.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / RUN_FILE).exists():
        # a mistyped directory is neither filled nor emptied
        raise ConfigError(f"{folder} holds files but no {RUN_FILE}, so it is no run's. Choose another output_dir.")
    if resume:
        started = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        changed = [
            f"{name} (was {started.get(name)!r}, is {settings[name]!r})"
            for name in settings
            if name not in FREE_TO_CHANGE and started.get(name) != settings[name]
        ]
        if changed:
            raise ConfigError(f"{folder} was started with other settings: {'; '.join(changed)}. Change them back.")
    elif not overwrite:
        raise ConfigError(
            f"{folder} holds another run. Choose another output_dir, --resume to go on with that run, or "
            "--overwrite_output_dir to delete it."
        )


def claim_run_directory(output_dir, settings: dict, *, resume: bool, overwrite: bool) -> None:
    """Make the directory this run's, as `check_run_directory` has allowed: write `run.json`."""
    folder = Path(output_dir)
    if not is_main() or (resume and (folder / RUN_FILE).exists()):
        return
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RUN_FILE).open(
        "x", encoding="utf-8"
    ) as file:  # x: of two runs started side by side, the second fails here
        json.dump(settings, file, indent=1, sort_keys=True)
