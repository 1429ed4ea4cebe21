"""A critic on a GPU says what it says on a CPU, whatever its heads, and so do its loss and its advantages."""

import pytest
import torch
from tiny_critics import HEADS, tiny_batch, tiny_critic
from torch.testing import assert_close

from modeling_dvpo.critic.losses import CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.critic.quantile_huber import quantile_huber_loss
from modeling_dvpo.returns import distributional_gae

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ALL = pytest.mark.parametrize("heads", HEADS)


@ALL
def test_predictions_loss_and_gradients(heads):
    labels = torch.randint(0, 2, (2, 6)).float()
    found = []
    for device in ("cpu", "cuda"):
        critic = tiny_critic(**HEADS[heads]).to(device)
        output = critic(tiny_batch().to(device), labels=labels.to(device))
        output.loss.backward()
        numbers = output.quantiles, output.value, output.loss, critic.quantile_heads.weight.grad
        found.append([number.detach().cpu() for number in numbers])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert_close(on_gpu, on_cpu, atol=1e-4, rtol=1e-3)


@ALL
def test_a_bfloat16_body_under_autocast_keeps_float32_heads(heads):
    critic = tiny_critic(**HEADS[heads]).cuda()
    exact = critic(tiny_batch().cuda()).value
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = critic(tiny_batch().cuda())
    assert output.quantiles.dtype == torch.float32
    assert_close(output.value, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("form", ["calibrated", "paper"])
def test_the_composite_loss(form):
    torch.manual_seed(0)
    quantiles, returns, mask = torch.randn(4, 7, 3, 50), torch.randn(4, 7, 5), torch.rand(4, 7) > 0.3
    config, found = CriticLossConfig(form=form), []
    for device in ("cpu", "cuda"):
        q = quantiles.clone().to(device).requires_grad_()
        loss, terms = dvpo_critic_loss(q, returns.to(device), mask.to(device), config)
        loss.backward()
        found.append((loss.detach().cpu(), q.grad.cpu(), {name: term.cpu() for name, term in terms.items()}))
    assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", ["index"])
def test_advantages(target):
    torch.manual_seed(0)
    rewards, mask = torch.zeros(3, 9), torch.ones(3, 9, dtype=torch.bool)
    rewards[:, -1] = 1.0
    quantiles = torch.randn(3, 9, 20)
    on_cpu = distributional_gae(rewards, quantiles, mask, gamma=0.99, lam=0.9, target=target)
    on_gpu = distributional_gae(rewards.cuda(), quantiles.cuda(), mask.cuda(), gamma=0.99, lam=0.9, target=target)
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert_close(one.cpu(), other, atol=1e-5, rtol=1e-5)


def test_quantile_huber_of_many_tokens():
    """Sizes of a real step, against the pairwise sum on a few of them."""
    torch.manual_seed(0)
    predicted = torch.randn(4096, 3, 200, device="cuda", requires_grad=True)
    targets = torch.randn(4096, 200, device="cuda")
    loss = quantile_huber_loss(predicted, targets[:, None].expand(-1, 3, -1), kappa=0.02)
    gap = targets[:8, None, None, :] - predicted[:8, :, :, None]
    levels = (torch.arange(200, device="cuda") + 0.5) / 200
    huber = torch.where(gap.abs() <= 0.02, gap.square() / 2, 0.02 * (gap.abs() - 0.01))
    expected = ((levels[:, None] - (gap < 0).float()).abs() * huber / 0.02).mean((-2, -1))
    assert_close(loss.reshape(4096, 3)[:8], expected, atol=1e-4, rtol=1e-3)
