"""Critics with every kind of heads: what is the same of all, and what is refused of each."""

import pytest
import torch
from peft import LoraConfig
from tiny_critics import HEADS, tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm, tiny_config
from torch.testing import assert_close

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.critic.categorical import categorical_cross_entropy
from modeling_dvpo.critic.losses import CriticLossConfig

ALL = pytest.mark.parametrize("heads", HEADS)
load = AutoModelForDistributionalValue.from_pretrained


@ALL
def test_shapes_types_and_the_value(heads):
    critic = tiny_critic(**HEADS[heads])
    output = critic(tiny_batch())
    assert output.quantiles.shape == (2, 6, 2, critic.config.num_quantiles)
    assert output.quantiles.dtype == output.value.dtype == torch.float32
    assert_close(output.value, output.quantiles.mean((-2, -1)), atol=1e-6, rtol=1e-5)
    without = critic(tiny_batch(), output_quantiles=False)
    assert torch.equal(without.value, output.value)
    assert (without.quantiles is None) == (output.logits is not None)
    atoms = {"categorical": 5, "bernoulli": 2}
    assert (None if output.logits is None else output.logits.shape[-1]) == atoms.get(heads)
    if output.logits is not None:  # the value is the distribution's own, whatever the number of quantiles
        support = torch.tensor(HEADS[heads]["value_support"])
        assert_close(output.value, (output.logits.softmax(-1) @ support).mean(-1))


@ALL
def test_units_change_no_prediction(heads):
    critic, ids = tiny_critic(**HEADS[heads]), tiny_batch()
    before = critic(ids).quantiles
    critic.set_return_scale(-3.0, 0.1)
    assert_close(critic(ids).quantiles, before, atol=1e-5, rtol=1e-5)


@ALL
def test_a_bfloat16_body_has_float32_heads(heads, tmp_path):
    tiny_critic(**HEADS[heads]).save_pretrained(tmp_path)
    loaded = load(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and loaded.quantile_heads.weight.dtype == torch.float32
    assert loaded(tiny_batch()).quantiles.dtype == torch.float32


@ALL
def test_an_adapter_is_saved_with_its_heads(heads, tmp_path):
    torch.manual_seed(0)
    tiny_causal_lm("qwen3").save_pretrained(tmp_path / "base")
    critic = load(tmp_path / "base", **{"num_value_heads": 2, "num_quantiles": 5, **HEADS[heads]})
    critic.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["quantile_heads"]))
    optimizer = torch.optim.SGD([p for p in critic.parameters() if p.requires_grad], lr=0.5)
    critic(tiny_batch(), labels=torch.ones(2, 6)).loss.backward()
    optimizer.step()
    critic.save_pretrained(tmp_path / "adapter")
    assert torch.equal(load(tmp_path / "adapter")(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)


@ALL
def test_fresh_heads_start_at_the_training_returns(heads):
    critic = tiny_critic(return_mean=0.0, return_scale=1.0, **HEADS[heads])
    critic.fit_return_scale(torch.tensor([0.0] * 600 + [1.0] * 400), fresh_heads=True)
    assert_close(critic(tiny_batch()).value, torch.full((2, 6), 0.4), atol=0.05, rtol=0)


@pytest.mark.parametrize("heads", ["categorical", "bernoulli"])
def test_the_loss_with_labels_is_the_cross_entropy(heads):
    critic, ids = tiny_critic(**HEADS[heads]), tiny_batch()
    labels = torch.randint(0, 2, (2, 6)).float()
    labels[0, 3] = -100
    output = critic(ids, labels=labels)
    support, projection = torch.tensor(HEADS[heads]["value_support"]), critic.quantile_heads.projection
    expected, _ = categorical_cross_entropy(output.logits, labels[..., None], labels != -100, support, projection)
    assert_close(output.loss, expected)
    output.loss.backward()
    assert (critic.quantile_heads.weight.grad != 0).any()


def test_a_bounded_critic_learns_the_mean_in_normalised_units():
    critic, ids, labels = tiny_critic(return_scale=2.0, **HEADS["bounded"]), tiny_batch(), torch.ones(2, 6)
    output = critic(ids, labels=labels)
    config = CriticLossConfig.from_dict({})
    heads = output.quantiles[..., 0] / 2
    expected = ((heads - 0.5) ** 2).mean() + config.consistency * (heads[..., 0] - heads[..., 1]).square().mean()
    assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_head_type": "categorical"}, "value_support is None; categorical heads need at least two atoms"),
        ({**HEADS["categorical"], "value_support": [0.0, 0.0, 1.0]}, "ascending"),
        ({**HEADS["categorical"], "value_support": [0.0, float("inf")]}, "ascending, in the reward"),
        ({**HEADS["categorical"], "value_support": [0.0, 1.0, 5.0]}, "hl_gauss needs equally spaced atoms"),
        (
            {**HEADS["categorical"], "value_projection": "dirac"},
            "'dirac'; it must be one of hl_gauss, two_hot, one_hot",
        ),
        ({**HEADS["bernoulli"], "value_support": [0.0, 0.5, 1.0]}, "bernoulli heads need two numbers"),
        ({**HEADS["bernoulli"], "value_projection": "two_hot"}, "bernoulli heads have no value_projection"),
        ({**HEADS["bounded"], "num_quantiles": 5}, "a scalar critic's: num_quantiles must be 1, not 5"),
        ({"value_support": [0.0, 1.0]}, "linear heads have no value_support"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), **settings)


def test_another_support_than_the_critic_has_is_refused(tmp_path):
    tiny_critic(**HEADS["bernoulli"]).save_pretrained(tmp_path)
    assert load(tmp_path, value_support=[0, 1]).config.value_support == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"value_support=\[0.0, 1.0\], but value_support=\[0.0, 2.0\] was asked for"):
        load(tmp_path, value_support=[0.0, 2.0])


def test_fresh_heads_on_a_critic_s_body(tmp_path):
    critic = tiny_critic(**HEADS["bernoulli"])
    body = {name: weight.clone() for name, weight in critic.model.named_parameters()}
    critic.replace_heads(num_quantiles=7, **HEADS["categorical"])
    critic.fit_return_scale(torch.tensor([0.0, 1.0, 1.0]), fresh_heads=True)
    assert critic(tiny_batch()).quantiles.shape == (2, 6, 3, 7)  # 3 heads are the default
    assert all(torch.equal(body[name], weight) for name, weight in critic.model.named_parameters())
    critic.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)
    critic.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["quantile_heads"]))
    with pytest.raises(ValueError, match="An adapter's heads cannot be replaced: merge it"):
        critic.replace_heads()
