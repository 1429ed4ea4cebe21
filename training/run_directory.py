"""A run's directory: never two runs in one, and resumed only with the settings it was started with."""

import json
import shutil
from pathlib import Path

from modeling_dvpo.training.config import ConfigError
from modeling_dvpo.training.distributed import is_main

RUN_FILE = "run.json"
# Settings that may differ when a run goes on: they change no number of its curve.
FREE_TO_CHANGE = {
    "resume", "overwrite_output_dir", "output_dir", "report_to", "save_steps", "save_total_limit", "num_workers",
    "max_tokens_per_device", "gradient_checkpointing",
}  # fmt: skip


def open_run_directory(output_dir, settings: dict, *, resume: bool, overwrite: bool) -> None:
    """Make the directory and write `run.json`, or check that the run there is this one.

    Raises:
        ConfigError: the directory holds something and neither `resume` nor `overwrite` was given; or the run to be
            resumed had other settings.
    """
    folder = Path(output_dir)
    run_file = folder / RUN_FILE
    if resume and overwrite:
        raise ConfigError("resume and overwrite_output_dir exclude each other.")
    if overwrite and is_main():
        # only what a run wrote: a mistyped directory is not emptied
        if folder.exists() and any(folder.iterdir()) and not run_file.exists():
            raise ConfigError(f"{folder} holds files but no {RUN_FILE}, so it is no run's; it is not overwritten.")
        shutil.rmtree(folder, ignore_errors=True)
    if resume and run_file.exists():
        started = json.loads(run_file.read_text())
        changed = [
            f"{name} (was {started.get(name)!r}, is {settings[name]!r})"
            for name in settings
            if name not in FREE_TO_CHANGE and started.get(name) != settings[name]
        ]
        if changed:
            raise ConfigError(f"{folder} was started with other settings: {'; '.join(changed)}. Change them back.")
        return
    if is_main():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty. Choose another output_dir, --resume to go on with the run there, or "
                "--overwrite_output_dir to delete it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        run_file.write_text(json.dumps(settings, indent=1, sort_keys=True))
