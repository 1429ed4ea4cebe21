"""Mean and deviation of all returns that a run has seen: the units that a fresh online critic follows."""

import math
from dataclasses import dataclass

import torch


@dataclass
class ReturnsSeen:
    """Exact over everything added, in float64; JSON-able through `dataclasses.asdict`.

    Attributes:
        count: returns added.
        mean: their mean.
        squares: sum of squared deviations from it.
        low, high: the least and the greatest.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float | None = None
    high: float | None = None

    def add(self, returns: torch.Tensor) -> None:
        """Add finite returns, (tokens,), at least one, by the pairwise update of Chan, Golub and LeVeque (1979)."""
        returns = returns.double()
        number, mean = len(returns), returns.mean().item()
        squares = (returns - mean).square().sum().item()
        total, gap = self.count + number, mean - self.mean
        self.squares += squares + gap * gap * self.count * number / total
        self.mean += gap * number / total
        self.count = total
        low, high = returns.min().item(), returns.max().item()
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)

    @property
    def scale(self) -> float:
        """Their standard deviation; 1 where all are equal, as in `fit_return_scale`."""
        return 1.0 if self.low == self.high else math.sqrt(self.squares / self.count)
