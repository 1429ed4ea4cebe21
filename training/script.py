"""What the three scripts share: from parsed settings to a run on every rank, and how a run that cannot be ends."""

import os
import sys
from collections.abc import Callable
from dataclasses import fields

import torch
from datasets import disable_progress_bars as disable_datasets_bars
from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
from transformers.utils import logging as transformers_logging

from modeling_dvpo.hub import HubError
from modeling_dvpo.ranks import is_main
from modeling_dvpo.text.problems import DataError

from .engine.distributed import distributed_run
from .errors import ConfigError, RolloutError
from .run.directory import check_run_directory
from .run.tracking import on_terminal


def settings_of(*parts) -> dict:
    """Every setting of these dataclasses by name."""
    return {f.name: getattr(part, f.name) for part in parts for f in fields(part) if f.init}


def run_on_ranks(run: Callable[[torch.device], None], args, settings: dict) -> None:
    """Call `run` with this rank's device, in a process group where there are several.

    Args:
        args: `output_dir`, `resume`, `overwrite_output_dir`.
        settings: all of the run's, to compare with those of a run to be resumed.
    """
    check_run_directory(args.output_dir, settings, resume=args.resume, overwrite=args.overwrite_output_dir)
    transformers_logging.disable_progress_bar()
    if not on_terminal():
        disable_datasets_bars()
        disable_hub_bars()
    with distributed_run() as device:
        if not is_main():
            transformers_logging.set_verbosity_error()
        run(device)


def exit_with_sentence(main: Callable[[], None]) -> None:
    """Run `main`; what is wrong with its input ends it with one sentence instead of a traceback."""
    try:
        main()
    except (ConfigError, DataError, HubError, RolloutError) as error:
        # every rank finds the same error; one says so
        sys.exit(f"{type(error).__name__}: {error}" if os.environ.get("RANK", "0") == "0" else 1)
