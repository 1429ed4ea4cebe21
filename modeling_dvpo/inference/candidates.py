"""Candidates for one prompt, and their order by what a critic says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..text.assistant_turns import Messages
from .risk_measures import RiskMeasure


@dataclass(frozen=True)
class Candidate:
    """One candidate and what the critic says of it.

    Attributes:
        completion: as it was given, or what the policy wrote (without an end token).
        score: higher is better.
        place: which of the candidates it was, in the order given or written.
        quantiles: (N, M) float32 on the CPU, in the state that was scored.
        num_tokens: of the completion, its end token included.
        pruned: dropped before it had ended; its completion and its score are those of the part that was written.
    """

    completion: str | Messages
    score: float
    place: int
    quantiles: Tensor = field(repr=False)
    num_tokens: int
    pruned: bool = False

    @property
    def value(self) -> float:
        """The expected return: mean over heads and quantiles."""
        return self.quantiles.mean().item()


def ranked(
    completions: Sequence[str | Messages],
    states: Sequence[Tensor],
    lengths: Sequence[int],
    pruned: Sequence[bool],
    measure: RiskMeasure,
) -> list[Candidate]:
    """Candidates from the best to the worst, pruned ones behind all others; of equal ones, the first first.

    Args:
        completions, lengths, pruned: as in `Candidate`, one for each.
        states: (N, M) each, what they are scored by.
        measure: of (K, M) quantiles, (K,) numbers.

    Raises:
        ValueError: the measure gives something else.
    """
    columns = zip(
        completions,
        _scores(measure, torch.stack(list(states))),
        range(len(states)),
        states,
        lengths,
        pruned,
        strict=True,
    )
    candidates = [Candidate(*column) for column in columns]
    return sorted(candidates, key=lambda candidate: (candidate.pruned, -candidate.score))


def _scores(measure: RiskMeasure, states: Tensor) -> list[float]:
    """Of states (K, N, M)."""
    scores = measure(states.mean(-2))
    if not isinstance(scores, Tensor) or scores.shape != states.shape[:1]:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"The score gave {shape} for {len(states)} candidates; it must be a function from quantiles "
            f"({len(states)}, {states.shape[-1]}) to a tensor of {len(states)} numbers."
        )
    numbers = scores.tolist()
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"Scores must be finite, got {numbers}: candidates cannot be ranked by them.")
    return numbers
