"""Distributional critics for LLM post-training, native to Hugging Face."""

import importlib

from .advantages import align_to_actions, distributional_gae, labels_from_returns, monte_carlo_returns
from .auto import AutoModelForDistributionalValue
from .losses import CriticLossConfig, dvpo_critic_loss
from .modeling_distributional_value import DistributionalValueOutput, distributional_value_class
from .pipelines import register as _register_pipeline
from .quantile_huber import quantile_huber_loss
from .quantiles import (
    cvar,
    expectation,
    lower_confidence,
    quantile_levels,
    spectral_risk,
    upper_tail_mean,
    value_at_risk,
    wang_risk,
)
from .reranking import best_of_n, rerank
from .scoring import score_completions

_register_pipeline()

__version__ = "0.1.0"

HUB_NAMES = ("pull_pair", "push_critic", "push_pair")


def __getattr__(name: str):
    # What talks to the Hub is imported when it is asked for: who only loads critics need not wait for it.
    if name in HUB_NAMES:
        return getattr(importlib.import_module("modeling_dvpo.hub"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AutoModelForDistributionalValue",
    "CriticLossConfig",
    "DistributionalValueOutput",
    "align_to_actions",
    "best_of_n",
    "cvar",
    "distributional_gae",
    "distributional_value_class",
    "dvpo_critic_loss",
    "expectation",
    "labels_from_returns",
    "lower_confidence",
    "monte_carlo_returns",
    "pull_pair",
    "push_critic",
    "push_pair",
    "quantile_huber_loss",
    "quantile_levels",
    "rerank",
    "score_completions",
    "spectral_risk",
    "upper_tail_mean",
    "value_at_risk",
    "wang_risk",
]
