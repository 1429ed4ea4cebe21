"""benchmarks/value_losses.py: stacks equal their models alone, methods the product's heads, tables what lines say."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

# The benchmark is run as `python benchmarks/value_losses.py`: its modules import each other from that directory.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import value_losses  # noqa: E402
from value_losses_bed import sample  # noqa: E402
from value_losses_methods import METHODS, StackedHeads, labels  # noqa: E402
from value_losses_report import cells, interval, pairs_table, shown  # noqa: E402
from value_losses_stack import StackedAdamW, StackedBody  # noqa: E402

from modeling_dvpo.critic.categorical import categorical_cross_entropy  # noqa: E402
from modeling_dvpo.training.tasks import arithmetic, imitation  # noqa: E402


@pytest.fixture
def models():
    torch.manual_seed(0)
    tokenizer = arithmetic.tokenizer()
    return [imitation.build_policy(tokenizer, hidden_size=16, num_layers=2).eval() for _ in range(2)]


def test_a_stack_is_its_models(models):
    """States, logits and gradients against transformers' Qwen3."""
    stack, ids = StackedBody.of(models, "cpu"), torch.randint(3, 19, (2, 3, 7))
    states = [model.model(own).last_hidden_state for model, own in zip(models, ids, strict=True)]
    assert_close(stack(ids), torch.stack(states), atol=1e-5, rtol=1e-4)
    logits = torch.stack([model(own).logits for model, own in zip(models, ids, strict=True)])
    assert_close(stack.logits(ids), logits, atol=1e-4, rtol=1e-4)
    stack(ids).square().sum().backward()
    sum(state.square().sum() for state in states).backward()
    for place, model in enumerate(models):
        for name, parameter in model.model.named_parameters():
            largest = parameter.grad.abs().max().item()
            assert_close(stack.weights[name].grad[place], parameter.grad, atol=1e-3 * largest + 1e-6, rtol=1e-2)


def test_each_model_is_clipped_and_updated_by_itself():
    """Against torch's own AdamW and clipping, at two rates."""
    start, gradients = torch.randn(2, 3, 4), torch.randn(5, 2, 3, 4) * torch.tensor([0.01, 10.0])[:, None, None]
    stacked = start.clone().requires_grad_()
    optimizer = StackedAdamW([([stacked], torch.tensor([0.1, 0.02]))])
    for gradient in gradients:
        stacked.grad = gradient.clone()
        optimizer.step(0.5)
    for place, rate in enumerate((0.1, 0.02)):
        alone = start[place].clone().requires_grad_()
        reference = torch.optim.AdamW([alone], lr=0.5 * rate, betas=(0.9, 0.95), weight_decay=0.0)
        for gradient in gradients:
            alone.grad = gradient[place].clone()
            torch.nn.utils.clip_grad_norm_([alone], 1.0)
            reference.step()
        assert_close(stacked[place].detach(), alone.detach(), atol=1e-6, rtol=1e-4)


def test_sampling_stops_at_the_end_or_the_limit(models):
    stack, end = StackedBody.of(models, "cpu"), arithmetic.tokenizer().eos_token_id
    prompts = torch.zeros(2, 40, 12, dtype=torch.long)
    prompts[..., :3] = torch.randint(3, 19, (2, 40, 3))
    lengths = torch.full((2, 40), 3)
    lengths[:, ::2] = 2
    ids, ends = sample(stack, prompts, lengths, torch.full((2, 40), 10), seed=0)
    assert (ids[..., :2] == prompts[..., :2]).all() and (ends > lengths).all() and (ends <= 10).all()
    last = ids.gather(2, ends[..., None] - 1)[..., 0]
    assert ((last == end) | (ends == 10)).all() and (last == end).any() and (ends == 10).any()
    written = (torch.arange(12) >= lengths[..., None]) & (torch.arange(12) < ends[..., None] - 1)
    assert not ((ids == end) & written).any()


@pytest.mark.parametrize("name", METHODS)
def test_fresh_heads_say_what_the_training_returns_say(name):
    """HL-Gauss once started from a bias without its own spread, which its targets contradicted."""
    returns = torch.tensor([0.0] * 300 + [1.0] * 700)
    heads = StackedHeads([METHODS[name].run(returns)] * 2, 8, "cpu", [0, 1])
    outputs = heads.outputs(torch.zeros(2, 5, 8))
    assert_close(heads.values(outputs), torch.full((2, 5), 0.7), atol=0.02, rtol=0)
    assert_close(heads.quantiles(outputs).mean(-1), heads.values(outputs), atol=1e-4, rtol=0)
    if name.startswith("HL-Gauss"):  # nothing to gain from another bias that is the same everywhere
        support = torch.arange(METHODS[name].outputs).float()
        places = (returns - heads.low[0]) / (heads.high[0] - heads.low[0]) * support[-1]
        outputs = outputs[:1, :1].expand(1, 1000, -1, -1).detach().requires_grad_()
        mask = torch.ones(1, 1000, dtype=torch.bool)
        loss, _ = categorical_cross_entropy(outputs, places[None, :, None], mask, support, "hl_gauss")
        loss.backward()
        assert outputs.grad.sum((0, 1)).abs().max() < 2e-3


def test_losses_of_runs_do_not_mix():
    states, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    returns = torch.randint(0, 2, (2, 6)).float()
    for name, method in METHODS.items():
        heads = StackedHeads([method.run(torch.tensor([0.0, 1.0] * 50))] * 2, 8, "cpu", [0, 1])
        own = states.clone().requires_grad_()
        loss, gap = heads.loss(own, returns, mask, torch.tensor([True, False]))
        both = torch.autograd.grad(loss, own)[0]
        other = returns.clone()
        other[1] = 1 - other[1]
        loss, _ = heads.loss(own, other, mask, torch.tensor([True, False]))
        assert_close(torch.autograd.grad(loss, own)[0][0], both[0], msg=name)
        assert gap.shape == (2,)


def test_noise_is_what_it_is_called():
    exact = torch.randint(0, 2, (20000,)).float()
    outliers = labels("outliers", exact, exact, 0) - exact
    assert set(outliers.unique().tolist()) == {-10.0, 0.0, 10.0}
    assert (outliers != 0).float().mean().item() == pytest.approx(0.05, abs=0.005)
    skewed = labels("skewed", exact, exact, 0) - exact
    assert skewed.min() > -1e-6 and skewed.mean().item() == pytest.approx(math.exp(0.5), abs=0.1)
    heavy = labels("heavy-tailed", exact, exact, 0) - exact
    assert heavy.median().abs() < 0.02 and heavy.abs().max() > 50
    assert torch.equal(labels("heavy-tailed", exact, exact, 3), labels("heavy-tailed", exact, exact, 3))


def test_pairs_in_order_by_hand(monkeypatch):
    monkeypatch.setattr(value_losses, "EACH", 3)
    truth = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    values = torch.tensor([0.5, 0.5, 0.1, 0.0, 1.0, 2.0])
    assert value_losses.pairs_in_order(values, truth) == 0.75  # a tie and one in order; the second prompt has no pair


def test_tables():
    line = {"kind": "critic", "pairs": {"mean": 0.8}}
    lines = [line | {"key": [6, 60000, "scalar", "exact", seed]} for seed in range(2)]
    assert "| scalar | 0.800 ± 0.000 |" in pairs_table(cells(lines), 6, 60000)
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / 3**0.5)) and shown([0.5]) == "0.500"
