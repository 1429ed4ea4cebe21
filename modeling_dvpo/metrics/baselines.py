"""What a metric's figure is held against: the best critic that ignores its input, and a scalar critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .scores import constant_quantiles, double
from .states import States, read_row
from .two_valued import as_distribution, two_values


def constant_critic(states: States, training_returns: Sequence[float] | None) -> tuple[Tensor, str]:
    """The quantiles of the training returns in every state, (R, M), and what they are taken from.

    Without training returns they are those of the references, of this very set: the best constant in hindsight, which
    is harder to beat than any that could have been known.
    """
    if training_returns is None:
        pooled, source = states.pooled_returns, "references"
    else:
        pooled, source = double(training_returns), "training_returns"
    return constant_quantiles(pooled, states.quantiles.shape[-1]).expand(len(states.quantiles), -1), source


def scalar_critic(states: States, values: Sequence, kind: str) -> Tensor:
    """A scalar critic's values as one quantile, (R, 1) float64: a number for each state, or T of them a response.

    Raises:
        ValueError: not one for each state.
    """
    rows = [read_row(row, place, "scalar_values", kind, (0,)) for place, row in enumerate(values)]
    if len(rows) != len(states.lengths):
        raise ValueError(
            f"scalar_values has {len(rows)} rows and predictions {len(states.lengths)}: give as many, in their order."
        )
    for place, (row, length) in enumerate(zip(rows, states.lengths, strict=True)):
        if len(row) != length:
            raise ValueError(
                f"Row {place} has {length} states in predictions and {len(row)} in scalar_values: give a value for "
                "each state."
            )
    return torch.from_numpy(np.concatenate(rows))[:, None]


def mean_scores(
    name: str,
    score: Callable[[Tensor, Tensor], Tensor],
    states: States,
    *,
    training_returns: Sequence[float] | None,
    scalar: Tensor | None = None,
) -> dict:
    """The mean over all states of `score(quantiles (R', M), returns (R', K)) -> (R',)`, beside its baselines'.

    A scalar critic of two-valued returns is scored as the distribution that it is: see `as_distribution`.

    Args:
        scalar: of `scalar_critic`.

    Returns:
        `name`, `name`_constant, `name`_scalar where there is one, constant_from, states.
    """
    constant, source = constant_critic(states, training_returns)
    critics = {name: states.ensemble, f"{name}_constant": constant}
    if scalar is not None:
        critics[f"{name}_scalar"] = scalar
    returns = states.pooled_returns
    if training_returns is not None:
        returns = torch.cat([returns, double(training_returns).flatten()])
    values = two_values(returns)
    report: dict = {
        who: states.each(score, as_distribution(quantiles, values)).mean().item() for who, quantiles in critics.items()
    }
    return {**report, "constant_from": source, "states": len(states.quantiles)}
