"""What a saved critic keeps of how it was made, and warnings where it goes on as something else."""

import os
import sys
import warnings

import torch
import transformers
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from modeling_dvpo.ranks import is_main
from modeling_dvpo.version import __version__

# What a critic's values mean; a critic that goes on under another meaning has to unlearn.
MEANING = ("gamma", "lam", "returns", "target", "kl_in_reward", "reward_source", "reward_weights")


def offline_record(settings: dict, returns: torch.Tensor, *, training_rows: int) -> dict:
    """What a critic of train_critic.py keeps in its config; see `_record`."""
    monte_carlo = settings["returns"] == "monte_carlo"
    return {
        **_record(settings, returns, parent=settings["model_name_or_path"], revision=settings["revision"]),
        **_meaning(monte_carlo, lam=1.0 if monte_carlo else settings["lam"], target=settings["target"]),
        "kl_in_reward": False,
        **_offline_source(settings),
        "training_rows": training_rows,
        "trainable": settings["trainable"],
        "learning_rate": settings["learning_rate"],
        "rows_per_step": settings["rows_per_step"],
    }


def online_record(settings: dict, returns: torch.Tensor) -> dict:
    """What a critic of train_dvpo.py keeps in its config; see `_record`."""
    own, monte_carlo = settings["critic"], settings["critic_lam"] == 1 and not settings["bootstrap_truncated"]
    parent, revision = (own, "critic_revision") if own else (settings["model_name_or_path"], "revision")
    return {
        **_record(settings, returns, parent=parent, revision=settings[revision]),
        **_meaning(monte_carlo, lam=settings["critic_lam"], target=settings["critic_target"]),
        "policy": settings["model_name_or_path"],
        "algorithm": settings["algorithm"],
        "kl_in_reward": settings["kl"] == "reward" and settings["kl_coef"] > 0,
        **_source(settings["reward_funcs"], settings["reward_weights"]),
        "reward_noise": settings["reward_noise"],
        "trainable": settings["critic_trainable"],
        "learning_rate": settings["critic_learning_rate"],
    }


def _record(settings: dict, returns: torch.Tensor, *, parent: str, revision: str | None) -> dict:
    """What its values mean, and how they came about: the part that is the same for every critic.

    Args:
        settings: all of the run's, by name.
        returns: of the training set, or of the first completions; any shape.
        parent, revision: the checkpoint it started from.
    """
    # the commit that a Hub model was loaded from; a directory has none
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}  # a GGUF file has its own config
    file = settings["gguf_file"] if parent == settings["model_name_or_path"] else None
    commit = extract_commit_hash(cached_file(parent, file or CONFIG_NAME, **options), None)
    names = ("gamma", "dataset", "dataset_config", "dataset_split", "heads_learning_rate", "seed")
    return {
        "parent": parent,
        "parent_revision": commit or revision,
        "return_range": [returns.min().item(), returns.max().item()],
        **{name: settings[name] for name in names},
        "versions": versions(),
    }


def _meaning(monte_carlo: bool, *, lam: float, target: str) -> dict:
    return {
        "returns": "monte_carlo" if monte_carlo else "lambda",
        "lam": lam,
        "target": None if monte_carlo else target,
    }


def _source(names: list[str], weights: list[float]) -> dict:
    """What gave the rewards, in the same words whoever asks: a function's two spellings are one."""
    return {
        "reward_source": [_function_name(name) for name in names],
        "reward_weights": list(weights) or [1.0] * len(names),
    }


def _offline_source(settings: dict) -> dict:
    if settings["reward_funcs"]:
        return _source(settings["reward_funcs"], settings["reward_weights"])
    if settings["reward_source"]:
        return {"reward_source": [_function_name(name) for name in settings["reward_source"]]}
    return {"reward_source": f"column {settings['reward_column']!r}"}


def _function_name(name: str) -> str:
    """`package.module.function` as `package.module:function`; a reward model keeps its name."""
    if ":" in name or "/" in name or "." not in name or os.path.isdir(name):
        return name
    return ":".join(name.rsplit(".", 1))


def warn_of_other_meaning(parent_config, record: dict) -> None:
    """Warn, by name, where a loaded critic's values mean something else than this run's will."""
    before = getattr(parent_config, "critic_training", None) or {}
    changed = [
        f"{name} was {before[name]!r} and is {record[name]!r}"
        for name in MEANING
        if name in before and before[name] != record[name]
    ]
    if changed and is_main():
        unknown = isinstance(before.get("reward_source"), str) and isinstance(record["reward_source"], list)
        advice = " If these functions made that column, say so when the critic is trained: reward_source." * unknown
        warnings.warn(
            f"{record['parent']} was trained on other returns: {'; '.join(changed)}. Its values start from the old "
            f"meaning; that is fine if you intend them to change.{advice}",
            stacklevel=2,
        )


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
    """Of what computed the numbers."""
    return {
        "modeling_dvpo": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
