"""Which of the processes that torchrun started this one is; alone, it is rank 0 of 1."""

import torch.distributed as dist

# Seconds that a rank waits for the others before it gives the run up (our choice): ranks load models and score whole
# sets at paces of their own, and step together.
INIT_TIMEOUT = 3600.0
TRAIN_TIMEOUT = 600.0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
