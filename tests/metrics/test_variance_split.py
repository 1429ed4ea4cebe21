"""Explained variance between and within prompts: by hand, by definition, and the law that holds them together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import variance_split as slow_split

from modeling_dvpo.metrics.scores import explained_variance
from modeling_dvpo.metrics.variance_split import VarianceSplit, variance_split

NAMES = ("explained_variance_between", "explained_variance_within", "variance_within")
few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
states = st.lists(st.tuples(few, few, st.integers(0, 3)), min_size=1, max_size=20)
check = settings(max_examples=100, deadline=None)


def columns(states):
    values, returns, groups = zip(*states, strict=True)
    return torch.tensor(values), torch.tensor(returns), torch.tensor(groups)


def figures(*columns):
    found = variance_split(*columns)
    assert tuple(found) == NAMES
    return list(found.values())


def test_by_hand():
    """Returns 0 2 | 4 4 4 6: means 1 and 4.5, over the six states 10/3 with variance (2 · 49/9 + 4 · 49/36)/6 = 49/18;
    within (1 + 1 + 3 · 1/4 + 9/4)/6 = 5/6. Values 1 1 | 3 3 4 4: their means 1 and 3.5, so errors of means 0 and 1:
    variance 2/3 · 1/3 = 2/9. Errors within: -1 1 | 0 0 -1 1: 4/6."""
    values, returns = torch.tensor([1.0, 1, 3, 3, 4, 4]), torch.tensor([0.0, 2, 4, 4, 4, 6])
    found = figures(values, returns, torch.tensor([0, 0, 1, 1, 1, 1]))
    # errors within group 1 are returns less mean (-½ -½ -½ 3/2) less values less mean (-½ -½ ½ ½): 0 0 -1 1
    assert found == pytest.approx([1 - (2 / 9) / (49 / 18), 1 - (4 / 6) / (5 / 6), (5 / 6) / (49 / 18 + 5 / 6)])


@check
@given(states)
def test_is_its_definition(states):
    assert figures(*columns(states)) == pytest.approx(list(slow_split(*columns(states))), nan_ok=True)


@check
@given(states)
def test_the_parts_make_the_whole(states):
    values, returns, groups = columns(states)
    between, within, share = figures(values, returns, groups)
    if not math.isnan(between + within):
        assert (1 - share) * between + share * within == pytest.approx(explained_variance(values, returns))


def test_a_critic_that_knows_prompts_alone_explains_nothing_within():
    returns, groups = torch.tensor([0.0, 1, 1, 0, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    means = torch.tensor([2 / 3] * 3 + [0.0] * 3)
    assert figures(means, returns, groups)[:2] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert figures(returns - means, returns, groups)[:2] == pytest.approx([0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("returns", "groups", "undefined"),
    [
        ([0.3] * 4, [0, 0, 1, 1], {*NAMES}),
        ([0.0, 0.1, 0.2], [0, 1, 2], {"explained_variance_within"}),  # one completion each
        ([0.1, 0.1, 0.7, 0.7], [0, 0, 1, 1], {"explained_variance_within"}),  # as many states, one return
        ([0.1, 0.7, 0.7, 0.1], [0, 0, 1, 1], {"explained_variance_between"}),
    ],
)
def test_what_is_not_defined(returns, groups, undefined):
    found = variance_split(torch.rand(len(returns)), torch.tensor(returns), torch.tensor(groups))
    assert {name for name, figure in found.items() if math.isnan(figure)} == undefined


@check
@given(states, st.integers(1, 19))
def test_any_cut_and_any_centre_give_the_whole(states, cut):
    values, returns, groups = columns(states)
    parts = [VarianceSplit(4, centre) for centre in (5.0, 5.0)]
    for part, where in zip(parts, (slice(None, cut), slice(cut, None)), strict=True):
        part.add(values[where], returns[where], groups[where])
    parts[0].reduce(lambda sums: sums + parts[1].sums)
    assert list(parts[0].compute().values()) == pytest.approx(figures(values, returns, groups), nan_ok=True, abs=1e-9)


def test_a_large_offset_keeps_the_digits():
    values, returns = torch.tensor([1.0, 1, 3, 4]).double(), torch.tensor([0.0, 2, 4, 6]).double()
    groups = torch.tensor([0, 0, 1, 1])
    assert figures(values + 1e6, returns + 1e6, groups) == pytest.approx(figures(values, returns, groups), rel=1e-6)


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"values \(2,\), returns \(3,\) and groups \(3,\)"):
        variance_split(torch.zeros(2), torch.zeros(3), torch.zeros(3, dtype=torch.long))
