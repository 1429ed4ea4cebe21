"""Whether a critic puts the better of two in front: of completions of one prompt, or continuations of one state.

What a critic says *across* prompts, it can know from how hard they are; what reranking, pruning and advantages live on
is how it orders what follows the same state (VinePPO, arXiv:2410.01679, measures value models so).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .scores import double

# Equal prefixes have equal values but for the rounding of the batches they were in: nearer than this, in units of the
# returns' scale, values are tied.
TIE = 1e-5


class Pairs(NamedTuple):
    """Pairs within each of P groups, by group number.

    Attributes:
        in_order: (P,) float64, how many were in order, ties counted half; NaN where a value is.
        pairs: (P,) float64, how many there are.
    """

    in_order: Tensor
    pairs: Tensor

    def accuracy(self) -> float:
        """Share of all pairs; NaN where there are none."""
        total = self.pairs.sum().item()
        return self.in_order.sum().item() / total if total else math.nan


def group_numbers(labels: Iterable[Hashable]) -> Tensor:
    """Labels as numbers 0..P − 1, in the order of their first appearance: (R,) int64."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels], dtype=torch.long)


def in_steps(values: Tensor, scale: float) -> Tensor:
    """Values in whole steps of `TIE` · scale, so that rounding orders nothing; float64."""
    return (double(values) / (TIE * scale)).round()


def ranking_accuracy(values: Tensor, truths: Tensor, groups: Tensor | None = None) -> float:
    """Share of pairs (i, j) of one group with (truth_i − truth_j)(v_i − v_j) > 0; ½ is chance.

    Pairs with equal truths are left out; pairs with equal values and unequal truths count one half, so that a constant
    gets ½. With truths of 0 and 1 and one group it is `auc`. Every *pair* counts once, so that it is the probability
    that a pair at random is in order, and prompts of which all completions are alike have no say; the mean over
    prompts instead would give a prompt with a single pair the weight of one with sixty. Groups share their luck: for
    an interval resample *them*, with the sums that `pairs_in_order` gives (`resampling.bootstrap_interval`).

    Args:
        values: (R,) predicted means, or any other score.
        truths: (R,) what they are to order: returns, or Monte-Carlo estimates of the true values.
        groups: (R,) numbers from 0; rows with equal numbers are compared. None: all with all.

    Returns:
        NaN where there are no pairs, or a value that has a pair is NaN.
    """
    return pairs_in_order(values, truths, groups).accuracy()


def pairs_in_order(values: Tensor, truths: Tensor, groups: Tensor | None = None, num_groups: int = 0) -> Pairs:
    """The pairs behind `ranking_accuracy`, by group; R log² R time and R memory, however large the groups.

    Args:
        values, truths, groups: as there.
        num_groups: P, if more than the greatest number + 1.
    """
    values, truths = double(values), double(truths)
    groups = torch.zeros(len(values), dtype=torch.long) if groups is None else torch.as_tensor(groups)
    if values.dim() != 1 or values.shape != truths.shape or values.shape != groups.shape:
        raise ValueError(
            f"values {tuple(values.shape)}, truths {tuple(truths.shape)} and groups {tuple(groups.shape)} must have "
            "the same shape (R,)."
        )
    values, truths, groups = values.cpu(), truths.cpu(), groups.cpu().long()
    if truths.isnan().any():
        raise ValueError("truths has NaN: what is not known orders nothing; leave these rows out.")
    num_groups = max(num_groups, int(groups.max()) + 1 if len(groups) else 0)
    undefined = torch.zeros(num_groups, dtype=torch.bool)
    undefined[groups[values.isnan()]] = True
    value, truth = (x.unique(return_inverse=True)[1] for x in (values.nan_to_num(), truths))
    different = _pairs(groups, num_groups) - _alike(groups, num_groups, truth)
    tied = _alike(groups, num_groups, value) - _alike(groups, num_groups, value * len(truths) + truth)
    # by truth, and among equal truths by value: what then stands in front with a greater value is out of order
    order = _lexsort(value, truth, groups)
    out_of_order = torch.zeros(num_groups, dtype=torch.long)
    by_value = groups[order] * len(values) + value[order]
    out_of_order.index_add_(0, groups[order], _greater_before(by_value))
    in_order = (2 * (different - out_of_order) - tied).double() / 2
    in_order[undefined & (different > 0)] = math.nan
    return Pairs(in_order, different.double())


def _pairs(groups: Tensor, num_groups: int) -> Tensor:
    counts = groups.bincount(minlength=num_groups)
    return counts * (counts - 1) // 2


def _alike(groups: Tensor, num_groups: int, labels: Tensor) -> Tensor:
    """(P,) number of pairs of one group with the same label."""
    span = int(labels.max()) + 1 if len(labels) else 1
    cells, counts = (groups * span + labels).unique(return_counts=True)
    return torch.zeros(num_groups, dtype=torch.long).index_add_(0, cells // span, counts * (counts - 1) // 2)


def _lexsort(*keys: Tensor) -> Tensor:
    """The order by the last key, where it is equal by the one before, and so on."""
    order = torch.arange(len(keys[0]))
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order


def _greater_before(numbers: Tensor) -> Tensor:
    """(R,) how many numbers before each are greater.

    Bit by bit of the numbers' ranks, from the highest: of the numbers that agree in all higher bits, those with a 1 in
    front of one with a 0 are greater than it, and no other bit has a say in that.
    """
    rank = torch.empty_like(numbers)
    rank[numbers.argsort(stable=True)] = torch.arange(len(numbers))
    found = torch.zeros_like(numbers)
    place = torch.arange(len(numbers))  # of each in the original order, as they stand sorted by their higher bits
    for bit in reversed(range(max(len(numbers) - 1, 0).bit_length())):
        higher, ones = rank[place] >> (bit + 1), (rank[place] >> bit) & 1
        before = ones.cumsum(0) - ones
        _, counts = higher.unique_consecutive(return_counts=True)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        found[place] += (before - before[starts]) * (1 - ones)
        place = place[(rank[place] >> bit).argsort(stable=True)]
    return found
