"""Explained variance split into what a critic knows of prompts and what it knows within a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .scores import double

# (P,) each, of a group's states: their number, Σ return, Σ return², Σ error, Σ error²
_SUMS = 5
# a variance below this part of the sums that it is the difference of is none
ROUNDING = 1e-12


class VarianceSplit:
    """Explained variance between groups and within them, by the law of total variance; from sums, batch by batch.

    With G the return, V the value and bars for the means over a group's states,

        Var(G) = Var(Ḡ) + E[(G − Ḡ)²], over all states, and Var(G − V) likewise, so
        explained variance = (1 − s) · between + s · within, where
        between = 1 − Var(Ḡ − V̄) / Var(Ḡ),
        within  = 1 − E[(G − Ḡ − V + V̄)²] / E[(G − Ḡ)²],
        s       = E[(G − Ḡ)²] / Var(G), the share of the returns' variance that is within groups.

    `between` is high for a critic that knows how hard a prompt is; advantages and reranking live on `within`, which
    any function of the prompt alone has at 0. States count once each, long completions more than short ones, as in
    `explained_variance`. Special cases: `between` is NaN where all groups have one mean, `within` where returns do not
    vary within any group (so with one completion a prompt and one return in all its states), all three where returns
    do not vary. With one completion a prompt and returns that change along it (rewards of steps, a discount),
    `within` is about that change, not about completions.

    Args:
        num_groups: P.
        centre: subtracted from returns, for the sums' digits; about their mean.
    """

    def __init__(self, num_groups: int, centre: float = 0.0):
        self.centre = centre
        self.sums = torch.zeros(_SUMS, num_groups, dtype=torch.float64)

    def add(self, values: Tensor, returns: Tensor, groups: Tensor) -> None:
        """Add S states: (S,) predicted means, (S,) returns and (S,) numbers of their groups, 0..P − 1."""
        values, returns, groups = double(values).cpu(), double(returns).cpu(), torch.as_tensor(groups).cpu().long()
        if values.dim() != 1 or values.shape != returns.shape or values.shape != groups.shape:
            raise ValueError(
                f"values {tuple(values.shape)}, returns {tuple(returns.shape)} and groups {tuple(groups.shape)} must "
                "have the same shape (S,)."
            )
        centred, errors = returns - self.centre, returns - values
        added = torch.stack([torch.ones_like(errors), centred, centred.square(), errors, errors.square()])
        self.sums.index_add_(1, groups, added)

    def reduce(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add up the ranks' sums, in place."""
        self.sums = sum_over_ranks(self.sums)

    def within(self) -> tuple[Tensor, Tensor]:
        """Σ (G − Ḡ − V + V̄)² and Σ (G − Ḡ)² of each group, (P,) each; 1 − their ratio explains, for intervals."""
        states, true, squared_true, error, squared_error = self.sums
        count = states.clamp(min=1)
        return _spread(error, squared_error, count), _spread(true, squared_true, count)

    def compute(self) -> dict[str, float]:
        """`explained_variance_between`, `explained_variance_within` and `variance_within`, which is s."""
        states, true, _, error, _ = self.sums
        total, count = states.sum(), states.clamp(min=1)
        own_error, own_true = (part.sum().item() for part in self.within())
        between_error, between_true = (_spread(x.sum(), (x * x / count).sum(), total).item() for x in (error, true))
        # of returns that are all alike, what is left is the rounding of `centre`
        least = total.item() * (ROUNDING * self.centre) ** 2
        between_true, own_true = (part if part > least else 0.0 for part in (between_true, own_true))
        all_true = between_true + own_true
        return {
            "explained_variance_between": _explained(between_error, between_true),
            "explained_variance_within": _explained(own_error, own_true),
            "variance_within": own_true / all_true if all_true else math.nan,
        }


def variance_split(values: Tensor, returns: Tensor, groups: Tensor) -> dict[str, float]:
    """`VarianceSplit` of a set at once: (S,) values, (S,) returns, (S,) numbers of their groups from 0."""
    returns, groups = double(returns), torch.as_tensor(groups)
    split = VarianceSplit(int(groups.max()) + 1 if groups.numel() else 0, returns.mean().item())
    split.add(values, returns, groups)
    return split.compute()


def _spread(total: Tensor, squared: Tensor, count: Tensor) -> Tensor:
    """Σ (x − x̄)² from Σ x and Σ x²."""
    spread = squared - total * total / count
    return torch.where(spread > ROUNDING * squared, spread, torch.zeros_like(spread))


def _explained(error: float, true: float) -> float:
    return 1.0 - error / true if true else math.nan
