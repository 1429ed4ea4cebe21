"""What is shown of the distribution in every state of a completion; figure and page read the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..critic.quantiles import cvar, quantile_levels
from ..inference.risk_measures import quantiles_at
from ..inference.scoring import ScoredCompletion
from ..metrics.scores import head_disagreement

# The 5 and 25 % bands' edges are among both.
ENSEMBLE_LEVELS = [0.005, *[i / 40 for i in range(1, 40)], 0.995]
HEAD_LEVELS = [0.005, *[i / 20 for i in range(1, 20)], 0.995]
BANDS = [0.05, 0.25, 0.5, 0.75, 0.95]


@dataclass(frozen=True)
class StateNumbers:
    """A completion's states in numbers: T tokens, S = T of its T + 1 states are known, N heads, M quantiles.

    State t is the one before token t, so state t + 1 the one after it. The state after the last token is not known: a
    critic is trained there only where a return is bootstrapped from it.

    Attributes:
        scored: what the critic said.
        alpha: share of the outcomes that `cvar` is the mean of.
    """

    scored: ScoredCompletion
    alpha: float = 0.1

    def __post_init__(self):
        finite = self.heads.isfinite().all(-1).all(-1)
        if not bool(finite.all()):
            state = int((~finite).nonzero()[0])
            raise ValueError(
                f"The critic's quantiles before token {state} of a completion are not finite (nan or infinity): check "
                "its weights, or read it in a wider dtype, such as float32."
            )

    @cached_property
    def heads(self) -> Tensor:
        """(S, N, M) float64, each head's quantiles as the critic gave them."""
        return self.scored.quantiles[:-1].double()

    @cached_property
    def ensemble(self) -> Tensor:
        """(S, M) the distribution: the mean over heads, quantile by quantile, in ascending order."""
        return self.heads.mean(1).sort(-1).values

    @cached_property
    def value(self) -> Tensor:
        """(S,) the expected return."""
        return self.ensemble.mean(-1)

    @cached_property
    def change(self) -> Tensor:
        """(T,) what each token changed: the value after it less the one before it; NaN where that is not known."""
        change = torch.full((len(self.scored.action_positions),), torch.nan, dtype=torch.float64)
        change[: len(self.value) - 1] = self.value.diff()
        return change

    @cached_property
    def cvar(self) -> Tensor:
        """(S,) the mean of the worst `alpha` of the outcomes."""
        return cvar(self.ensemble, self.alpha, assume_sorted=True)

    @cached_property
    def spread(self) -> Tensor:
        """(S,) standard deviation of the return."""
        return self.ensemble.std(-1, correction=0)

    @cached_property
    def disagreement(self) -> Tensor:
        """(S,) standard deviation, over heads, of their expected returns."""
        return head_disagreement(self.heads)

    def chance(self, threshold: float) -> Tensor:
        """(S,) probability of a return above `threshold`."""
        return (self.ensemble > threshold).double().mean(-1)

    def bands(self) -> Tensor:
        """(S, 5) quantiles at the levels of `BANDS`."""
        return quantiles_at(self.ensemble, BANDS)


def shown_levels(num_quantiles: int, levels: list[float]) -> list[float]:
    """All of a critic's own levels where it has no more than these, else these."""
    own = quantile_levels(num_quantiles, dtype=torch.float64).tolist()
    return own if len(own) <= len(levels) else levels
