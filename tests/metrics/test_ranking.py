"""Pairs in order against hand-worked values, a loop over all pairs, and areas under ROC curves."""

import math
import time

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import pairs_in_order as slow_pairs

from modeling_dvpo.metrics.ranking import TIE, group_numbers, in_steps, pairs_in_order, ranking_accuracy
from modeling_dvpo.metrics.scores import auc

few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
rows = st.lists(st.tuples(few, few, st.integers(0, 3)), min_size=1, max_size=24)
check = settings(max_examples=100, deadline=None)


def columns(rows):
    values, truths, groups = zip(*rows, strict=True)
    return torch.tensor(values), torch.tensor(truths), torch.tensor(groups)


def test_by_hand():
    """Group 0: truths 1 0 0 with values .5 .5 .2: a tie and one in order. Group 1: truths 0 2 1 with values 3 1 2:
    0 below 2 and 0 below 1 are wrong, and so is 1 below 2. Group 2: truths alike. So 1.5 of 5."""
    values = torch.tensor([0.5, 3.0, 0.5, 1.0, 0.2, 2.0, 9.0, 8.0])
    truths = torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0, 1.0, 1.0, 1.0])
    groups = torch.tensor([0, 1, 0, 1, 0, 1, 2, 2])
    found = pairs_in_order(values, truths, groups)
    assert found.in_order.tolist() == [1.5, 0.0, 0.0] and found.pairs.tolist() == [2.0, 3.0, 0.0]
    assert ranking_accuracy(values, truths, groups) == 0.3  # of pairs; of the two prompts it would be (.75 + 0)/2


@check
@given(rows)
def test_is_its_definition(rows):
    values, truths, groups = columns(rows)
    found = pairs_in_order(values, truths, groups, num_groups=5)
    in_order, pairs = slow_pairs(values, truths, groups, 5)
    assert torch.equal(found.in_order, in_order) and torch.equal(found.pairs, pairs)


@check
@given(rows)
def test_of_one_group_with_flags_is_the_area_under_the_roc_curve(rows):
    values, truths, _ = columns(rows)
    flags = truths > 0
    expected = auc(values, flags)
    assert ranking_accuracy(values, flags) == pytest.approx(expected, abs=1e-15, nan_ok=True)


@check
@given(rows)
def test_is_somers_d_of_the_values_given_the_truths(rows):
    """Which is in order less out of order, of the pairs with unequal truths."""
    values, truths, _ = columns(rows)
    if min(values.unique().numel(), truths.unique().numel()) > 1:
        found = ranking_accuracy(values, truths)
        assert found == pytest.approx((scipy.stats.somersd(truths.numpy(), values.numpy()).statistic + 1) / 2)


@check
@given(rows, st.randoms())
def test_what_it_does_not_depend_on(rows, random):
    """Order of the rows, names of the groups, units of values and truths; turned round it is the rest to 1."""
    values, truths, groups = columns(rows)
    expected = ranking_accuracy(values, truths, groups)
    order = list(range(len(rows)))
    random.shuffle(order)
    same = [
        ranking_accuracy(values[order], truths[order], groups[order]),
        ranking_accuracy(values, truths, 3 - groups),
        ranking_accuracy(values.exp(), truths**3 - 7, groups),
        1 - ranking_accuracy(-values, truths, groups),
    ]
    assert same == [pytest.approx(expected, abs=1e-15, nan_ok=True)] * 4


@check
@given(rows, few)
def test_a_constant_is_a_coin(rows, constant):
    values, truths, groups = columns(rows)
    found = ranking_accuracy(torch.full_like(values, constant), truths, groups)
    assert found == 0.5 or not pairs_in_order(values, truths, groups).pairs.any()


def test_without_pairs_it_is_undefined():
    assert math.isnan(ranking_accuracy(torch.zeros(0), torch.zeros(0)))
    assert math.isnan(ranking_accuracy(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0, 1])))


def test_a_nan_value_has_no_place():
    """A critic that has diverged is not ordered as if NaN were the greatest number; other groups keep theirs."""
    values, truths = torch.tensor([math.nan, 0.0, 1.0, 2.0, math.nan]), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    groups = torch.tensor([0, 0, 1, 1, 2])
    found = pairs_in_order(values, truths, groups)
    assert found.in_order.tolist() == [pytest.approx(math.nan, nan_ok=True), 1.0, 0.0]
    assert math.isnan(ranking_accuracy(values, truths, groups))
    with pytest.raises(ValueError, match="truths has NaN"):
        ranking_accuracy(truths, values, groups)


def test_large_groups_are_no_trouble():
    """10,000 rows have 5·10⁷ pairs, of which no table is made; against scipy's inversion count."""
    generator = torch.Generator().manual_seed(0)
    truths = torch.randn(10_000, generator=generator, dtype=torch.float64)
    values = truths + torch.randn(10_000, generator=generator, dtype=torch.float64)
    started = time.perf_counter()
    found = ranking_accuracy(values, truths)
    assert time.perf_counter() - started < 2
    assert found == pytest.approx((scipy.stats.kendalltau(values, truths).statistic + 1) / 2, abs=1e-12)


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"values \(2,\), truths \(3,\) and groups \(2,\)"):
        ranking_accuracy(torch.zeros(2), torch.zeros(3), torch.zeros(2))


def test_groups_are_numbered_as_they_appear():
    assert group_numbers(["b", 7, "b", None]).tolist() == [0, 1, 0, 2]


def test_rounding_orders_nothing():
    values = in_steps(torch.tensor([0.3, 0.3 + 1e-7, 0.3 + 3 * TIE]), scale=1.0)
    assert values[0] == values[1] < values[2]
    assert in_steps(torch.tensor([0.3, 0.3 + 3 * TIE]), scale=1e3).unique().numel() == 1  # of units of 1,000
