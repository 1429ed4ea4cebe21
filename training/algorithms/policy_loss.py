"""One micro-batch through the policy: log-probabilities of what was emitted, and the clipped loss."""

import inspect

import torch
from torch import Tensor, nn

from .critic_loss import model_inputs

ENTROPY_CHUNK = 1024  # action tokens
# Log-ratios beyond ±20 count as ±20 (our choice): e^89 overflows float32, and a token that far off teaches nothing.
LOG_RATIO_BOUND = 20.0


def action_log_probs(
    policy: nn.Module, batch: dict, temperature: float, *, with_entropy: bool = False, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each action token under the distribution it was sampled from, logits / temperature.

    Logits are computed for the states before actions only; of padded rows, wherever any of them acts.

    Args:
        batch: a collated batch.
        with_entropy: whether to compute each state's entropy too; with a gradient if `entropy_gradient`.

    Returns:
        log_probs (B, T) float32, action-aligned, 0 outside the mask; entropy likewise, or None.
    """
    mask, input_ids = batch["completion_mask"], batch["input_ids"]
    inputs = model_inputs(batch)
    emitted = mask.any(0).nonzero()[:, 0]
    if not len(emitted):  # a filler: one state, for the sake of the graph
        emitted = torch.ones(1, dtype=torch.long, device=mask.device)
    states = emitted - 1
    if "logits_to_keep" in inspect.signature(policy.forward).parameters:
        logits = policy(**inputs, use_cache=False, logits_to_keep=states).logits
    else:
        logits = policy(**inputs, use_cache=False).logits[:, states]
    kept = mask[:, emitted]
    logits, tokens = logits[kept].float() / temperature, input_ids[:, emitted][kept]
    normalizer = logits.logsumexp(-1)
    log_probs = logits.gather(-1, tokens[:, None])[:, 0] - normalizer
    entropy = None
    if with_entropy:
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            # in parts, since a distribution over the vocabulary takes as much memory as the logits
            parts = zip(logits.split(ENTROPY_CHUNK), normalizer.split(ENTROPY_CHUNK), strict=True)
            entropies = [n - ((part - n[:, None]).exp() * part).sum(-1) for part, n in parts]
            entropy = _at_actions(torch.cat(entropies), mask)
    return _at_actions(log_probs, mask), entropy


def _at_actions(values: Tensor, mask: Tensor) -> Tensor:
    """(actions,) -> (B, T)."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)


def token_weights(
    batch: dict, aggregation: str, *, num_tokens: float, num_sequences: float, max_completion_length: int
) -> Tensor:
    """Weight of each action token's loss, (B, T); over all micro-batches and ranks of an update they make the average.

    - "token": 1 / action tokens of the update (PPO, REINFORCE++, DVPO).
    - "sequence": 1 / (sequences · the sequence's action tokens): every completion counts the same (GRPO).
    - "constant": 1 / (sequences · max_completion_length): no completion's tokens count more for its being short
      (Dr. GRPO).
    """
    mask = batch["completion_mask"]
    if aggregation == "token":
        return mask / num_tokens
    if aggregation == "sequence":
        return mask / batch["lengths"].clamp(min=1) / num_sequences
    return mask / (num_sequences * max_completion_length)


def log_ratio(log_probs: Tensor, other: Tensor) -> Tensor:
    """log π - log π', between -LOG_RATIO_BOUND and LOG_RATIO_BOUND; beyond them it has no gradient. NaN stays NaN."""
    return (log_probs - other).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """k3 = e^{-x} - 1 + x, x = log π - log π_ref bounded by `log_ratio`: KL(π || π_ref) in expectation under π, never
    negative (Schulman, 2020; the loss term of GRPO, arXiv:2402.03300, eq. 4)."""
    difference = log_ratio(reference_log_probs, log_probs)
    return difference.exp() - 1 - difference


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_log_probs: Tensor | None = None,
    kl_coef: float = 0.0,
    entropy: Tensor | None = None,
    entropy_coef: float = 0.0,
) -> Tensor:
    """Σ weight · [-min(ρ A, clip(ρ, 1 - clip_low, 1 + clip_high) A) + kl_coef · k3 - entropy_coef · H], ρ = π / π_old.

    PPO's clipped objective (arXiv:1707.06347, eq. 7), log ρ bounded by `log_ratio`; clip_high > clip_low is DAPO's
    clip-higher (arXiv:2503.14476).

    Args:
        log_probs, old_log_probs, advantages, weights, reference_log_probs, entropy: (B, T), action-aligned. Where
            weights are 0 nothing else matters.

    Returns:
        () with gradient through log_probs and entropy.
    """
    ratio = log_ratio(log_probs, old_log_probs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token = -torch.minimum(ratio * advantages, clipped * advantages)
    if reference_log_probs is not None and kl_coef:
        per_token = per_token + kl_coef * kl_estimate(log_probs, reference_log_probs)
    if entropy is not None and entropy_coef:
        per_token = per_token - entropy_coef * entropy
    return (per_token * weights).sum()


@torch.no_grad()
def policy_metrics(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    num_tokens: float,
    reference_log_probs: Tensor | None = None,
    entropy: Tensor | None = None,
) -> dict[str, Tensor]:
    """This micro-batch's share of the update's means over action tokens; they add up.

    `ratio`, `clip_fraction` (tokens whose gradient the clip has taken away), `policy_change` (k3 of
    KL(π_old || π)), `kl` (k3 against the reference) and `entropy` in nats.
    """
    ratio = log_ratio(log_probs, old_log_probs).exp()
    clipped = ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))
    change = kl_estimate(old_log_probs, log_probs)
    per_token = {"ratio": ratio, "clip_fraction": clipped.float(), "policy_change": change}
    if reference_log_probs is not None:
        per_token["kl"] = kl_estimate(log_probs, reference_log_probs)
    if entropy is not None:
        per_token["entropy"] = entropy
    return {name: (value * mask).sum() / num_tokens for name, value in per_token.items()}
