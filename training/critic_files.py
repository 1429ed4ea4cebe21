"""From a name to the critic to train, and from the trained critic to a directory that says how it was made."""

import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

import modeling_dvpo
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.critic_loading import HEAD_SETTINGS
from modeling_dvpo.training.config import ConfigError
from modeling_dvpo.training.critic_step import monte_carlo_targets
from modeling_dvpo.training.distributed import is_main
from modeling_dvpo.training.packing import RewardCollator
from modeling_dvpo.training.saving import write_whole
from modeling_dvpo.training.tracking import without_nan

# What a critic's values mean; a critic that goes on under another meaning has to unlearn.
MEANING = ("gamma", "lam", "returns", "target", "kl_in_reward", "reward_source")


def load_config_and_tokenizer(args):
    """Of the checkpoint to start from; a critic's or adapter's config has its head settings.

    Raises:
        ConfigError: one of them cannot be read.
    """
    name = args.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name, revision=args.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name_or_path: {name} has no config that transformers can read. {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=args.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} has no tokenizer that can be read: save one beside the model. {error}") from error
    # where there are no files, some families get a tokenizer without a vocabulary instead of an error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ConfigError(f"{name} has no tokenizer files: save the model's tokenizer beside it.")
    return config, tokenizer


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
            "modeling_dvpo": modeling_dvpo.__version__,
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


def save_critic(critic, tokenizer, directory, *, step: int, report: dict | None) -> None:
    """Write weights, config, code and tokenizer to `directory`, whole or not at all; every rank must call it.

    Args:
        report: held-out metrics of these weights, kept in the config.
    """
    evaluation = without_nan(report) if report else None
    critic.config.critic_training = {**critic.config.critic_training, "step": step, "evaluation": evaluation}

    def write(partial: Path) -> None:
        critic.save_pretrained(partial)
        if is_main():
            tokenizer.save_pretrained(partial)

    write_whole(directory, write)
