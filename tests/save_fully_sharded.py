"""Run by two ranks: shard a tiny critic with FSDP2, train nothing, save it; every rank calls `save_pretrained`.

Usage: torchrun --nproc-per-node 2 save_fully_sharded.py OUTPUT_DIRECTORY
"""

import sys
from pathlib import Path

import torch.distributed as dist
from tiny_critics import tiny_batch, tiny_critic
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def main(output: Path) -> None:
    dist.init_process_group("gloo")
    critic = tiny_critic()
    for layer in critic.base_model.layers:
        fully_shard(layer)
    fully_shard(critic.quantile_heads)
    fully_shard(critic)
    assert all(isinstance(parameter, DTensor) for parameter in critic.parameters())
    critic(tiny_batch())
    critic.save_pretrained(output / "plain")
    assert type(critic).__name__.startswith("FSDP")  # saving leaves the class as it was
    critic.save_pretrained(output / "sharded", max_shard_size="20KB")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
