"""The functionals of `quantiles.py` by name: what settings, scores and commands call them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..critic.quantiles import (
    cvar,
    expectation,
    lower_confidence,
    spectral_risk,
    upper_tail_mean,
    value_at_risk,
    wang_risk,
)

RiskMeasure = Callable[[Tensor], Tensor]

# name -> functional and the value its parameter has unless one is given
RISK_MEASURES: dict[str, tuple[Callable, float | None]] = {
    "expectation": (expectation, None),
    "cvar": (cvar, 0.1),
    "upper_tail_mean": (upper_tail_mean, 0.1),
    "value_at_risk": (value_at_risk, 0.5),
    "spectral": (spectral_risk, 1.0),
    "wang": (wang_risk, 0.5),
    "lower_confidence": (lower_confidence, 1.0),
}
# what people say for them
SHORT_NAMES = {"mean": "expectation", "upper_tail": "upper_tail_mean"}


def risk_measure(name: str, level: float | None) -> RiskMeasure:
    """The functional by name, (..., M) -> (...), with its parameter (`level`) or the default of RISK_MEASURES."""
    functional, default = RISK_MEASURES[name]
    return functional if default is None else partial(_call, functional, default if level is None else level)


def parse_risk_measure(spec: str | RiskMeasure) -> RiskMeasure:
    """A functional (..., M) -> (...) from how a user writes it.

    Args:
        spec: a name of RISK_MEASURES or SHORT_NAMES ("mean", "cvar", "upper_tail", ...), alone or with its parameter,
            "cvar=0.25"; or a function, which is returned as it is.

    Raises:
        ValueError: there is no such functional, or its parameter is no number, or it has none.
    """
    if callable(spec):
        return spec
    name, given, level = str(spec).partition("=")
    name = SHORT_NAMES.get(name, name)
    if name not in RISK_MEASURES:
        known = [*SHORT_NAMES, *RISK_MEASURES]
        raise ValueError(
            f"{spec!r} is no risk measure: give one of {', '.join(known)}, with its parameter if you like "
            '("cvar=0.25"), or a function from quantiles (..., M) to numbers (...).'
        )
    if not given:
        return risk_measure(name, None)
    if RISK_MEASURES[name][1] is None:
        raise ValueError(f"{spec!r}: {name} has no parameter; write {name!r}.")
    try:
        number = float(level)
    except ValueError:
        raise ValueError(f'{spec!r}: the parameter must be a number, as in "{name}=0.25".') from None
    return risk_measure(name, number)


def quantiles_at(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """(..., L) quantiles at these levels of (..., M) atoms: of each, the lowest atom that reaches the level."""
    ordered = quantiles.sort(-1).values
    return torch.stack([value_at_risk(ordered, level, assume_sorted=True) for level in levels], -1)


def _call(functional, level, quantiles):
    return functional(quantiles, level)
