"""One micro-batch through the critic: forward, targets, loss. Shared by everything that updates a critic."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from modeling_dvpo.critic.losses import CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.returns import align_to_actions, distributional_gae, monte_carlo_returns

from ..data.packing import RewardCollator

# What of a collated batch goes into the model; the rest is for the targets.
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")
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
    target: str


def critic_quantiles(critic, batch: dict) -> torch.Tensor:
    """Action-aligned quantiles (B, T, N, M), reward units, of a collated batch."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    quantiles = critic(**inputs, use_cache=False).quantiles
    return align_to_actions(quantiles, batch["completion_mask"], batch.get("segment_ids"))


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


def critic_loss(critic, batch: dict, returns_of: Callable, config: CriticLossConfig, *, num_items, shift_gate):
    """Loss of one micro-batch, its terms, and how far it predicts too low.

    Args:
        returns_of: action-aligned quantiles (B, T, N, M) of this forward pass, reward units -> target returns
            (B, T, K), reward units; what it gives is detached.
        num_items: action tokens of the whole optimizer step, over all ranks and micro-batches.
        shift_gate: whether the `shift` term is on, from a running mean over earlier steps; see `dvpo_critic_loss`.

    Returns:
        loss: () with gradient; summed over micro-batches and ranks it is the step's loss.
        terms: dict of (), likewise additive: the loss terms by name, and `underestimation`, the mean of
            target minus predicted value in normalised units.
    """
    quantiles = critic_quantiles(critic, batch)
    returns = returns_of(quantiles)
    predicted, wanted = critic.normalize_returns(quantiles), critic.normalize_returns(returns)
    mask = batch["completion_mask"]
    loss, terms = dvpo_critic_loss(predicted, wanted, mask, config, num_items=num_items, shift_gate=shift_gate)
    gap = wanted.mean(-1) - predicted.detach().mean(dim=(-2, -1))
    return loss, {**terms, "underestimation": (gap * mask).sum() / num_items}


def running_mean(mean: float, value: float, *, memory: float = 0.95) -> float:
    """The mean behind the `shift` gate: remembers about the last 20 steps."""
    return memory * mean + (1 - memory) * value


def dataset_returns(rows, gamma: float) -> torch.Tensor:
    """Monte-Carlo returns of every action token of a tokenised reward set, (tokens,), reward units."""
    collate = RewardCollator(packing=True)
    parts = []
    for start in range(0, len(rows), 1024):
        batch = collate([rows[i] for i in range(start, min(start + 1024, len(rows)))])
        parts.append(monte_carlo_targets(batch, gamma)[batch["completion_mask"]])
    return torch.cat(parts)
