"""Run by two ranks: shard tiny critics with FSDP2, then save and push them; every rank makes every call.

Usage: torchrun --nproc-per-node 2 save_fully_sharded.py DIRECTORY

DIRECTORY holds `base`, an LM; the script writes `plain`, `sharded`, `hub-0/critic` and `adapter`, and what the adapted
critic predicts before it is sharded to `adapted.safetensors`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig
from safetensors.torch import save_file
from tiny_critics import FakeHub, stir_heads, tiny_batch, tiny_critic
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from modeling_dvpo import AutoModelForDistributionalValue


def shard(critic):
    for layer in critic.base_model.layers:
        fully_shard(layer)
    fully_shard(critic.quantile_heads)
    fully_shard(critic)
    assert all(isinstance(parameter, DTensor) for parameter in critic.parameters())
    return critic


def adapted_critic(base):
    torch.manual_seed(0)  # the same on every rank
    critic = AutoModelForDistributionalValue.from_pretrained(base, num_quantiles=5)
    stir_heads(critic)
    critic.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["quantile_heads"]))
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return critic.eval()


def main(directory: Path) -> None:
    dist.init_process_group("gloo")
    critic = shard(tiny_critic())
    critic(tiny_batch())
    critic.save_pretrained(directory / "plain")
    assert type(critic).__name__.startswith("FSDP")  # saving leaves the class as it was
    critic.save_pretrained(directory / "sharded", max_shard_size="20KB")

    FakeHub(directory / f"hub-{dist.get_rank()}").install()
    pushed = critic.push_to_hub("critic")
    assert pushed == ("critic" if dist.get_rank() == 0 else None)

    critic = adapted_critic(directory / "base")
    if dist.get_rank() == 0:
        save_file({"quantiles": critic(tiny_batch()).quantiles.detach()}, directory / "adapted.safetensors")
    shard(critic).save_pretrained(directory / "adapter")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
