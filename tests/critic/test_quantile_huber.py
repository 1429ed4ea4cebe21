import importlib
import shutil
from pathlib import Path

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_dvpo.critic import quantile_huber as module
from modeling_dvpo.critic.quantile_huber import quantile_huber_loss


def loss_and_gradient(function, predictions, *args, **kwargs):
    q = predictions.detach().clone().requires_grad_()
    loss = function(q, *args, **kwargs)
    weights = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    (loss * weights).sum().backward()
    assert q.grad.shape == q.shape
    return loss.detach(), q.grad


def assert_matches_pairs(q, y, kappa, rtol=1e-5, **kwargs):
    ours, gradient = loss_and_gradient(quantile_huber_loss, q, y, kappa=kappa, **kwargs)
    expected, expected_gradient = loss_and_gradient(reference.quantile_huber, q.double(), y, kappa, **kwargs)
    torch.testing.assert_close(ours.double(), expected, rtol=rtol, atol=1e-9)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rtol, atol=rtol * scale)


def test_a_value_worked_by_hand():
    """Pairs (level, q, u, |τ - 1{u<0}| H(u)), u = y - q, kappa = 1:

    1/4, q = 0: u = -1/2, 3/2, 4   -> 3/4·1/8 + 1/4·1 + 1/4·7/2  = 39/32
    3/4, q = 2: u = -5/2, -1/2, 2  -> 1/4·2 + 1/4·1/8 + 3/4·3/2  = 53/32
    Sum 92/32 over 2·3 pairs = 23/48. Slopes: 3/8 - 1/4 - 1/4 = -1/8; 1/4 + 1/8 - 3/4 = -3/8; over 6.
    Reversed levels give 43/48; the other reductions 23/24, 23/16, 23/8.
    """
    q = torch.tensor([0.0, 2.0], requires_grad=True)
    y = torch.tensor([-0.5, 1.5, 4.0], requires_grad=True)
    loss = quantile_huber_loss(q, y)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(23 / 48))
    torch.testing.assert_close(q.grad, torch.tensor([-1 / 48, -1 / 16]))
    assert y.grad is None
    reversed_levels = quantile_huber_loss(q, y, levels=torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(reversed_levels.detach(), torch.tensor(43 / 48))


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1e-3, 0.02, 1.0, 7.0, 1e3]),
    st.booleans(),
    st.sampled_from([0.0, 1e4, -1e4]),
    st.integers(0, 10_000),
)
def test_equals_the_pairwise_definition(num_levels, num_targets, kappa, ties, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 3, num_levels, generator=generator) * 2
    y = torch.randn(2, 1, num_targets, generator=generator) * 2
    if ties:  # halves: predictions meet targets and each other exactly, and at kappa 1 the zones meet
        q, y = (q * 2).round() / 2, (y * 2).round() / 2
    assert_matches_pairs(q + offset, y + offset, kappa)


@pytest.mark.parametrize("kappa", [1e-3, 0.02, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_many_quantiles_of_the_paper(kappa, offset):
    torch.manual_seed(1)
    q, y = torch.randn(6, 3, 200) + offset, torch.randn(6, 1, 200) + offset
    assert_matches_pairs(q, y, kappa)
    assert_matches_pairs(q[:, 0], q[:, 1].detach(), kappa)


def test_levels_and_level_weights():
    torch.manual_seed(2)
    q, y = torch.randn(4, 5), torch.randn(4, 3)
    levels, weights = torch.rand(5), torch.rand(2, 5)
    for w in weights:
        assert_matches_pairs(q, y, 0.3, levels=levels, level_weights=w)
    one_by_one = lambda x: torch.stack([quantile_huber_loss(x, y, level_weights=w, kappa=0.3) for w in weights], -1)  # noqa: E731
    both = loss_and_gradient(quantile_huber_loss, q, y, level_weights=weights, kappa=0.3)
    torch.testing.assert_close(both, loss_and_gradient(one_by_one, q))


SHAPES = [((4,), (3,)), ((2, 5, 4), (3,)), ((2, 3, 4), (2, 1, 3)), ((2, 3, 4), (1, 3, 6)), ((4,), (2, 3, 5))]


@pytest.mark.parametrize(("predictions", "targets"), [*SHAPES, ((3, 4), (2, 1, 7))])
def test_leading_dimensions_broadcast_like_any_pair_of_tensors(predictions, targets):
    torch.manual_seed(3)
    assert_matches_pairs(torch.randn(predictions), torch.randn(targets), 0.4)


def test_shared_targets_are_sorted_once(monkeypatch):
    seen = []
    original = module._many_targets
    monkeypatch.setattr(module, "_many_targets", lambda y, *rest: seen.append(tuple(y.shape)) or original(y, *rest))
    quantile_huber_loss(torch.randn(6, 3, 5), torch.randn(6, 1, 4))
    assert seen == [(6, 4)]


@pytest.mark.parametrize("num_targets", [1, 5])
def test_chunks_do_not_change_the_result(monkeypatch, num_targets):
    torch.manual_seed(4)
    q, y = torch.randn(5, 7, 4), torch.randn(5, 1, num_targets)
    whole = loss_and_gradient(quantile_huber_loss, q, y, kappa=0.2)
    for chunk in (4, 9, 30):  # less than a row's heads; a row and a half
        monkeypatch.setattr(module, "_CHUNK_ON_CPU", chunk)
        torch.testing.assert_close(loss_and_gradient(quantile_huber_loss, q, y, kappa=0.2), whole)


@pytest.mark.parametrize("num_targets", [1, 4])
def test_gradcheck(num_targets):
    torch.manual_seed(5)
    q = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 1, num_targets, dtype=torch.float64)
    for kappa in (0.05, 1.0):
        assert torch.autograd.gradcheck(lambda x, kappa=kappa: quantile_huber_loss(x, y, kappa=kappa), q)


def test_result_and_gradient_dtypes():
    q, y = torch.randn(3, 4, dtype=torch.bfloat16), torch.randn(3, 6, dtype=torch.bfloat16)
    outside = loss_and_gradient(quantile_huber_loss, q, y, kappa=0.3)
    assert [x.dtype for x in outside] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(outside[0], reference.quantile_huber(q, y, 0.3).float(), rtol=1e-5, atol=1e-8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_and_gradient(quantile_huber_loss, q, y, kappa=0.3)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    # float64 through and through: fifths are no float32 numbers
    found = quantile_huber_loss(torch.arange(5.0), y[0].double(), kappa=0.3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, reference.quantile_huber(torch.arange(5.0), y[0], 0.3), rtol=1e-14, atol=0)


def test_no_rows_give_no_losses_and_a_zero_gradient():
    q = torch.zeros(0, 3, 4, requires_grad=True)
    loss = quantile_huber_loss(q, torch.zeros(0, 1, 2))
    assert loss.shape == (0, 3)
    loss.sum().backward()
    assert q.grad.shape == q.shape


def test_a_nan_prediction_is_not_hidden():
    loss = quantile_huber_loss(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), torch.randn(2, 5))
    assert loss[0].isnan() and loss[1].isfinite()


def test_without_gradient_no_derivative_is_kept():
    q, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 5)
    with torch.no_grad():
        silent = quantile_huber_loss(q, y)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, quantile_huber_loss(q, y).detach())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_in_one_graph(backend):
    torch._dynamo.reset()
    function = lambda q, y: quantile_huber_loss(q, y, kappa=0.1)  # noqa: E731
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    for rows in (4, 6):  # the second size recompiles with a symbolic shape
        q, y = torch.randn(rows, 3, 7), torch.randn(rows, 1, 5)
        torch.testing.assert_close(loss_and_gradient(compiled, q, y), loss_and_gradient(function, q, y))
    torch.testing.assert_close(compiled(q, y), function(q, y))  # nothing to derive


def test_a_second_copy_of_the_file_works_beside_the_package(tmp_path, monkeypatch):
    """Remote code loads its own copy of these files; two operators of one name would replace one another."""
    copy = tmp_path / "a_critic_repo"
    copy.mkdir()
    for name in ("quantiles.py", "quantile_huber.py"):
        shutil.copy(Path(module.__file__).with_name(name), copy)
    (copy / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    other = importlib.import_module("a_critic_repo.quantile_huber")
    assert other._NAMESPACE != module._NAMESPACE
    q, y = torch.randn(2, 3, 4), torch.randn(2, 1, 5)
    torch.testing.assert_close(
        loss_and_gradient(quantile_huber_loss, q, y), loss_and_gradient(other.quantile_huber_loss, q, y)
    )


def test_operator_is_registered_soundly():
    q = torch.randn(3, 2, 4, requires_grad=True)
    arguments = (torch.randn(3, 5), torch.rand(4), torch.rand(1, 4), 0.3)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._quantile_huber, (q, *arguments, True), test_utils=checks)
    torch.library.opcheck(module._quantile_huber, (q.detach(), *arguments, False), test_utils=checks)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 4), torch.zeros(3, 5)), {}, r"\(2, 4\) and targets \(3, 5\) do not broadcast"),
        ((torch.zeros(4), torch.zeros(0)), {}, "targets needs at least one entry"),
        ((torch.zeros(4), torch.zeros(3).long()), {}, "targets must be floating point, got torch.int64"),
        ((torch.zeros(4), torch.zeros(3)), {"kappa": 0.0}, "kappa must be a positive, finite number, got 0.0"),
        ((torch.zeros(4), torch.zeros(3)), {"kappa": -0.5}, "kappa must be a positive, finite number, got -0.5"),
        ((torch.zeros(4), torch.zeros(3)), {"levels": torch.zeros(3)}, r"levels has shape \(3,\).*4"),
        ((torch.zeros(4), torch.zeros(3)), {"level_weights": torch.zeros(3)}, r"level_weights has shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        quantile_huber_loss(*arguments, **options)
