"""A scalar critic of a two-valued reward is a distribution: of returns that are low or high, a mean says how often.

As a point, by its absolute error, such a critic looks twice as bad as the distribution that it implies. Every table
reads it by `as_distribution`; whether returns are two-valued, `two_values` alone decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..critic.categorical import slice_means

# as many as a critic has by default; a distribution of two points in M equal slices is off by 1/M of its mass at most
ATOMS = 200


def two_values(returns: Tensor) -> tuple[float, ...]:
    """The low and the high one, where returns take exactly two values; () otherwise.

    Args:
        returns: any shape; all of a training or held-out set. Two returns alone say nothing of what others there may
            be, so at least three are needed.
    """
    returns = torch.as_tensor(returns)
    if returns.numel() < 3:
        return ()
    low, high = returns.min().item(), returns.max().item()
    return (low, high) if low < high and bool(((returns == low) | (returns == high)).all()) else ()


def as_distribution(quantiles: Tensor, values: tuple[float, ...]) -> Tensor:
    """Quantiles as they are; of a scalar critic (M = 1) of two-valued returns those of the distribution it implies.

    The prediction v becomes the two-point distribution with P(high) = clip((v − low) / (high − low), 0, 1), given as
    the means of its quantile function over ATOMS equal slices of the levels, like a `bernoulli` head's: their mean is
    v, for v between the two, and CRPS is the two-point distribution's to (high − low) / (4 ATOMS²).

    Args:
        quantiles: (..., M).
        values: of `two_values`.

    Returns:
        (..., M), or (..., ATOMS) float64.
    """
    if quantiles.shape[-1] != 1 or not values:
        return quantiles
    low, high = values
    share = ((quantiles.double() - low) / (high - low)).clamp(0.0, 1.0)
    support = torch.tensor(values, dtype=torch.float64, device=quantiles.device)
    return slice_means(torch.cat([1.0 - share, share], -1), support, ATOMS)
