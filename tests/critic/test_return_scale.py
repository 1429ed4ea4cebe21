"""`fit_return_scale`: the normalised units, and where heads start in them."""

import math

import pytest
import torch
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm
from torch.testing import assert_close

from modeling_dvpo import AutoModelForDistributionalValue


def without_weights(critic):
    with torch.no_grad():
        critic.quantile_heads.weight[:] = 0
    return critic(tiny_batch(1, 2)).quantiles[0, 0]


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        # the 1/8, 3/8, 5/8 and 7/8 quantiles of {0, 0, 0, 1}
        ([[0.0, 0.0], [0.0, 1.0]], [0.0, 0.0, 0.0, 1.0]),
        # sorted -2 1 3 4 5 6 7; levels 1/6, 1/2, 5/6 of 7: 1.17, 3.5, 5.83 -> atoms 1, 3, 5
        ([7.0, -2.0, 3.0, 5.0, 4.0, 6.0, 1.0], [1.0, 4.0, 6.0]),
        # a scalar critic starts at the mean
        ([0.0, 0.0, 6.0], [2.0]),
    ],
)
def test_fresh_heads_start_at_the_training_return_quantiles_in_reward_units(returns, expected):
    critic, returns, expected = tiny_critic(num_quantiles=len(expected)), torch.tensor(returns), torch.tensor(expected)
    critic.fit_return_scale(returns, fresh_heads=True)
    assert critic.config.return_mean == pytest.approx(returns.mean().item())
    assert critic.config.return_scale == pytest.approx(returns.std(correction=0).item())
    started = critic(tiny_batch()).quantiles
    assert_close(started, expected.expand_as(started), atol=0.2, rtol=0.1)
    assert (started[..., 0, :] - started[..., 1, :]).abs().min() > 0  # the heads are distinct
    assert_close(without_weights(critic), expected.expand(2, -1))


@pytest.mark.parametrize("value_head_type", ["linear", "monotone"])
def test_discrete_returns(value_head_type):
    """Monotone heads cannot hold equal quantiles, only close ones; what they start with still has the right mean."""
    critic = tiny_critic(num_quantiles=200, value_head_type=value_head_type)
    returns = torch.tensor([0.0] * 7 + [1.0] * 3)
    critic.fit_return_scale(returns, fresh_heads=True)
    started = without_weights(critic)
    expected = torch.tensor([0.0] * 140 + [1.0] * 60)
    # standard deviation sqrt(.21); 140 gaps of 1e-3 of it, half of them on either side
    assert_close(started[0], expected, atol=1e-6 if value_head_type == "linear" else 0.05, rtol=0)
    assert_close(started.mean(-1), torch.full((2,), 0.3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3])
def test_constant_returns_keep_a_scale_of_one(constant):
    """The deviation of 0.1, 0.1, ... is a rounding error of 1e-17, not 0, and was taken as the scale."""
    critic = tiny_critic()
    critic.fit_return_scale(torch.full((1001,), constant), fresh_heads=True)
    assert critic.config.return_scale == 1.0
    assert_close(without_weights(critic), torch.full((2, 5), constant))


@pytest.mark.parametrize("saved", ["base LM", "critic"])
def test_fresh_heads_of_a_loaded_model(saved, tmp_path):
    """transformers leaves parameters alone that came from a checkpoint, also when a reset is what is asked for."""
    (tiny_causal_lm("qwen3") if saved == "base LM" else tiny_critic(num_quantiles=3)).save_pretrained(tmp_path)
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path, num_quantiles=3)
    before = critic.quantile_heads.weight.clone()
    critic.fit_return_scale(torch.tensor([1.0, 4.0, 6.0]), fresh_heads=True)
    assert (critic.quantile_heads.weight != before).all()
    heads = critic.config.num_value_heads
    expected = torch.tensor([1.0, 4.0, 6.0]).expand(2, 6, heads, 3)
    assert_close(critic(tiny_batch()).quantiles, expected, atol=0.2, rtol=0)


def test_heads_of_a_loaded_critic_keep_what_they_predict():
    critic, ids = tiny_critic(return_mean=0.25, return_scale=2.0), tiny_batch()
    before, heads = critic(ids).quantiles, critic.quantile_heads.weight.clone()
    critic.fit_return_scale(torch.tensor([10.0, 30.0]), fresh_heads=False)
    assert (critic.config.return_mean, critic.config.return_scale) == (20.0, 10.0)
    assert_close(critic(ids).quantiles, before, atol=1e-5, rtol=1e-5)
    assert_close(critic.quantile_heads.weight, heads / 5)  # in units five times as large


@pytest.mark.parametrize("adapted", [False, True])
def test_new_units_keep_what_is_predicted(adapted):
    """Also where an adapter has heads of its own, which were left in the old units."""
    critic, ids = tiny_critic(return_mean=0.25, return_scale=2.0), tiny_batch()
    if adapted:
        import peft

        critic.add_adapter(peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["quantile_heads"]))
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if parameter.requires_grad and "quantile_heads" in name:
                parameter.add_(torch.randn_like(parameter))
    before = critic(ids).quantiles
    critic.set_return_scale(-3.0, 0.1)
    assert (critic.config.return_mean, critic.config.return_scale) == (-3.0, 0.1)
    assert_close(critic(ids).quantiles, before, atol=1e-5, rtol=1e-5)


def test_loaded_monotone_heads_keep_their_units():
    critic, ids = tiny_critic(value_head_type="monotone", return_mean=0.25, return_scale=2.0), tiny_batch()
    before = critic(ids).quantiles
    critic.fit_return_scale(torch.tensor([10.0, 30.0]), fresh_heads=False)
    assert (critic.config.return_mean, critic.config.return_scale) == (0.25, 2.0)
    assert torch.equal(critic(ids).quantiles, before)


@pytest.mark.parametrize("dtype", [torch.long, torch.bfloat16])
def test_returns_of_any_type(dtype):
    critic = tiny_critic()
    critic.fit_return_scale(torch.tensor([1, 3]).to(dtype), fresh_heads=True)
    assert (critic.config.return_mean, critic.config.return_scale) == (2.0, 1.0)


@pytest.mark.parametrize("fresh_heads", [True, False])
@pytest.mark.parametrize("returns", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_returns_that_give_no_scale_are_refused(returns, fresh_heads):
    critic, ids = tiny_critic(), tiny_batch()
    before = critic(ids).quantiles
    with pytest.raises(ValueError, match="returns must be finite and at least one"):
        critic.fit_return_scale(torch.tensor(returns), fresh_heads=fresh_heads)
    assert torch.equal(critic(ids).quantiles, before)
