"""One optimizer step: the sum over micro-batches, the clipped norm, and errors that leave no trace."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from modeling_dvpo.training.engine.learner import Learner, rate_share

X = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])
Y = torch.tensor([1.0, -2.0, 3.0])


def learner(total_steps=10, **settings):
    torch.manual_seed(0)
    defaults = {
        "learning_rate": 0.1,
        "heads_learning_rate": None,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_ratio": 0.0,
        "max_grad_norm": 1e9,
        "max_skipped_updates": 3,
        "bf16": False,
    }
    return Learner(nn.Linear(2, 1), SimpleNamespace(**{**defaults, **settings}), total_steps, torch.device("cpu"))


def squares(learner):
    def loss_of(batch):
        error = learner.model(batch["x"])[:, 0] - batch["y"]
        return error.square().sum() / len(X), {"rows": torch.tensor(float(len(error)))}

    return loss_of


def weights(learner):
    return torch.cat([p.detach().flatten().clone() for p in learner.model.parameters()])


def gradient_by_hand(learner):
    error = (learner.model(X)[:, 0] - Y).detach()
    return torch.cat([2 / 3 * (error[:, None] * X).sum(0), 2 / 3 * error.sum()[None]])


@pytest.mark.parametrize("cuts", [[3], [1, 2], [1, 1, 1]])
def test_micro_batches_are_one_batch(cuts):
    one = learner()
    expected, loss = gradient_by_hand(one), (one.model(X)[:, 0] - Y).square().mean().item()
    before = weights(one)
    batches = [{"x": x, "y": y} for x, y in zip(X.split(cuts), Y.split(cuts), strict=True)]
    metrics = one.update(batches, squares(one), where="Step 1")
    assert metrics == pytest.approx(
        {"loss": loss, "rows": 3.0, "grad_norm": expected.norm().item(), "skipped_updates": 0}
    )
    # Adam's first step is the rate times the sign
    assert_close(weights(one), before - 0.1 * expected.sign())
    assert all(p.grad is None for p in one.model.parameters()), "nothing is carried into the next step"


def test_the_gradient_is_clipped_and_its_norm_reported_before():
    """A second moment of Adam is 5 % of the squared gradient: it tells how large the gradient was."""
    one = learner(max_grad_norm=0.5)
    norm = gradient_by_hand(one).norm().item()
    metrics = one.update([{"x": X, "y": Y}], squares(one), where="Step 1")
    assert metrics["grad_norm"] == pytest.approx(norm) and norm > 0.5
    second = sum(state["exp_avg_sq"].sum().item() for state in one.optimizer.state.values())
    assert second / 0.05 == pytest.approx(0.5**2, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_skipped_and_leaves_no_trace(bad):
    """One such loss used to end a run, be it of days."""
    one, batch, poison = learner(), {"x": X, "y": Y}, {"x": X, "y": Y * bad}
    one.update([batch], squares(one), where="Step 1")
    before, state = weights(one), [s["exp_avg"].clone() for s in one.optimizer.state.values()]
    metrics = one.update([batch, poison], squares(one), where="Step 2")
    assert metrics["skipped_updates"] == 1 and not one.was_updated and not math.isfinite(metrics["loss"])
    assert torch.equal(weights(one), before)
    for now, then in zip(one.optimizer.state.values(), state, strict=True):
        assert torch.equal(now["exp_avg"], then) and now["step"] == 1
    # and the failed step's gradients are gone: the next one is as if it had not been
    expected = gradient_by_hand(one)
    metrics = one.update([batch], squares(one), where="Step 3")
    assert metrics["grad_norm"] == pytest.approx(expected.norm().item())
    assert metrics["skipped_updates"] == 1 and one.was_updated


def test_too_many_in_a_row_end_the_run():
    """Two in a row may be skipped; one that is made starts the count anew, the total goes on."""
    one, good, bad = learner(max_skipped_updates=2), {"x": X, "y": Y}, {"x": X, "y": Y * float("nan")}
    for step, batch in enumerate([bad, bad, good, bad, bad]):
        metrics = one.update([batch], squares(one), where=f"Step {step}")
    assert metrics["skipped_updates"] == 4
    before = weights(one)
    message = r"Step 6, policy: loss nan, .*No update was made, nor in the 2 before \(max_skipped_updates 2\)"
    with pytest.raises(FloatingPointError, match=message):
        one.update([bad], squares(one), where="Step 6, policy")
    assert torch.equal(weights(one), before)


def test_a_gradient_that_is_not_finite_changes_nothing():
    """The loss is a fine 0, its derivative is not: √ at 0."""
    one = learner(max_skipped_updates=0)
    before = weights(one)
    with pytest.raises(FloatingPointError, match="Step 5: loss 0.0, gradient norm (nan|inf). No update was made; "):
        one.update([{}], lambda _: ((one.model.weight * 0).abs().sum().sqrt(), {}), where="Step 5")
    assert torch.equal(weights(one), before)


def test_the_first_step_learns():
    """Warm-up over ⌈0.25 · 8⌉ = 2 steps. It began at 0, so that the first step, with all its rollouts, was wasted."""
    one = learner(total_steps=8, warmup_ratio=0.25)
    rates = []
    for _ in range(4):
        rates.append(one.learning_rates()[0])
        one.optimizer.step()
        one.schedule.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("name", "warmup", "shares"),
    [
        # five steps; 0 would be step 6
        ("linear", 2, [1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", 0, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ("linear", 1, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ("linear", 5, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]),
        # (1 + cos) / 2 of 0°, 60° and 120°
        ("cosine", 3, [1 / 3, 2 / 3, 1, 3 / 4, 1 / 4]),
        ("constant_with_warmup", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1]),
    ],
)
def test_shares_of_the_peak_rate_by_hand(name, warmup, shares):
    assert [rate_share(step, name=name, warmup=warmup, total=5) for step in range(1, 6)] == pytest.approx(shares)


def test_heads_have_a_rate_of_their_own():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "quantile_heads": nn.Linear(2, 3)})
    args = SimpleNamespace(
        learning_rate=0.1, heads_learning_rate=0.7, weight_decay=0.0, lr_scheduler_type="linear", warmup_ratio=0.0,
        max_grad_norm=1.0, max_skipped_updates=0, bf16=False,
    )  # fmt: skip
    assert Learner(model, args, 4, torch.device("cpu")).learning_rates() == (0.1, 0.7)
    assert learner().learning_rates() == (0.1, 0.1)
