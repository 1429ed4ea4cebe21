import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from modeling_dvpo.critic.categorical import (
    SIGMA,
    categorical_cross_entropy,
    outside,
    project_returns,
    slice_means,
)
from modeling_dvpo.critic.quantiles import cvar, quantile_levels

THREE = torch.tensor([0.0, 1.0, 4.0])


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def normal_cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def test_two_hot_keeps_the_mean_by_hand():
    returns = tensor(0, 0.25, 1, 3, 4)[:, None]
    expected = tensor(1, 0, 0, 0.75, 0.25, 0, 0, 1, 0, 0, 1 / 3, 2 / 3, 0, 0, 1).reshape(5, 3)
    assert_close(project_returns(returns, THREE, "two_hot"), expected)


def test_one_hot_takes_the_nearest_atom():
    returns = tensor(0.4, 0.5, 2.4, 2.5, 9.0)[:, None]
    nearest = project_returns(returns, THREE, "one_hot").argmax(-1)
    assert nearest.tolist() == [0, 1, 1, 2, 2]


def test_hl_gauss_against_the_formula():
    """Written out with `math.erf`: mass of each bin under a normal around y, over the mass of all bins."""
    support, y = torch.linspace(-1, 2, 7, dtype=torch.float64), 0.3
    edges = [-1.25 + 0.5 * i for i in range(8)]
    below = [normal_cdf((edge - y) / (SIGMA * 0.5)) for edge in edges]
    masses = [b - a for a, b in zip(below, below[1:], strict=False)]
    expected = tensor(*masses) / sum(masses)
    assert_close(project_returns(tensor(y), support, "hl_gauss"), expected)


def test_hl_gauss_is_unbiased_within_the_support():
    """What a margin of three bins buys; at the very end half a Gaussian is left, and its mean is inside."""
    support = torch.linspace(-3, 53, 57, dtype=torch.float64)
    returns = torch.linspace(0, 50, 301, dtype=torch.float64)[:, None]
    means = project_returns(returns, support, "hl_gauss") @ support
    assert_close(means, returns[:, 0], atol=2e-3, rtol=0)
    assert project_returns(tensor(-3.0), support, "hl_gauss") @ support > -3 + 0.2


@pytest.mark.parametrize("projection", ["hl_gauss", "two_hot", "one_hot"])
def test_several_returns_are_averaged_and_those_outside_count_as_the_ends(projection, monkeypatch):
    monkeypatch.setattr("modeling_dvpo.critic.categorical._CHUNK", 16)  # several chunks
    support = torch.linspace(0, 1, 5, dtype=torch.float64)
    returns = tensor(-7, 0.1, 0.6, 9).reshape(2, 2)
    alone = project_returns(tensor(0, 0.1, 0.6, 1)[:, None], support, projection)
    assert_close(project_returns(returns, support, projection), alone.reshape(2, 2, 5).mean(1))


def test_what_cannot_be_projected():
    with pytest.raises(ValueError, match="hl_gauss needs equally spaced atoms; use two_hot"):
        project_returns(tensor(0), THREE, "hl_gauss")
    with pytest.raises(ValueError, match="projection is 'gauss'; it must be one of hl_gauss, two_hot, one_hot"):
        project_returns(tensor(0), THREE, "gauss")


def test_slice_means_by_hand():
    # levels 0-1/4, ..., 3/4-1; F jumps at .3 and .6: the second slice holds .05 of 0 and .2 of 1, the third .1 of 1
    # and .15 of 4
    expected = tensor(0, 0.2 * 4, (0.1 + 0.15 * 4) * 4, 4)
    assert_close(slice_means(tensor(0.3, 0.3, 0.4), THREE, 4), expected)
    # one slice is the mean; a certain return is each slice
    assert_close(slice_means(tensor(0.3, 0.3, 0.4), THREE, 1), tensor(1.9))
    assert slice_means(torch.tensor([0.0, 1.0, 0.0]), THREE, 7).tolist() == [1.0] * 7


masses = st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda p: sum(p) > 1e-3)


@given(masses, st.integers(1, 30), st.integers(0, 2**31))
def test_slice_means_keep_mean_and_tails(masses, num_quantiles, seed):
    """Against the distribution itself: its mean, the mean of its lowest k/M, and its quantiles where F is flat."""
    p = tensor(*masses) / sum(masses)
    support = torch.randn(len(p), generator=torch.Generator().manual_seed(seed)).double().sort().values
    support = support + 0.01 * torch.arange(len(p))
    quantiles = slice_means(p, support, num_quantiles)
    assert_close(quantiles.mean(), p @ support, atol=1e-9, rtol=0)
    assert (quantiles.diff() >= -1e-12).all()
    assert support[0] <= quantiles.min() and quantiles.max() <= support[-1]
    # the lower tail of weight k/M from the atoms
    k = 1 + seed % num_quantiles
    level = k / num_quantiles
    kept = (level - (p.cumsum(0) - p)).clamp(min=0).minimum(p)
    assert_close(cvar(quantiles, level), kept @ support / level, atol=1e-8, rtol=0)
    # the usual inversion at midpoint levels, where no jump lies within the slice
    levels = quantile_levels(num_quantiles, dtype=torch.float64)
    inverted = support[torch.searchsorted(p.cumsum(0)[:-1].contiguous(), levels)]
    jumps = ((p.cumsum(0)[:-1, None] - levels).abs() < 0.5001 / num_quantiles).any(0)
    assert_close(quantiles[~jumps], inverted[~jumps])


def test_slice_means_of_many_states_in_float32():
    """Zeros and ones come out exact, whatever rounding does to sums of probabilities."""
    p = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))[:, None, :].softmax(-1)
    quantiles = slice_means(p, torch.tensor([0.0, 0.5, 1.0]), 200)
    assert quantiles.shape == (500, 1, 200) and quantiles.dtype == torch.float32
    assert_close(quantiles.mean(-1), p @ torch.tensor([0.0, 0.5, 1.0]), atol=1e-6, rtol=0)
    whole = (quantiles == 0) | (quantiles == 0.5) | (quantiles == 1)
    assert whole.float().mean() > 0.989  # all but the two slices with a jump


def test_slice_means_have_the_gradient_of_what_they_are():
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    support = torch.linspace(-1, 1, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: slice_means(x.softmax(-1), support, 6).square().sum(), logits)


def test_cross_entropy_by_hand():
    # two heads; state 1 is masked. Returns 1 and 4 -> targets 0, 1/2, 1/2
    logits = torch.zeros(1, 2, 2, 3)
    logits[0, 0, 1] = torch.tensor([0.0, math.log(2), 0.0])
    returns = torch.tensor([[[1.0, 4.0], [math.nan, 9.0]]])
    mask = torch.tensor([[True, False]])
    loss, terms = categorical_cross_entropy(logits, returns, mask, THREE, "two_hot", num_items=4)
    head_0, head_1 = math.log(3), -(math.log(2 / 4) + math.log(1 / 4)) / 2
    assert loss.item() == pytest.approx((head_0 + head_1) / 2 / 4)
    assert terms["cross_entropy"].item() == pytest.approx(loss.item()) and terms["clipped"] == 0


def test_what_counts_as_the_ends_is_counted():
    logits, mask = torch.zeros(1, 2, 1, 3), torch.ones(1, 2, dtype=torch.bool)
    returns = torch.tensor([[[5.0, 1.0], [-3.0, 6.0]]])
    _, terms = categorical_cross_entropy(logits, returns, mask, THREE, "two_hot")
    assert terms["clipped"].item() == 0.75
    assert outside(torch.tensor([-1e-6, 4 + 1e-6, -0.1, 4.1]), THREE).tolist() == [False, False, True, True]


def test_bernoulli_cross_entropy_is_bce():
    """Against torch: two logits (0, z) on [0, 1]."""
    z, y = torch.randn(2, 3), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    logits = torch.nn.functional.pad(z[..., None, None], (1, 0))
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss, _ = categorical_cross_entropy(logits, y[..., None], mask, torch.tensor([0.0, 1.0]), "two_hot")
    assert_close(loss, torch.nn.functional.binary_cross_entropy_with_logits(z, y))


def test_no_state_gives_a_loss_of_zero_on_the_graph():
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    loss, _ = categorical_cross_entropy(
        logits, torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.bool), THREE, "two_hot"
    )
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_gradient():
    logits = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    returns, mask = torch.rand(1, 2, 4, dtype=torch.float64) * 4, torch.ones(1, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda x: categorical_cross_entropy(x, returns, mask, THREE.double(), "two_hot")[0], logits
    )
