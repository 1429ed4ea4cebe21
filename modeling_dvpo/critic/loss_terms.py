"""The terms of the composite critic loss, one function each, per state.

Shapes: R states, N heads, M quantiles a head, K target atoms. `heads` is `(R, N, M)`; `atoms` `(R, M)` the *sorted*
ensemble distribution (mean over heads, then sorted); `targets` `(R, K)`, which carry no gradient. Each function
returns `(R,)`, unweighted, in the (squared) units of its inputs. Equations are those of DVPO (arXiv:2512.03847).
"""

import math

import torch
from torch import Tensor

from .quantile_huber import quantile_huber_loss
from .quantiles import (
    cvar,
    quantile_levels,
    upper_tail_mean,
    value_at_risk,
)

# In normalised units: where `bounded` turns from the square to a line. Of tails of 0.1 that is a return 10 units
# beyond the tail's threshold, since one return's target is 1/α times as far. docs/loss.md says what less would cost.
SQUARE_BOUND = 100.0


def quantile_and_risk(heads: Tensor, targets: Tensor, kappa: float, risk_aversion: float) -> tuple[Tensor, Tensor]:
    """Eqs. 3 and 4: quantile Huber loss, mean over heads, plain and with more weight on the lower levels.

    The level weights of `risk` are ω_j ∝ exp(-risk_aversion · τ_j) with mean 1. Both come from one pass.
    """
    num_quantiles = heads.shape[-1]
    omega = torch.exp(-risk_aversion * quantile_levels(num_quantiles, device=heads.device))
    level_weights = torch.stack([torch.ones_like(omega), omega / omega.mean()])
    losses = quantile_huber_loss(heads, targets[:, None], kappa=kappa, level_weights=level_weights).mean(dim=1)
    return losses[:, 0], losses[:, 1]


def squared_error(heads: Tensor, targets: Tensor) -> Tensor:
    """The scalar critic (M = 1): squared error against the mean target, mean over heads."""
    return (heads.squeeze(-1) - targets.mean(dim=-1, keepdim=True)).square().mean(dim=-1)


def lower_tail(atoms: Tensor, targets: Tensor, alpha: float, *, calibrated: bool) -> Tensor:
    """Eq. 5: (CVaR_α(q) - target)², the target CVaR_α(y) or, calibrated, mean_k[v - (v - y_k)₊ / α].

    The calibrated target has mean CVaR_α of the return's distribution, one sampled return or many, when
    v = VaR_α(q) is right, and errs only to second order in v (Rockafellar & Uryasev, 2000; our choice).
    """
    if calibrated:
        v = value_at_risk(atoms.detach(), alpha, assume_sorted=True)[:, None]
        target = (v - (v - targets).clamp(min=0) / alpha).mean(dim=-1)
    else:
        target = cvar(targets, alpha)
    return (cvar(atoms, alpha, assume_sorted=True) - target).square()


def upper_tail(atoms: Tensor, targets: Tensor, beta: float, *, calibrated: bool) -> Tensor:
    """Eq. 6: the mirror of `lower_tail`, with UTM_β and v = VaR_{1-β}(q)."""
    if calibrated:
        v = value_at_risk(atoms.detach(), max(1 - beta, 1e-9), assume_sorted=True)[:, None]
        target = (v + (targets - v).clamp(min=0) / beta).mean(dim=-1)
    else:
        target = upper_tail_mean(targets, beta)
    return (upper_tail_mean(atoms, beta, assume_sorted=True) - target).square()


def underestimate(heads: Tensor, targets: Tensor) -> Tensor:
    """Of eq. 7, without its ReLU: mean(y) - mean(q)."""
    return targets.mean(dim=-1) - heads.mean(dim=(-2, -1))


def tail_shape(atoms: Tensor, targets: Tensor, alpha: float, beta: float) -> Tensor:
    """Eq. 8: (Var_low(q) - Var_low(y))₊ + (Var_up(y) - Var_up(q))₊.

    Variances within the lowest ⌈αM⌉ and the highest ⌈βM⌉ atoms: the lower tail may contract, the upper may not shrink.
    """
    low, up = _tail_sizes(atoms, alpha, beta)
    targets = at_levels(targets, atoms.shape[-1])
    too_wide = _variance(atoms[:, :low]) - _variance(targets[:, :low])
    too_narrow = _variance(targets[:, -up:]) - _variance(atoms[:, -up:])
    return too_wide.clamp(min=0) + too_narrow.clamp(min=0)


def tail_curvature(atoms: Tensor, targets: Tensor, alpha: float, beta: float) -> Tensor:
    """Eq. 9: over either tail, mean_j (d_j(y) - d_j(q))₊, d_j = M² (q_{j+1} - 2 q_j + q_{j-1}); the two are added.

    M² makes d_j an estimate of the quantile function's second derivative, whatever M. A tail of fewer than three
    atoms has no second difference and adds nothing.
    """
    num_quantiles = atoms.shape[-1]
    low, up = _tail_sizes(atoms, alpha, beta)
    gap = at_levels(targets, num_quantiles) - atoms
    total = gap.new_zeros(gap.shape[0])
    for tail in (gap[:, :low], gap[:, -up:]):
        if tail.shape[-1] >= 3:
            total = total + (num_quantiles**2 * tail.diff(n=2, dim=-1)).clamp(min=0).mean(dim=-1)
    return total


def consistency(heads: Tensor) -> Tensor:
    """Eq. 10: mean over pairs of heads of mean_j (q^i_j - q^i'_j)²; zero for a single head.

    Computed as twice the unbiased variance over heads, which is the same number.
    """
    if heads.shape[1] == 1:
        return heads.new_zeros(heads.shape[0])
    deviation = heads - heads.mean(dim=1, keepdim=True)
    return 2 / (heads.shape[1] - 1) * deviation.square().sum(dim=1).mean(dim=-1)


def bounded(squares: Tensor) -> Tensor:
    """Huber's form of squares u², elementwise (our choice): 2 c |u| - c² where |u| > c = SQUARE_BOUND, else u².

    Value and slope have no jump, and the slope in u is never more than 2 c.
    """
    roots = squares.clamp(min=SQUARE_BOUND**2).sqrt()
    return torch.where(squares <= SQUARE_BOUND**2, squares, 2 * SQUARE_BOUND * roots - SQUARE_BOUND**2)


def at_levels(targets: Tensor, num_quantiles: int) -> Tensor:
    """The K target atoms, sorted and read at M midpoint levels: `(R, K) -> (R, M)`.

    Linear interpolation between their own midpoint levels, constant beyond the outermost; the sorted atoms if K = M.
    """
    atoms = targets.sort(dim=-1).values
    num_atoms = atoms.shape[-1]
    if num_atoms == num_quantiles:
        return atoms
    place = quantile_levels(num_quantiles, dtype=torch.float64) * num_atoms - 0.5
    place = place.clamp(0, num_atoms - 1).to(atoms.device)
    low = place.floor().long()
    high = (low + 1).clamp(max=num_atoms - 1)
    return torch.lerp(atoms[:, low], atoms[:, high], (place - low).to(atoms.dtype))


def _tail_sizes(atoms: Tensor, alpha: float, beta: float) -> tuple[int, int]:
    lower, upper = (max(1, math.ceil(share * atoms.shape[-1] - 1e-9)) for share in (alpha, beta))
    return lower, upper


def _variance(atoms: Tensor) -> Tensor:
    return (atoms - atoms.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
