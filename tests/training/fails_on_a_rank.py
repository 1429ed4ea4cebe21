"""A run whose second rank fails while the first waits for it, at work of its own or in a collective; for tests.

Usage: torchrun --nproc-per-node 2 fails_on_a_rank.py WAITING FAILURE [TIMEOUT]
"""

import sys
import time
from types import SimpleNamespace

import torch
import torch.distributed as dist

from modeling_dvpo.ranks import barrier, rank
from modeling_dvpo.training.engine.distributed import waiting_at_most
from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.script import exit_with_sentence, run_on_ranks

FOREVER = 600


def run(device: torch.device) -> None:
    waiting, failure, *timeout = sys.argv[1:]
    barrier()
    with waiting_at_most(float(timeout[0]) if timeout else FOREVER, FOREVER):
        if rank() == 0:
            time.sleep(FOREVER) if waiting == "at_work" else dist.all_reduce(torch.ones(1))
        elif failure == "sleep":
            time.sleep(FOREVER)
        raise RewardDataError("what is wrong") if failure == "sentence" else ZeroDivisionError("a bug")


if __name__ == "__main__":
    args = SimpleNamespace(output_dir="never_made", resume=False, overwrite_output_dir=False)
    exit_with_sentence(lambda: run_on_ranks(run, args, {}))
