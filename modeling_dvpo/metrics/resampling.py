"""How sure a figure is that is made of groups which share their luck, such as the completions of a prompt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RESAMPLES = 2000
# group numbers drawn at a time: what is held in memory, whatever the number of groups
_CHUNK = 1 << 22


def bootstrap_interval(
    numerators: Tensor, denominators: Tensor | None = None, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """What holds 95 % of Σ numerators / Σ denominators over resampled groups (percentile bootstrap; Efron, 1979).

    Args:
        numerators: (P,) of each group, such as its pairs in order, or its own figure.
        denominators: (P,), such as its pairs; 1 for each by default, for a mean over groups.
        confidence: between 0 and 1.
        seed: of the resamples, which are drawn on the CPU: the same on every rank.

    Returns:
        Low and high; NaN where there are no groups, or a resample is not defined. Groups whose denominator is 0 are
        resampled, too: how many count is a part of the luck. Resamples in which none counts are left out.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it is a share between 0 and 1.")
    numerators = torch.as_tensor(numerators).double().cpu()
    denominators = (
        torch.ones_like(numerators) if denominators is None else torch.as_tensor(denominators).double().cpu()
    )
    if numerators.dim() != 1 or numerators.shape != denominators.shape:
        raise ValueError(
            f"numerators {tuple(numerators.shape)} and denominators {tuple(denominators.shape)} must have the same "
            "shape (P,)."
        )
    if not denominators.any() or numerators.isnan().any():
        return math.nan, math.nan
    both = torch.stack([numerators, denominators], -1)
    generator = torch.Generator().manual_seed(seed)
    at_a_time = max(1, _CHUNK // len(both))
    sums = []
    for start in range(0, RESAMPLES, at_a_time):
        count = min(at_a_time, RESAMPLES - start)
        sums.append(both[torch.randint(len(both), (count, len(both)), generator=generator)].sum(1))
    resampled = torch.cat(sums)
    resampled = resampled[resampled[:, 1] != 0]
    tail = (1.0 - confidence) / 2
    levels = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
    low, high = (resampled[:, 0] / resampled[:, 1]).quantile(levels).tolist()
    return low, high
