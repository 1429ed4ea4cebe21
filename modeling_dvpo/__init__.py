"""Distributional critics for LLM post-training, native to Hugging Face."""

import importlib
from pathlib import Path

from .auto import AutoModelForDistributionalValue
from .critic.losses import CriticLossConfig, dvpo_critic_loss
from .critic.modeling_distributional_value import DistributionalValueOutput, distributional_value_class
from .critic.quantile_huber import quantile_huber_loss
from .critic.quantiles import (
    cvar,
    expectation,
    lower_confidence,
    quantile_levels,
    spectral_risk,
    upper_tail_mean,
    value_at_risk,
    wang_risk,
)
from .inference.pipelines import register as _register_pipeline
from .inference.reranking import best_of_n, rerank
from .inference.scoring import score_completions
from .returns import (
    align_to_actions,
    distributional_gae,
    labels_from_returns,
    monte_carlo_returns,
)
from .version import __version__

# In a clone `training/` and `hub_cards/` lie beside this folder, in an installed wheel inside it.
_clone = Path(__file__).resolve().parent.parent
if (_clone / "training" / "train_critic.py").is_file():
    __path__.append(str(_clone))

_register_pipeline()

HUB_NAMES = ("pull_pair", "push_critic", "push_pair")


def __getattr__(name: str):
    # What talks to the Hub is imported when it is asked for: who only loads critics need not wait for it.
    if name in HUB_NAMES:
        return getattr(importlib.import_module("modeling_dvpo.hub"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "__version__",
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
