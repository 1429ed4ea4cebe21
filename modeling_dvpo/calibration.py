"""Whether a critic's distributions say how often: PIT and coverage of central intervals, also for discrete returns.

Shapes and readings are those of `scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeling_dvpo.scores import paired


def pit(
    quantiles: Tensor, returns: Tensor, generator: torch.Generator | None = None, *, tolerance: float = 0.0
) -> Tensor:
    """Randomised probability integral transform: uniform on [0, 1] when the predictions are calibrated.

    A return that meets atoms i..j (sorted, counted from 1) is spread uniformly over [(i − 1)/M, j/M], the probability
    of these atoms: so a 0/1 return with the right share of atoms at 1 is uniform, too. A return between atoms j and j
    + 1 is spread over [τ_j, τ_{j+1}], and one beyond the outermost atom over the half step that is left.

    Args:
        quantiles: (..., M), any order.
        returns: (...,) or (..., K).
        generator: of the randomisation; on the CPU.
        tolerance: an atom within this distance of the return meets it. A network never puts an atom at exactly 0 or 1;
            for discrete returns take a tenth of the smallest gap between two of them. Miscalibration on a finer scale
            than the tolerance is not seen.

    Returns:
        float64, of the shape of `returns`.
    """
    shape = torch.as_tensor(returns).shape
    low, high = pit_bounds(quantiles, returns, tolerance)
    spread = torch.rand(low.shape, generator=generator, dtype=torch.float64).to(low.device)
    return ((low + (high - low) * spread) / (2 * quantiles.shape[-1])).reshape(shape)


def pit_distance(quantiles: Tensor, returns: Tensor, *, tolerance: float = 0.0) -> float:
    """Largest distance of the PIT's distribution function from the uniform one (Kolmogorov–Smirnov), 0 to 1.

    Of the *expected* distribution over the randomisation, which is known exactly: no random numbers.
    Even for a calibrated critic it is of order 1/√R, since R returns are a sample.
    """
    low, high = pit_bounds(quantiles, returns, tolerance)
    return distance_from_uniform(pit_slope(low, high, quantiles.shape[-1]), low.numel())


def interval_coverage(quantiles: Tensor, returns: Tensor, coverage: float = 0.8, *, tolerance: float = 0.0) -> float:
    """Share of returns inside the central interval that ought to hold `coverage` of them.

    Inside means that the return's PIT lies in [(1 − coverage)/2, (1 + coverage)/2]; a return whose PIT is spread over
    a range (see `pit`) counts with the part of it that is inside. For continuous returns that is the interval between
    the predicted quantiles; for discrete ones, where an interval that includes its ends holds far too much and one
    that does not far too little, it is the only reading for which a calibrated critic covers what it should.

    Args:
        quantiles: (..., M), any order.
        returns: (...,) or (..., K).
        coverage: between 0 and 1.
        tolerance: as in `pit`.

    Returns:
        The share over all states and all K.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage is {coverage}; it is a share between 0 and 1.")
    low, high = pit_bounds(quantiles, returns, tolerance)
    return share_inside(low, high, coverage, quantiles.shape[-1]).mean().item()


def pit_bounds(quantiles: Tensor, returns: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Ends of each return's PIT range in half steps of 1/(2M), as integers: (..., K) in 0..2M, low < high."""
    quantiles, returns = paired(quantiles, returns)
    ordered = quantiles.sort(-1).values
    below = torch.searchsorted(ordered, returns - tolerance, right=False)
    up_to = torch.searchsorted(ordered, returns + tolerance, right=True)
    met = up_to > below
    low = torch.where(met, 2 * below, (2 * below - 1).clamp(min=0))
    high = torch.where(met, 2 * up_to, (2 * below + 1).clamp(max=2 * ordered.shape[-1]))
    return low, high


def share_inside(low: Tensor, high: Tensor, coverage: float, num_quantiles: int) -> Tensor:
    """Which part of each PIT range of `pit_bounds` the central interval of this coverage holds, elementwise."""
    bottom, top = num_quantiles * (1 - coverage), num_quantiles * (1 + coverage)
    inside = high.double().clamp(bottom, top) - low.double().clamp(bottom, top)
    return inside / (high - low)


def pit_slope(low: Tensor, high: Tensor, num_quantiles: int) -> Tensor:
    """Change of the PIT's summed density at every half step of 1/(2M), (2M + 1,); adds up over sets."""
    slope = torch.zeros(2 * num_quantiles + 1, dtype=torch.float64, device=low.device)
    low, high = low.flatten(), high.flatten()
    density = 1.0 / (high - low).double()
    return slope.index_add_(0, low, density).index_add_(0, high, -density)


def distance_from_uniform(slope: Tensor, count: float) -> float:
    """Largest distance from uniform of the distribution function with this `pit_slope` over `count` returns."""
    # Each range adds a constant density between its ends; summed twice, the distribution function at every half step,
    # between which it is linear, so that the largest distance is at one of them.
    reached = slope.cumsum(0)[:-1].cumsum(0) / count
    uniform = torch.arange(1, len(reached) + 1, dtype=torch.float64, device=slope.device) / len(reached)
    return (reached - uniform).abs().max().item()
