"""What the algorithms differ in: where advantages come from, how a loss is averaged, where the KL penalty goes.

Everything else, rollouts, rewards, ratio and clipping, is one piece of code for all of them. docs/paper_index.md has
the papers' equations and hyper-parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from modeling_dvpo.critic.quantiles import expectation
from modeling_dvpo.returns import distributional_gae, monte_carlo_returns


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One row of docs/paper_index.md; `None` in a run's settings means what stands here."""

    advantages: Literal["critic", "group", "return"]
    """From a critic through GAE; from the other completions of the prompt; or the return itself."""
    heads: tuple[int, int] = (0, 0)
    """(N, M) of a fresh critic's heads; M = 1 is a scalar critic; (0, 0) where there is none."""
    critic_loss: dict = field(default_factory=dict)
    """Settings of `CriticLossConfig` that the algorithm itself asks for."""
    pessimistic: bool = False
    """Whether the worst head's value stands in for the mean in δ's next state; see `critic_advantages`."""
    standardize: bool = False
    """Group advantages: whether to divide by the group's standard deviation."""
    whiten: bool = False
    """Whether advantages are brought to mean 0 and deviation 1 over the step's action tokens."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """How token losses are averaged; see `policy_loss.token_weights`."""
    kl: Literal["loss", "reward"] = "loss"
    """Where the KL penalty goes."""


ALGORITHMS = {
    # arXiv:2512.03847
    "dvpo": Algorithm(advantages="critic", heads=(3, 200), whiten=True),
    # arXiv:1707.06347, with a value head of its own body
    "ppo": Algorithm(advantages="critic", heads=(1, 1), whiten=True),
    # the baseline of arXiv:2512.03847, as defined in docs/paper_index.md
    "robust_bellman": Algorithm(
        advantages="critic", heads=(3, 1), pessimistic=True, whiten=True, critic_loss={"consistency": 0.0}
    ),
    # arXiv:2402.03300
    "grpo": Algorithm(advantages="group", standardize=True, aggregation="sequence"),
    # arXiv:2503.20783
    "dr_grpo": Algorithm(advantages="group", aggregation="constant"),
    # arXiv:2501.03262
    "reinforce_plus_plus": Algorithm(advantages="return", whiten=True, kl="reward"),
}


def group_advantages(scores: Tensor, groups: Tensor, *, standardize: bool, epsilon: float = 1e-4) -> Tensor:
    """Score minus the group's mean (Dr. GRPO), over the group's standard deviation on request (GRPO).

    Args:
        scores: (R,) outcome reward of each completion.
        groups: (R,) which completions answer the same prompt; a group of one has advantage 0.
        standardize: divide by the deviation (with n - 1, as TRL does) plus `epsilon`, which keeps a group of equal
            scores at 0.

    Returns:
        (R,) float32.
    """
    _, index, counts = groups.unique(return_inverse=True, return_counts=True)
    scores = scores.double()
    means = torch.zeros(len(counts), dtype=scores.dtype).index_add(0, index, scores) / counts
    centred = scores - means[index]
    if standardize:
        squares = torch.zeros_like(means).index_add(0, index, centred.square())
        deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
        centred = centred / (deviation[index] + epsilon)
    return centred.float()


def length_adaptive_lam(lengths: Tensor, alpha: float) -> Tensor:
    """VAPO's λ = 1 - 1/(α l) for a completion of l action tokens (arXiv:2504.05118), at least 0; elementwise."""
    return (1 - 1 / (alpha * lengths.float().clamp(min=1))).clamp(min=0)


def critic_advantages(
    rewards: Tensor,
    quantiles: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float | Tensor,
    critic_lam: float,
    critic_target: Literal["index", "sampled"] = "index",
    measure: Callable[[Tensor], Tensor] = expectation,
    pessimistic: bool = False,
    bootstrap: Tensor | None = None,
    segment_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The actor's advantages and the critic's target returns, from one look at the critic.

    With `pessimistic`, δ_t = r_t + γ min_i V_i(s_{t+1}) - V(s_t), V_i the mean of head i and V their mean, and the
    recursion is unchanged (Robust Bellman, our reading of arXiv:2512.03847's baseline). That is ordinary GAE after
    γ (min_i V_i - V)(s_{t+1}) is added to each reward. The critic's targets bootstrap from the same minimum,
    Y_t = r_t + γ [(1 - λ) min_i V_i(s_{t+1}) + λ Y_{t+1}], so that at λ = 1 they are the return. V + A of the δ above
    would add up the heads' disagreement over a whole completion.

    Args:
        rewards, mask: (B, T), action-aligned.
        quantiles: (B, T, N, M), action-aligned, detached.
        lam, critic_lam: λ of the actor's advantages and of the critic's targets; see `distributional_gae`.
        critic_target: "index" or "sampled", for 0 < λ < 1.
        measure: reduces the advantage's quantiles; the expectation by default.
        bootstrap: as in `distributional_gae`.

    Returns:
        advantages (B, T), and returns (B, T, K); K = 1 where they do not depend on the critic (λ = 1 and no
        bootstrap), else K = M.
    """
    ensemble = quantiles.mean(-2)
    options: dict[str, Any] = {"gamma": gamma, "segment_ids": segment_ids}
    critic_rewards = rewards
    if pessimistic:
        zeros = torch.zeros_like(rewards)
        _, following = distributional_gae(zeros, _shortfall(quantiles), mask, lam=0.0, **options)  # γ x(s_{t+1})
        rewards = rewards + following[..., 0]
        critic_rewards = critic_rewards + (1 - critic_lam) * following[..., 0]
    atoms, end = ensemble, bootstrap
    if measure is expectation:  # GAE is linear: its mean is GAE on the mean
        atoms = ensemble.mean(-1, keepdim=True)
        end = None if bootstrap is None else bootstrap.mean(-1, keepdim=True)
    advantages, _ = distributional_gae(rewards, atoms, mask, lam=lam, bootstrap=end, **options)
    advantages = measure(advantages)
    if bootstrap is None and critic_lam == 1:
        return advantages, monte_carlo_returns(critic_rewards, mask, **options)[..., None]
    _, returns = distributional_gae(
        critic_rewards, ensemble, mask, lam=critic_lam, bootstrap=bootstrap, target=critic_target, **options
    )
    return advantages, returns


def _shortfall(quantiles: Tensor) -> Tensor:
    """min_i V_i - V of each state: (..., N, M) -> (..., 1)."""
    heads = quantiles.mean(-1)
    return (heads.amin(-1) - heads.mean(-1))[..., None]


def bootstrap_quantiles(
    quantiles: Tensor,
    mask: Tensor,
    truncated: Tensor,
    segment_ids: Tensor | None = None,
    *,
    pessimistic: bool = False,
) -> Tensor:
    """The ensemble's quantiles after the last token of each truncated completion; 0 for those that ended.

    Args:
        quantiles: (B, T, N, M) in the model's frame.
        mask: (B, T) action tokens.
        truncated: (R,) bool, one per row, in the order of the layout.
        segment_ids: (B, T) of packed rows.
        pessimistic: move the ensemble's mean to that of its worst head, as in `critic_advantages`.

    Returns:
        (B, M), or (1, R, M) for packed rows: `bootstrap` of `distributional_gae`.
    """
    ensemble = quantiles.mean(-2) + (_shortfall(quantiles) if pessimistic else 0)
    positions = torch.arange(mask.shape[1], device=mask.device)
    if segment_ids is None:
        last = torch.where(mask, positions, 0).amax(1)
        return ensemble[torch.arange(len(mask), device=mask.device), last] * truncated[:, None]
    last = torch.zeros(len(truncated), dtype=torch.long, device=mask.device)
    last = last.scatter_reduce(0, segment_ids[0], torch.where(mask[0], positions, 0), "amax")
    return (ensemble[0, last] * truncated[:, None])[None]


def whiten(
    advantages: list[Tensor], masks: list[Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], float]:
    """Mean 0 and deviation 1 over the action tokens of all micro-batches and ranks; (B, T) each, 0 outside the masks.

    In float64, since the mean is that of many thousand tokens. Equal advantages become 0.

    Returns:
        the whitened advantages, and the deviation there was.
    """
    valid = [advantage[mask].double() for advantage, mask in zip(advantages, masks, strict=True)]
    count = sum_over_ranks(torch.stack([v.new_tensor(float(v.numel())) for v in valid]).sum())
    mean = sum_over_ranks(torch.stack([v.sum() for v in valid]).sum()) / count
    variance = sum_over_ranks(torch.stack([(v - mean).square().sum() for v in valid]).sum()) / count
    scale = 1 / (variance.sqrt() + 1e-8)
    whitened = [((a.double() - mean) * scale * mask).to(a.dtype) for a, mask in zip(advantages, masks, strict=True)]
    return whitened, variance.sqrt().item()
