"""A start of train_critic.py that writes what each rank begins with, before weights are shared out; for tests.

Usage: torchrun --nproc-per-node 2 start_on_ranks.py FOLDER FLAGS
"""

import json
import sys
from pathlib import Path

import modeling_dvpo.training.train_critic as script
from modeling_dvpo.ranks import rank
from modeling_dvpo.training.data import row_scores
from modeling_dvpo.training.script import exit_with_sentence
from modeling_dvpo.training.trainers import critic_trainer

if __name__ == "__main__":
    folder, *arguments = sys.argv[1:]
    found: dict = {}
    call, returns_of = row_scores.call_reward_functions, critic_trainer.dataset_returns
    shard = critic_trainer.shard

    def calling(*args, **columns):
        found.setdefault("asked", []).extend(columns["row_ids"])
        return call(*args, **columns)

    def returns_of_set(rows, gamma):
        found.setdefault("returns", []).extend(returns_of(rows, gamma).tolist())
        return returns_of(rows, gamma)

    def sharing(model, device, *, bf16):
        found["units"] = [model.config.return_mean, model.config.return_scale]
        found["heads"] = [model.quantile_heads.weight.tolist(), model.quantile_heads.bias.tolist()]
        (Path(folder) / f"rank-{rank()}.json").write_text(json.dumps(found))
        return shard(model, device, bf16=bf16)

    row_scores.call_reward_functions, critic_trainer.dataset_returns = calling, returns_of_set
    critic_trainer.shard = sharing
    exit_with_sentence(lambda: script.main(arguments))
