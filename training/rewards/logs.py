"""What reward functions say besides rewards: columns for completions.jsonl and metrics, as TRL lets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import RewardDataError

# of the table of completions; `reward/...` are the functions' own rewards
TABLE_COLUMNS = ("step", "dataset", "prompt", "completion", "reward")


class RewardLog:
    """Takes what the functions log of one batch; its two methods are what they are given.

    Attributes:
        columns: by name, one value a row.
        metrics: (name, value), one a call.
    """

    def __init__(self, num_rows: int):
        self.num_rows = num_rows
        self.columns: dict[str, list] = {}
        self.metrics: list[tuple[str, float]] = []

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """A column of the table of completions.

        Raises:
            RewardDataError: not one value a row, a second column of this name, or one that the table has already.
        """
        if column in TABLE_COLUMNS or column.startswith("reward/") or column in self.columns:
            raise RewardDataError(f"log_extra: there is a column {column!r} already; choose another name.")
        values = [_for_json(value) for value in values]
        if len(values) != self.num_rows:
            raise RewardDataError(
                f"log_extra: {len(values)} values of {column!r} for {self.num_rows} rows: give one value, or None, "
                "per row."
            )
        self.columns[column] = values

    def log_metric(self, name: str, value: float) -> None:
        """A number of the batch; the run's metrics have the mean over a step's calls, of all ranks."""
        self.metrics.append((name, float(value)))


def mean_metrics(logged: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The mean of each name's values, in the order of the names' alphabet, which is the same on every rank."""
    values: dict[str, list[float]] = {}
    for name, value in sorted(logged, key=lambda one: one[0]):
        values.setdefault(name, []).append(value)
    return {name: math.fsum(of) / len(of) for name, of in values.items()}


def add_logged(metrics: dict[str, float], logged: dict[str, float]) -> dict[str, float]:
    """The run's own metrics and the functions'.

    Raises:
        RewardDataError: a function's metric has the name of one of the run's.
    """
    if clash := sorted(metrics.keys() & logged.keys()):
        raise RewardDataError(f"log_metric: the run has a metric {clash[0]!r} of its own; choose another name.")
    return metrics | logged


def _for_json(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # numbers of numpy and torch
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
