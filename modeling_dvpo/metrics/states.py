"""Rows as a metric module gets them, lists of lists of any length, as tensors of states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .report import discrete_tolerance


@dataclass(frozen=True)
class States:
    """All states of all rows, in order; R states, N heads, M quantiles.

    Attributes:
        quantiles: (R, N, M) float64.
        returns: of each number K of returns that a state may have, the places (R',) of the states that have as many,
            and their returns (R', K) float64.
        lengths: states of each row; 1 where a row is a state.
    """

    quantiles: Tensor
    returns: list[tuple[Tensor, Tensor]]
    lengths: list[int]

    @property
    def ensemble(self) -> Tensor:
        """(R, M): the mean over heads, quantile by quantile."""
        return self.quantiles.mean(1)

    @property
    def pooled_returns(self) -> Tensor:
        """Every return of every state, flat."""
        return torch.cat([returns.flatten() for _, returns in self.returns])

    @property
    def mean_returns(self) -> Tensor:
        """(R,): the mean over a state's returns."""
        return self.each(lambda _, returns: returns.mean(-1), self.quantiles)

    def each(self, score: Callable[[Tensor, Tensor], Tensor], predicted: Tensor) -> Tensor:
        """(R,): `score(predicted of some states, their returns (R', K)) -> (R',)` of every state."""
        scores = torch.empty(len(predicted), dtype=torch.float64)
        for places, returns in self.returns:
            scores[places] = score(predicted[places], returns)
        return scores

    def tolerance(self, tolerance: float | None) -> float:
        """As given, or what suits the returns: see `CriticReport`."""
        return discrete_tolerance(self.pooled_returns) if tolerance is None else tolerance

    def require_distributions(self) -> None:
        """Raise ValueError for a scalar critic, of which the metric says nothing."""
        if self.quantiles.shape[-1] < 2:
            raise ValueError("predictions have one quantile a state, and this metric is of distributions; give more.")

    def rows(self, of_states: Tensor) -> list[Tensor]:
        """What there is of each state, cut into the rows' pieces."""
        return list(of_states.split(self.lengths))


def read_states(predictions: list, references: list | None, kind: str) -> States:
    """Rows of numbers as states.

    Args:
        predictions: a state's prediction is its value, (M,) quantiles of one head or (N, M) of several; a row is one
            of these ("states") or those of T states in order ("responses").
        references: a state's returns are one number or K of them; a row of "responses" holds those of its T states,
            or one number, the return in all of them. None where the metric has no use for them.
        kind: "states" or "responses".

    Raises:
        ValueError: a row without numbers, with something else than finite numbers, with more or fewer heads or
            quantiles than the first, or whose returns do not fit its states.
    """
    rows = [read_row(row, place, "predictions", kind, (0, 1, 2)) for place, row in enumerate(predictions)]
    shapes = [row.shape[1:] for row in rows]
    for place, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"Row {place} has quantiles {shape} a state and row 0 {shapes[0]}: all must have the same heads and "
                'quantiles. If rows are whole responses, load the metric with "responses" as its config_name.'
            )
    # a value is one head of one quantile, (M,) quantiles are those of one head
    heads_and_quantiles = {0: (1, 1), 1: (1, *shapes[0]), 2: shapes[0]}[len(shapes[0])]
    quantiles = torch.from_numpy(np.concatenate(rows)).reshape(-1, *heads_and_quantiles)
    lengths = [len(row) for row in rows]
    returns = [] if references is None else _returns(references, lengths, kind)
    return States(quantiles, returns, lengths)


def _returns(references: list, lengths: list[int], kind: str) -> list[tuple[Tensor, Tensor]]:
    rows = []
    for place, (row, length) in enumerate(zip(references, lengths, strict=True)):
        if kind == "responses" and not isinstance(row, list):
            row = [row] * length
        row = read_row(row, place, "references", kind, (0, 1))
        if len(row) != length:
            raise ValueError(
                f"Row {place} has {length} states in predictions and {len(row)} in references: give a return for each "
                "state, or one number for all of them."
            )
        rows.append(row.reshape(length, -1))
    counts = np.repeat([row.shape[1] for row in rows], lengths)
    groups = []
    for count in np.unique(counts):
        places = torch.from_numpy(np.flatnonzero(counts == count))
        groups.append((places, torch.from_numpy(np.concatenate([row for row in rows if row.shape[1] == count]))))
    return groups


def read_row(row, place: int, what: str, kind: str, dimensions: Sequence[int]) -> np.ndarray:
    """A row as float64, its states in front: (T, ...), T = 1 where the row is a state."""
    try:
        array = np.asarray(row, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Row {place} of {what} is not a regular table of numbers: {str(row)[:80]}.") from None
    array = array if kind == "responses" else array[None]
    if array.ndim - 1 not in dimensions or not array.size:
        raise ValueError(
            f"Row {place} of {what} has shape {np.shape(row)}, which {kind[:-1]} rows cannot have, or is empty."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"Row {place} of {what} has a number that is not finite, or none where one is due.")
    return array
