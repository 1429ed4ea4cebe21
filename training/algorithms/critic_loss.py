"""One micro-batch through the critic: forward and loss. Shared by everything that updates a critic."""

from collections.abc import Callable

import torch

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.returns import align_to_actions


def model_inputs(batch: dict) -> dict:
    """What of a collated batch goes into a model; the rest is for targets and advantages."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def critic_quantiles(critic, batch: dict) -> torch.Tensor:
    """Action-aligned quantiles (B, T, N, M), reward units, of a collated batch."""
    quantiles = critic(**model_inputs(batch), use_cache=False).quantiles
    return align_to_actions(quantiles, batch["completion_mask"], batch.get("segment_ids"))


def critic_loss(
    critic, batch: dict, returns_of: Callable, config: CriticLossConfig, *, num_items, shift_gate, bootstrap=True
):
    """Loss of one micro-batch, its terms, and how far it predicts too low.

    Args:
        returns_of: action-aligned quantiles (B, T, N, M) of this forward pass, reward units -> target returns
            (B, T, K), reward units; what it gives is detached.
        num_items: action tokens of the whole optimizer step, over all ranks and micro-batches.
        shift_gate: whether the `shift` term is on, from a running mean over earlier steps; see `dvpo_critic_loss`.
        bootstrap: whether `returns_of` looks at the quantiles; without, it may be given None.

    Returns:
        loss: () with gradient; summed over micro-batches and ranks it is the step's loss.
        terms: dict of (), likewise additive: what `value_loss` gives, and `underestimation`, the mean of
            target minus predicted value in normalised units.
    """
    output = critic(**model_inputs(batch), use_cache=False, output_quantiles=bootstrap)
    mask, segments = batch["completion_mask"], batch.get("segment_ids")
    quantiles, logits = (
        None if found is None else align_to_actions(found, mask, segments)
        for found in (output.quantiles, output.logits)
    )
    values = align_to_actions(output.value.detach(), mask, segments)
    returns = returns_of(quantiles)
    loss, terms = critic.value_loss(
        quantiles, logits, returns, mask, config, num_items=num_items, shift_gate=shift_gate
    )
    gap = (returns.mean(-1) - values) / critic.config.return_scale
    return loss, {**terms, "underestimation": (gap * mask).sum() / num_items}


def running_mean(mean: float, value: float, *, memory: float = 0.95) -> float:
    """The mean behind the `shift` gate: remembers about the last 20 steps."""
    return memory * mean + (1 - memory) * value
