"""From a name to the critic to train, and from the trained critic to a directory that says how it was made."""

import os
import shutil
import sys
from pathlib import Path

import torch
import transformers
from modeling_dvpo.training.critic_step import monte_carlo_targets
from modeling_dvpo.training.distributed import barrier, is_main
from modeling_dvpo.training.packing import RewardCollator
from transformers import AutoConfig

import modeling_dvpo
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.modeling_distributional_value import HEAD_SETTINGS

PARTIAL = ".partial"


def load_config(args):
    """Config of the checkpoint to start from; a critic's or adapter's has its head settings."""
    return AutoConfig.from_pretrained(args.model_name_or_path, revision=args.revision)


def load_critic(args):
    """The critic to train, float32, on the CPU; heads are fresh unless the checkpoint is a critic."""
    settings = {name: getattr(args, name) for name in HEAD_SETTINGS if getattr(args, name) is not None}
    if args.attn_implementation:
        settings["attn_implementation"] = args.attn_implementation
    # Master weights are float32: bfloat16 ones lose updates of 1e-6.
    return AutoModelForDistributionalValue.from_pretrained(
        args.model_name_or_path, revision=args.revision, dtype=torch.float32, **settings
    )


def dataset_returns(rows, gamma: float) -> torch.Tensor:
    """Monte-Carlo returns of every action token of a tokenised reward set, (tokens,), reward units."""
    collate = RewardCollator(packing=True)
    parts = []
    for start in range(0, len(rows), 1024):
        batch = collate([rows[i] for i in range(start, min(start + 1024, len(rows)))])
        parts.append(monte_carlo_targets(batch, gamma)[batch["completion_mask"]])
    return torch.cat(parts)


def training_record(critic_args, data_args, args, returns: torch.Tensor, rows) -> dict:
    """What the critic's config keeps of its training: what its values mean, and how they came about."""
    return {
        "parent": critic_args.model_name_or_path,
        "parent_revision": critic_args.revision,
        "gamma": args.gamma,
        "lam": args.lam if args.returns == "lambda" else 1.0,
        "returns": args.returns,
        "target": args.target if args.returns == "lambda" else None,
        "kl_in_reward": False,
        "reward_source": data_args.reward_funcs or f"column {data_args.reward_column!r}",
        "return_range": [returns.min().item(), returns.max().item()],
        "dataset": data_args.dataset,
        "dataset_config": data_args.dataset_config,
        "dataset_split": data_args.dataset_split,
        "training_rows": len(rows),
        "trainable": critic_args.trainable,
        "learning_rate": args.learning_rate,
        "heads_learning_rate": args.heads_learning_rate,
        "rows_per_step": args.rows_per_step,
        "seed": args.seed,
        "versions": {
            "modeling_dvpo": modeling_dvpo.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
    }


def save_critic(critic, tokenizer, directory, *, step: int, report: dict | None) -> None:
    """Write weights, config, code and tokenizer to `directory`, whole or not at all; every rank must call it.

    Args:
        report: held-out metrics of these weights, kept in the config.
    """
    directory = Path(directory)
    partial = directory.with_name(directory.name + PARTIAL)
    critic.config.critic_training = {**critic.config.critic_training, "step": step, "evaluation": report}
    if is_main():
        shutil.rmtree(partial, ignore_errors=True)
    barrier()
    critic.save_pretrained(partial)
    if is_main():
        tokenizer.save_pretrained(partial)
        old = directory.with_name(directory.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            os.rename(directory, old)
        os.rename(partial, directory)
        shutil.rmtree(old, ignore_errors=True)
    barrier()
