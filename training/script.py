"""What the scripts share: from parsed settings to a run on every rank, and how a run that cannot be ends."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import fields

import torch
from datasets import disable_progress_bars as disable_datasets_bars
from huggingface_hub.utils import disable_progress_bars as disable_hub_bars
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from transformers.utils import logging as transformers_logging

from modeling_dvpo.hub import HubError
from modeling_dvpo.ranks import INIT_TIMEOUT, is_main
from modeling_dvpo.text.problems import DataError

from .engine.distributed import distributed_run
from .errors import ConfigError, RolloutError
from .run.directory import check_run_directory
from .run.tracking import on_terminal

# What is wrong with a run's input; the message is all that its user needs.
INPUT_ERRORS = (ConfigError, DataError, HubError, RolloutError)
# torchrun ends a rank that waits for one that has failed; only where nobody does, it ends by itself, later.
SECONDS_TO_BE_ENDED = 10


def settings_of(*parts) -> dict:
    """Every setting of these dataclasses by name."""
    return {f.name: getattr(part, f.name) for part in parts for f in fields(part) if f.init}


def run_on_ranks(run: Callable[[torch.device], None], args, settings: dict, *, timeout: float = INIT_TIMEOUT) -> None:
    """Call `run` with this rank's device, in a process group where there are several.

    Args:
        args: `output_dir`, `resume`, `overwrite_output_dir`.
        settings: all of the run's, to compare with those of a run to be resumed.
        timeout: seconds that a rank waits for the others, before it gives the run up.
    """
    check_run_directory(args.output_dir, settings, resume=args.resume, overwrite=args.overwrite_output_dir)
    transformers_logging.disable_progress_bar()
    if not on_terminal():
        disable_datasets_bars()
        disable_hub_bars()
    with distributed_run(timeout) as device:
        if not is_main():
            transformers_logging.set_verbosity_error()
        run(device)


def exit_with_sentence(main: Callable[[], None]) -> None:
    """Run `main`; what is wrong with its input ends it with one sentence instead of a traceback.

    Of several ranks each that fails says why, its rank in front of every line, and is gone at once: torchrun then ends
    the others, and says at the end what failed first.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        try:
            main()
        except INPUT_ERRORS as error:
            sys.exit(_reason(error))
        return
    try:
        main()
    except Exception as error:
        consequence = _is_a_consequence(error)
        reason = "a rank that this one waited for has ended; it says why." if consequence else _reason(error)
        sys.stdout.flush()
        sys.stderr.write("".join(f"rank {os.environ['RANK']}: {line}\n" for line in reason.splitlines()))
        sys.stderr.flush()
        if consequence:
            time.sleep(SECONDS_TO_BE_ENDED)
        else:
            get_error_handler().record_exception(error)  # for torchrun to tell
        # an ordinary exit would wait: for threads, and for ranks that will not come
        os._exit(1)


def _is_a_consequence(error: Exception) -> bool:
    """Whether all that is wrong is that another rank has ended."""
    return "gloo" in str(error) and "by peer" in str(error)  # "Connection closed by peer", "Connection reset by peer"


def _reason(error: Exception) -> str:
    if isinstance(error, INPUT_ERRORS):
        return f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    if "gloo" in str(error) and "Timed out" in str(error):
        text += "Other ranks did not come in time. If they are only slow, raise train_timeout, or init_timeout where "
        text += "this was before the second step or between steps."
    return text
