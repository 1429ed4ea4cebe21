"""Whether a critic's distributions say how often: PIT and coverage of central intervals, also for discrete returns.

Shapes and readings are those of `scores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from .scores import paired


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


def pit_histogram(quantiles: Tensor, returns: Tensor, bins: int = 10, tolerance: float = 0.0) -> Tensor:
    """Share of PITs in each of `bins` equal parts of [0, 1]: flat when the predictions are calibrated.

    High at both ends: too narrow. High in the middle: too wide. Rising: the predictions are too low. As in
    `pit_distance`, these are the shares expected over the randomisation, exactly: no random numbers.

    Returns:
        (bins,) float64, summing to 1.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; at least 1 is needed.")
    low, high = pit_bounds(quantiles, returns, tolerance)
    return pit_shares(pit_slope(low, high, quantiles.shape[-1]), low.numel(), bins)


def reliability(
    quantiles: Tensor,
    returns: Tensor,
    levels: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
    *,
    tolerance: float = 0.0,
) -> list[dict[str, float]]:
    """Which share of returns lies at or below the predicted quantile at each level: the level itself, if calibrated.

    A return that meets several atoms counts with the part of its PIT range (see `pit`) below the level: the PIT's
    expected distribution function.

    Returns:
        A dict for each level: level, observed.
    """
    if any(not 0.0 < level < 1.0 for level in levels):
        raise ValueError(f"levels are {list(levels)}; they are shares between 0 and 1.")
    low, high = pit_bounds(quantiles, returns, tolerance)
    slope = pit_slope(low, high, quantiles.shape[-1])
    points = torch.tensor(levels, dtype=torch.float64, device=low.device)
    observed = pit_distribution(slope, low.numel(), points).tolist()
    return [{"level": level, "observed": share} for level, share in zip(levels, observed, strict=True)]


def wilson_interval(inside: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the probability behind `inside` of `count` independent trials (Wilson, 1927).

    States of one response share its outcome and are not independent: count responses, not states, and give
    `inside` as share · count.

    Args:
        inside: from 0 to count; need not be whole.
        count: trials; with none, nothing is known and the interval is (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it is a share between 0 and 1.")
    if not 0 <= inside <= count * (1 + 1e-12):  # a share times a count may exceed it by its rounding
        raise ValueError(f"inside is {inside} of {count}; it must lie between 0 and the count.")
    if not count:
        return 0.0, 1.0
    share, z = min(inside / count, 1.0), NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # at 0 and 1 the ends are 0 and 1, which rounding would miss
    low = 0.0 if share == 0.0 else (centre - spread) / scale
    return low, 1.0 if share == 1.0 else (centre + spread) / scale


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


def pit_distribution(slope: Tensor, count: float, points: Tensor) -> Tensor:
    """The distribution function with this `pit_slope` over `count` returns, at points of [0, 1]."""
    num_pieces = len(slope) - 1
    reached = torch.nn.functional.pad(slope.cumsum(0)[:-1].cumsum(0), (1, 0)) / count
    place = points * num_pieces
    piece = place.long().clamp(max=num_pieces - 1)
    return reached[piece] + (place - piece) * (reached[piece + 1] - reached[piece])


def pit_shares(slope: Tensor, count: float, bins: int) -> Tensor:
    """Share in each of `bins` equal parts of [0, 1] with this `pit_slope` over `count` returns: (bins,)."""
    edges = torch.arange(bins + 1, dtype=torch.float64, device=slope.device) / bins
    # an empty part may come out below 0 by its rounding
    return pit_distribution(slope, count, edges).diff().clamp(min=0)


def distance_from_uniform(slope: Tensor, count: float) -> float:
    """Largest distance from uniform of the distribution function with this `pit_slope` over `count` returns."""
    # Each range adds a constant density between its ends; summed twice, the distribution function at every half step,
    # between which it is linear, so that the largest distance is at one of them.
    reached = slope.cumsum(0)[:-1].cumsum(0) / count
    uniform = torch.arange(1, len(reached) + 1, dtype=torch.float64, device=slope.device) / len(reached)
    return (reached - uniform).abs().max().item()
