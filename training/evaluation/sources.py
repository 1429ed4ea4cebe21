"""The critics and the policy of an evaluation: found, checked against each other, and told apart by their contents."""

import hashlib
import warnings
from collections.abc import Iterable

from modeling_dvpo.hub.tokenizers import fingerprint_difference, tokenizer_fingerprint
from modeling_dvpo.ranks import is_main

from ..errors import ConfigError
from ..models.critics import load_config_and_tokenizer


def require_critic(config, name: str, key: str) -> None:
    """Raise ConfigError unless this is a critic's config."""
    if not getattr(config, "num_value_heads", None) or not getattr(config, "num_quantiles", None):
        raise ConfigError(
            f"{key} {name} is no critic: its config has no num_value_heads and num_quantiles, so its heads would be "
            "random. Train one with train_critic.py."
        )


def require_scalar(config, name: str) -> None:
    if config.num_quantiles != 1:
        raise ConfigError(
            f"scalar_critic {name} has num_quantiles={config.num_quantiles}: a scalar critic has 1. To compare two "
            "distributional critics, evaluate each."
        )


def require_same_tokenizer(source, tokenizer, critic: str, key: str):
    """Config and tokenizer of another model of the evaluation.

    Args:
        source: with `model_name_or_path` and `revision`.
        tokenizer: the critic's.
        critic: its name.
        key: which setting named the other model.

    Raises:
        ConfigError: it reads other tokens than the critic.
    """
    config, own = load_config_and_tokenizer(source)
    differ = fingerprint_difference(tokenizer_fingerprint(own), tokenizer_fingerprint(tokenizer))
    # begin and end tokens and the chat template may be others: each row is tokenised once, for all its readers
    if differ := [what for what in differ if what in ("vocabulary", "encoding")]:
        raise ConfigError(
            f"{key} {source.model_name_or_path} has another tokenizer than critic {critic} (their "
            f"{' and '.join(differ)} differ), so they would not read the same states: give one of the same family."
        )
    return config, own


def discount(config, gamma: float | None) -> float:
    """The gamma of true returns: as asked for, or the critic's own; warns where what it predicts is something else."""
    trained = getattr(config, "critic_training", None) or {}
    own = trained.get("gamma")
    if is_main():
        if gamma is not None and own is not None and gamma != own:
            warnings.warn(
                f"gamma is {gamma}, and the critic was trained on returns of gamma {own}: leave gamma out to hold it "
                "against what it predicts.",
                stacklevel=2,
            )
        if trained.get("kl_in_reward"):
            warnings.warn(
                "The critic was trained on rewards with a KL penalty in them, and true returns here have none: expect "
                "a bias.",
                stacklevel=2,
            )
    return gamma if gamma is not None else own if own is not None else 1.0


def digest_of_rows(rows: Iterable) -> str:
    """Short name of the contents of rows, whatever they are made of."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()[:16]
