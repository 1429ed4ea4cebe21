"""The normalised units that heads predict in: (return - centre) / scale.

Shipped into every critic repository as part of its remote code: imports torch only.
"""

from torch import Tensor

# as many half-spreads as a deviation may have; a normal has 1, a rare success or a fair coin about as few
HEAVY_TAIL = 3.0


def return_units(returns: Tensor) -> tuple[float, float]:
    """Centre and scale of training returns, (n,) float64, n >= 1.

    Mean and standard deviation; median and half the spread between the 16 % and the 84 % quantile (a normal's
    deviation) where the deviation is over 3 times that: of Student-t labels (1.5 degrees) it is whatever the most
    extreme one makes it. A spread of 0 says nothing of the scale (rare successes), and equal returns have scale 1 (our
    choice).
    """
    if returns.min() == returns.max():  # where the deviation is a rounding error
        return returns[0].item(), 1.0
    mean, deviation = returns.mean().item(), returns.std(correction=0).item()
    ordered = returns.sort().values
    low, middle, high = (ordered[int(len(ordered) * level)].item() for level in (0.1587, 0.5, 0.8413))
    spread = (high - low) / 2
    return (middle, spread) if 0 < spread < deviation / HEAVY_TAIL else (mean, deviation)
