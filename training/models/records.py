"""What a saved model keeps of how it was made."""

import sys
import warnings

import torch
import transformers
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from modeling_dvpo.ranks import is_main
from modeling_dvpo.version import __version__

# What a critic's values mean; a critic that goes on under another meaning has to unlearn.
MEANING = ("gamma", "lam", "returns", "target", "kl_in_reward", "reward_source")


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit that a Hub model was loaded from; None for a directory."""
    return extract_commit_hash(cached_file(name, CONFIG_NAME, revision=revision), None)


def training_record(critic_args, data_args, args, returns: torch.Tensor, rows) -> dict:
    """What the critic's config keeps of its training: what its values mean, and how they came about."""
    return {
        "parent": critic_args.model_name_or_path,
        "parent_revision": commit_of(critic_args.model_name_or_path, critic_args.revision) or critic_args.revision,
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
            "modeling_dvpo": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
    }


def warn_of_other_meaning(parent_config, record: dict) -> None:
    """Warn, by name, where a loaded critic's values mean something else than this run's will."""
    before = getattr(parent_config, "critic_training", None) or {}
    changed = [
        f"{name} was {before[name]!r} and is {record[name]!r}"
        for name in MEANING
        if name in before and before[name] != record[name]
    ]
    if changed and is_main():
        warnings.warn(
            f"{record['parent']} was trained on other returns: {'; '.join(changed)}. Its values start from the old "
            "meaning; that is fine if you intend them to change.",
            stacklevel=2,
        )


def critic_record(settings: dict, returns: torch.Tensor) -> dict:
    """What the critic's config keeps of its training: what its values mean, and how they came about."""
    monte_carlo = settings["critic_lam"] == 1 and not settings["bootstrap_truncated"]
    return {
        "parent": settings["critic"] or settings["model_name_or_path"],
        "parent_revision": settings["critic_revision"] if settings["critic"] else settings["revision"],
        "policy": settings["model_name_or_path"],
        "algorithm": settings["algorithm"],
        "gamma": settings["gamma"],
        "lam": settings["critic_lam"],
        "returns": "monte_carlo" if monte_carlo else "lambda",
        "target": None if monte_carlo else settings["critic_target"],
        "kl_in_reward": settings["kl"] == "reward" and settings["kl_coef"] > 0,
        "reward_source": settings["reward_funcs"],
        "reward_noise": settings["reward_noise"],
        "return_range": [returns.min().item(), returns.max().item()],
        "dataset": settings["dataset"],
        "dataset_config": settings["dataset_config"],
        "dataset_split": settings["dataset_split"],
        "trainable": settings["critic_trainable"],
        "learning_rate": settings["critic_learning_rate"],
        "heads_learning_rate": settings["heads_learning_rate"],
        "seed": settings["seed"],
        "versions": versions(),
    }


def warn_of_other_critic(parent_config, record: dict) -> None:
    """Warn, by name, where a loaded critic's values mean something else than this run's; see `MEANING`."""
    warn_of_other_meaning(parent_config, record)
    before = (getattr(parent_config, "critic_training", None) or {}).get("return_range")
    now = record["return_range"]
    if before and is_main() and (now[0] < before[0] or now[1] > before[1]):
        warnings.warn(
            f"{record['parent']} was trained on returns from {before[0]:.4g} to {before[1]:.4g}, and the first "
            f"completions have {now[0]:.4g} to {now[1]:.4g}: return_range differs. Its values may be off until it has "
            "learnt.",
            stacklevel=2,
        )


def versions() -> dict[str, str]:
    return {
        "modeling_dvpo": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
