"""Categorical distributions of the return: target probabilities, cross-entropy, and the quantiles they amount to.

A support is B atoms c_1 < ... < c_B in the reward's own units; a distribution on it is B probabilities. Cross-entropy
moves mass between atoms directly, where quantiles have to travel: on 0/1 rewards it learns much faster (docs/loss.md).

Shipped into every critic repository as part of its remote code: imports torch only.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PROJECTIONS = ("hl_gauss", "two_hot", "one_hot")
SIGMA = 0.75
"""HL-Gauss: deviation of the Gaussian around a return, in bins (Farebrother et al. 2024)."""
# elements of a chunk of (returns, atoms): what is held at a time, whatever the number of target atoms
_CHUNK = 1 << 22


def project_returns(returns: Tensor, support: Tensor, projection: str) -> Tensor:
    """Target probabilities of sampled returns: `(..., K)` returns, `(B,)` atoms -> `(..., B)`, summing to 1.

    - `hl_gauss`: atom i gets ∝ Φ((e_{i+1} - y)/σ) - Φ((e_i - y)/σ), its bin [e_i, e_{i+1}] under a normal around y;
      equally spaced atoms, σ = 0.75 bins (arXiv:2403.03950).
    - `two_hot`: the two atoms around y share so that the mean is y (arXiv:1911.08265).
    - `one_hot`: the nearest atom gets all, the upper one of two.

    The K returns of a state are averaged. Returns outside the support count as its ends. No gradient; float32, or
    float64 for float64 returns; memory of O(K + B) a state.

    Raises:
        ValueError: an unknown projection, or `hl_gauss` on atoms that are not equally spaced.
    """
    if projection not in PROJECTIONS:
        raise ValueError(f"projection is {projection!r}; it must be one of {', '.join(PROJECTIONS)}.")
    returns = returns.detach()
    returns = returns if returns.dtype == torch.float64 else returns.float()
    atoms = support.to(returns)
    flat = returns.reshape(-1, returns.shape[-1]).clamp(atoms[0], atoms[-1])
    if projection == "hl_gauss":
        gaps = support.double().diff()
        if (gaps - gaps.mean()).abs().max() > 1e-3 * gaps.mean():
            raise ValueError("hl_gauss needs equally spaced atoms; use two_hot for these.")
        width = gaps.mean().item()
        edges = torch.cat([atoms - width / 2, atoms[-1:] + width / 2])
        rows = max(1, _CHUNK // (flat.shape[1] * len(edges)))
        return torch.cat([_hl_gauss(chunk, edges, SIGMA * width) for chunk in flat.split(rows)]).reshape(
            *returns.shape[:-1], len(atoms)
        )
    upper = torch.searchsorted(atoms, flat).clamp(1, len(atoms) - 1)
    share = (flat - atoms[upper - 1]) / (atoms[upper] - atoms[upper - 1])
    if projection == "one_hot":
        share = (share >= 0.5).to(flat)
    masses = flat.new_zeros(len(flat), len(atoms))
    masses.scatter_add_(1, upper, share).scatter_add_(1, upper - 1, 1 - share)
    return (masses / flat.shape[1]).reshape(*returns.shape[:-1], len(atoms))


def _hl_gauss(returns: Tensor, edges: Tensor, deviation: float) -> Tensor:
    below = torch.special.ndtr((edges - returns[..., None]) / deviation)
    masses = below.diff(dim=-1)
    return (masses / masses.sum(-1, keepdim=True)).mean(-2)


def slice_means(probabilities: Tensor, support: Tensor, num_quantiles: int) -> Tensor:
    """Means of the quantile function over M equal slices of the levels: `(..., B)` -> `(..., M)`, non-decreasing.

    q_j = M ∫ F⁻¹(τ) dτ over ((j-1)/M, j/M). Inverting F at the slices' middles (`quantile_levels`) would give the same
    but for the slices in which F jumps, and there would round: the mean of these M numbers is Σ p_i c_i whatever M,
    and the mean of the lowest k of them is CVaR_{k/M}, so that what reads quantiles loses nothing (our choice).
    Differentiable in the probabilities.
    """
    probabilities = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    atoms = support.to(probabilities)
    reached = probabilities.cumsum(-1)
    # F and ∫F⁻¹ at the lower end of each atom's stretch of levels
    before = F.pad(reached[..., :-1], (1, 0))
    integral = F.pad((probabilities * atoms).cumsum(-1)[..., :-1], (1, 0))
    edges = torch.arange(num_quantiles + 1, dtype=atoms.dtype, device=atoms.device) / num_quantiles
    edges = edges.expand(*probabilities.shape[:-1], -1).contiguous()
    # an edge on a jump belongs to the slice on its own side
    inner = reached[..., :-1].detach().contiguous()
    low = torch.searchsorted(inner, edges[..., :-1].contiguous(), right=True)
    high = torch.searchsorted(inner, edges[..., 1:].contiguous())

    def lorenz(level, index):
        return integral.gather(-1, index) + (level - before.gather(-1, index)) * atoms[index]

    jumps = (lorenz(edges[..., 1:], high) - lorenz(edges[..., :-1], low)) * num_quantiles
    # within one atom exactly that atom; rounding must not leave the support
    jumps = torch.minimum(torch.maximum(jumps, atoms[low]), atoms[high.maximum(low)])
    return torch.where(low >= high, atoms[high], jumps)


def categorical_cross_entropy(
    logits: Tensor,
    returns: Tensor,
    mask: Tensor,
    support: Tensor,
    projection: str,
    *,
    num_items: int | float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ_i p_i log q_i of every head with the projected returns; mean over heads, summed over states / num_items.

    Args:
        logits: `(B, T, N, atoms)` of the state before each action, any floating dtype.
        returns: `(B, T, K)` target atoms in the support's units; detached.
        mask: `(B, T)` bool, true at action tokens. Nothing is read elsewhere.
        support, projection: of `project_returns`.
        num_items: as in `dvpo_critic_loss`.

    Returns:
        The loss, () float32 (float64 for float64 logits), and detached: `cross_entropy`, and `clipped`, the share of
        target atoms outside the support, which counted as its ends.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits, returns = logits[mask].to(dtype), returns.detach()[mask].to(dtype)
    if num_items is None:
        num_items = max(logits.shape[0], 1)
    targets = project_returns(returns, support.to(logits.device), projection)
    loss = -(targets[:, None] * logits.log_softmax(-1)).sum(-1).mean(-1).sum() / num_items
    clipped = outside(returns, support.to(returns)).to(dtype).mean(-1).sum() / num_items
    return loss, {"cross_entropy": loss.detach().float(), "clipped": clipped.float()}


def outside(returns: Tensor, support: Tensor) -> Tensor:
    """Which returns lie beyond the support's ends, by more than rounding; bool, same shape."""
    slack = 1e-5 * (support[-1] - support[0])
    return (returns < support[0] - slack) | (returns > support[-1] + slack)
