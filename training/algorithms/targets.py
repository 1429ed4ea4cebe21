"""The returns that a critic is trained towards: of a micro-batch, and of a whole reward set."""

from dataclasses import dataclass
from typing import Literal

import torch

from modeling_dvpo.returns import distributional_gae, monte_carlo_returns

from ..data.packing import RewardCollator

RETURNS = ("monte_carlo", "lambda")


@dataclass(kw_only=True)
class Targets:
    """How target returns are made from rewards.

    Attributes:
        returns: "monte_carlo", the return that followed (K = 1), or "lambda", λ-returns through `distributional_gae`
            with the critic's own detached quantiles (K = M).
        gamma, lam, target: of `distributional_gae`; `lam` and `target` matter to λ-returns only.
    """

    returns: str
    gamma: float
    lam: float
    target: Literal["index", "sampled"]


def monte_carlo_targets(batch: dict, gamma: float) -> torch.Tensor:
    """The return that followed each action token of a collated batch, (B, T), reward units."""
    return monte_carlo_returns(
        batch["rewards"], batch["completion_mask"], gamma=gamma, segment_ids=batch.get("segment_ids")
    )


def target_returns(batch: dict, quantiles: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Action-aligned target returns (B, T, K) of a collated batch; detached.

    Every completion counts as ended: a truncated one has its reward on its last token and bootstraps from nothing.
    """
    if targets.returns == "monte_carlo":
        return monte_carlo_targets(batch, targets.gamma)[..., None]
    ensemble = quantiles.detach().mean(dim=-2)
    _, returns = distributional_gae(
        batch["rewards"],
        ensemble,
        batch["completion_mask"],
        gamma=targets.gamma,
        lam=targets.lam,
        segment_ids=batch.get("segment_ids"),
        target=targets.target,
    )
    return returns


def dataset_returns(rows, gamma: float) -> torch.Tensor:
    """Monte-Carlo returns of every action token of a tokenised reward set, (tokens,), reward units."""
    collate = RewardCollator(packing=True)
    parts = []
    for start in range(0, len(rows), 1024):
        batch = collate([rows[i] for i in range(start, min(start + 1024, len(rows)))])
        parts.append(monte_carlo_targets(batch, gamma)[batch["completion_mask"]])
    return torch.cat(parts)
