import math

import pytest
import torch
from torch.testing import assert_close

from modeling_dvpo.critic.value_heads import (
    SMALLEST_GAP,
    BernoulliHeads,
    BoundedHeads,
    CategoricalHeads,
    LinearQuantileHeads,
    MonotoneQuantileHeads,
)

BOTH = pytest.mark.parametrize("heads_class", [LinearQuantileHeads, MonotoneQuantileHeads])


def heads_of(heads_class, hidden_size=8, num_value_heads=3, num_quantiles=5, quantiles=None):
    torch.manual_seed(0)
    heads = heads_class(hidden_size, num_value_heads, num_quantiles)
    heads.reset(heads.to_bias(torch.linspace(-2, 3, num_quantiles) if quantiles is None else quantiles))
    return heads


def said(heads, states):
    return heads.quantiles(heads(states))


def test_linear_heads_by_hand():
    heads = LinearQuantileHeads(hidden_size=2, num_value_heads=2, num_quantiles=3)
    with torch.no_grad():
        heads.weight.copy_(torch.tensor([[1, 0], [0, 1], [1, 1], [2, 0], [0, 2], [-1, 1]]))
        heads.bias.copy_(torch.tensor([0, 10, 20, 30, 40, 50]))
    # h = (3, 5); rows of `weight` give 3, 5, 8 | 6, 10, 2: the first M = 3 rows are head 0
    expected = torch.tensor([[3.0, 15.0, 28.0], [36.0, 50.0, 52.0]])
    assert_close(said(heads, torch.tensor([3.0, 5.0])), expected)


def test_monotone_heads_by_hand():
    heads = MonotoneQuantileHeads(hidden_size=1, num_value_heads=2, num_quantiles=3)
    with torch.no_grad():
        heads.weight.copy_(torch.tensor([[2.0], [1.0], [0.0], [1.0], [0.0], [-1.0]]))
        heads.bias.copy_(torch.tensor([-1.0, 0.0, 0.0, 0.0, math.log(math.e - 1), 0.0]))
    # h = log 3: head 0 has raw outputs 2 log 3 - 1, log 3, 0; softplus(log 3) = log 4, softplus(0) = log 2
    # head 1: raw log 3, log(e - 1), -log 3; softplus(log(e - 1)) = log e = 1, softplus(-log 3) = log(4/3)
    first = 2 * math.log(3) - 1
    expected = [
        [first, first + math.log(4), first + math.log(8)],
        [math.log(3), math.log(3) + 1, math.log(3) + 1 + math.log(4 / 3)],
    ]
    assert_close(said(heads, torch.tensor([math.log(3)])), torch.tensor(expected))


@BOTH
def test_fresh_heads_start_at_the_given_quantiles_and_are_distinct(heads_class):
    quantiles = torch.tensor([-3.0, -0.5, 0.125, 0.25, 9.0])
    heads = heads_of(heads_class, quantiles=quantiles)
    assert_close(said(heads, torch.zeros(8)), quantiles.expand(3, 5))
    # and stay near them for hidden states of unit variance, each head and each state in its own way
    outputs = said(heads, torch.randn(1000, 8))
    away = (outputs - quantiles).abs()
    assert 1e-4 < away.mean() < 0.05 and away.max() < 0.2
    assert (outputs[:4].diff(dim=1).abs() > 1e-6).all() and (outputs[:4].diff(dim=0).abs() > 1e-6).all()


@BOTH
def test_fresh_heads_do_not_cross(heads_class):
    """Weights drawn apart for every quantile cross at once where quantiles are close; one direction a head cannot."""
    heads = heads_of(heads_class, num_quantiles=200, quantiles=torch.linspace(0, 0.1, 200))
    assert (said(heads, 10 * torch.randn(500, 8)).diff() >= 0).all()


def test_linear_heads_may_cross_and_monotone_heads_cannot():
    states = 5 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    crosses = {}
    for heads_class in (LinearQuantileHeads, MonotoneQuantileHeads):
        heads = heads_of(heads_class, num_quantiles=50)
        with torch.no_grad():
            heads.weight.normal_(std=3)
            heads.bias.normal_(std=3)
        crosses[heads_class] = (said(heads, states).diff() < 0).any().item()
    assert crosses == {LinearQuantileHeads: True, MonotoneQuantileHeads: False}


@BOTH
def test_to_bias_is_the_inverse_of_quantiles(heads_class):
    heads = heads_of(heads_class)
    for quantiles in ([-3.0, -0.5, 0.125, 0.25, 9.0], [0.0, 0.01, 0.02, 100.0, 1000.0]):
        quantiles = torch.tensor(quantiles)
        assert_close(heads.quantiles(heads.to_bias(quantiles)), quantiles)


def test_monotone_heads_start_at_discrete_quantiles_within_their_smallest_gap():
    """softplus(x) = 0 has no finite solution: without a smallest gap, returns of 0 and 1 gave a bias of -inf.

    With the gaps widened one by one instead, 200 quantiles of returns 0 and 1 drifted upwards by 0.2 deviations.
    """
    heads = heads_of(MonotoneQuantileHeads, quantiles=torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]))
    assert heads.bias.isfinite().all()
    gap = SMALLEST_GAP
    # raised to 0, g, 2g, 1, 1 + g, which is 4g/5 too high in the mean
    expected = torch.tensor([-0.8 * gap, 0.2 * gap, 1.2 * gap, 1 - 0.8 * gap, 1 + 0.2 * gap])
    assert_close(said(heads, torch.zeros(8)), expected.expand(3, 5), atol=1e-6, rtol=0)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_is_float32_for_half_precision_states(heads_class, dtype):
    heads = heads_of(heads_class)
    states = torch.randn(4, 8).to(dtype)
    outputs = said(heads, states)
    assert outputs.dtype == torch.float32
    assert torch.equal(outputs, said(heads, states.float()))


@BOTH
def test_autocast_does_not_touch_the_heads(heads_class):
    heads, states = heads_of(heads_class), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.nn.functional.linear(states, heads.weight).dtype == torch.bfloat16  # autocast is live here
        inside = heads(states)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, heads(states))


@BOTH
def test_gradients_reach_weight_bias_and_states(heads_class):
    heads = heads_of(heads_class, hidden_size=3, num_value_heads=2, num_quantiles=4).double()

    def run(states, weight, bias):
        outputs = states @ weight.T + bias  # float64, as gradcheck needs it
        return heads.quantiles(outputs.unflatten(-1, (2, 4)))

    inputs = (torch.randn(2, 3).double(), heads.weight.detach(), heads.bias.detach())
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])
    states = torch.randn(2, 3).bfloat16().requires_grad_()
    said(heads.float(), states).square().sum().backward()
    for gradient in (states.grad, heads.weight.grad, heads.bias.grad):
        assert (gradient != 0).all()


def test_quantities_are_shown():
    assert repr(LinearQuantileHeads(8, 3, 5)) == "LinearQuantileHeads(8 -> 3 x 5)"


def fresh(heads, returns=None):
    heads.reset(heads.first_bias(None if returns is None else torch.tensor(returns).double().sort().values, 0.0, 1.0))
    return said(heads, torch.zeros(heads.hidden_size))


def test_categorical_heads_by_hand():
    heads = CategoricalHeads(1, 2, 4, [-1.0, 0.0, 3.0])
    with torch.no_grad():
        heads.weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0], [1.0]]))
        heads.bias.zero_()
    # h = log 2: head 0 has 1/2, 1/4, 1/4 and head 1 has 1/4, 1/4, 1/2 on -1, 0, 3
    expected = torch.tensor([[-1.0, -1.0, 0.0, 3.0], [-1.0, 0.0, 3.0, 3.0]])
    assert_close(said(heads, torch.tensor([math.log(2)])), expected)
    assert heads(torch.zeros(5, 1)).shape == (5, 2, 3)


def test_bernoulli_heads_by_hand():
    heads = BernoulliHeads(1, 1, 4, [0.0, 10.0])
    with torch.no_grad():
        heads.weight.fill_(1.0)
        heads.bias.zero_()
    # P(10) = sigmoid(log 3) = 3/4, then 3/8: a slice in which half is 0 and half 10
    assert_close(said(heads, torch.tensor([math.log(3)])), torch.tensor([[0.0, 10.0, 10.0, 10.0]]))
    assert_close(said(heads, torch.tensor([math.log(3 / 5)])), torch.tensor([[0.0, 0.0, 5.0, 10.0]]))


def test_bounded_heads_by_hand():
    heads = BoundedHeads(1, 1, 1, [-2.0, 6.0])
    with torch.no_grad():
        heads.weight.fill_(1.0)
        heads.bias.zero_()
    # atan(0) = 0, atan(1) = π/4, and no state leaves the range
    expected = torch.tensor([[[2.0]], [[4.0]], [[6.0]], [[-2.0]]])
    assert_close(said(heads, torch.tensor([[0.0], [1.0], [1e9], [-1e9]])), expected)


def test_fresh_heads_with_a_support_start_at_the_returns():
    """As far as one return more on each atom lets them."""
    returns = [0.0] * 600 + [1.0] * 300 + [2.0] * 100
    started = fresh(CategoricalHeads(8, 2, 10, [0.0, 1.0, 2.0]), returns)
    assert_close(started[0], torch.tensor([0.0] * 6 + [1.0] * 3 + [2.0]), atol=0.02, rtol=0)
    started = fresh(BernoulliHeads(8, 2, 10, [0.0, 1.0]), [0.0] * 7 + [1.0] * 3)
    assert_close(started.mean(-1), torch.full((2,), 4 / 12))  # (3 + 1) / (10 + 2)
    assert_close(fresh(BoundedHeads(8, 2, 1, [0.0, 4.0]), returns), torch.full((2, 1), 0.5))
    assert_close(fresh(BoundedHeads(8, 2, 1, [0.0, 1.0]), [0.0, 0.0]), torch.full((2, 1), 0.01))


@pytest.mark.parametrize("kind", [CategoricalHeads, BernoulliHeads, BoundedHeads])
def test_fresh_heads_that_know_no_returns_say_nothing(kind):
    assert_close(fresh(kind(8, 2, 1, [-1.0, 3.0])), torch.ones(2, 1))


@pytest.mark.parametrize("kind", [CategoricalHeads, BernoulliHeads])
def test_fresh_heads_with_a_support_are_distinct(kind):
    heads = kind(8, 3, 20, [0.0, 1.0])
    fresh(heads, [0.0, 1.0])
    values = said(heads, torch.randn(100, 8)).mean(-1)
    assert values.diff(dim=-1).abs().min() > 0 and (values - 0.5).abs().max() < 0.05
