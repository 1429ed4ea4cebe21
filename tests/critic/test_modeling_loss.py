"""The critic's own loss, from `labels` in the model's frame and the reward's units."""

import dataclasses

import pytest
import torch
from tiny_critics import tiny_batch, tiny_critic
from torch.testing import assert_close

from modeling_dvpo import CriticLossConfig, dvpo_critic_loss

IGNORED = -100.0


def constant_critic(normalized, **settings):
    """A critic whose every state has the quantiles `normalized` (N, M), in normalised units."""
    critic = tiny_critic(num_value_heads=len(normalized), num_quantiles=len(normalized[0]), **settings)
    with torch.no_grad():
        critic.quantile_heads.weight.zero_()
        critic.quantile_heads.bias.copy_(torch.tensor(normalized).flatten())
    return critic


def test_scalar_critic_is_mean_squared_error_by_hand():
    critic = constant_critic([[0.5]], return_mean=1.0, return_scale=2.0)
    labels = torch.tensor([[3.0, IGNORED, 4.0], [-1.0, IGNORED, IGNORED]])
    output = critic(tiny_batch(2, 3), labels=labels)
    assert_close(output.value, torch.full((2, 3), 2.0))
    # (label - 1) / 2 = 1, 1.5, -1; minus 0.5: 0.5, 1, -1.5; squares 0.25 + 1 + 2.25 = 3.5, over 3 tokens
    assert_close(output.loss, torch.tensor(3.5 / 3))


def test_scalar_ensemble_is_each_heads_squared_error_plus_disagreement_by_hand():
    critic = constant_critic([[0.0], [1.0], [3.0]], return_mean=0.0, return_scale=1.0)
    # squared errors against 1: 1, 0, 4, mean 5/3; pairs differ by 1, 3, 2, squares 1, 9, 4, mean 14/3, weight 0.1
    loss = critic(tiny_batch(1, 2), labels=torch.tensor([[1.0, IGNORED]])).loss
    assert_close(loss, torch.tensor(5 / 3 + 0.1 * 14 / 3))
    # with K = 2 the target is their mean: (-1 + 3) / 2 = 1
    loss = critic(tiny_batch(1, 2), labels=torch.tensor([[[-1.0, 3.0], [IGNORED, IGNORED]]])).loss
    assert_close(loss, torch.tensor(5 / 3 + 0.1 * 14 / 3))


@pytest.mark.parametrize("num_atoms", [None, 1, 3])
@pytest.mark.parametrize("form", ["calibrated", "paper"])
def test_loss_is_the_critic_loss_on_the_labelled_tokens(num_atoms, form):
    critic, ids = tiny_critic(return_mean=0.25, return_scale=2.0), tiny_batch()
    loss_config = CriticLossConfig(form=form, alpha=0.4, beta=0.4, shape=0.5, curvature=1e-3)
    critic.critic_loss_config = loss_config
    labels = 3 * (torch.randn(2, 6) if num_atoms is None else torch.randn(2, 6, num_atoms))
    mask = torch.tensor([[False, True, True, False, True, False], [False, False, True, True, True, True]])
    labels[~mask] = IGNORED
    output = critic(ids, labels=labels)

    returns = labels.reshape(2, 6, -1)
    if form == "calibrated":  # the gate of `shift` is the whole batch's, which one forward does not see
        loss_config = dataclasses.replace(loss_config, shift=0.0)
    expected, terms = dvpo_critic_loss((output.quantiles - 0.25) / 2, (returns - 0.25) / 2, mask, loss_config)
    assert terms["quantile"] > 0 and terms["consistency"] > 0 and terms["cvar"] > 0
    assert_close(output.loss, expected)


def test_loss_settings_come_from_the_config():
    critic = tiny_critic()
    for stored, expected in [(None, {}), ({"quantile": 3.0, "kappa": 0.5}, {"quantile": 3.0, "kappa": 0.5})]:
        critic.config.critic_loss = stored
        assert type(critic)(critic.config).critic_loss_config == CriticLossConfig(**expected)
    critic.config.critic_loss = {"kapa": 0.5}
    with pytest.raises(ValueError, match="CriticLossConfig has no field 'kapa'; did you mean 'kappa'"):
        type(critic)(critic.config)


def test_a_token_with_one_ignored_sample_is_ignored():
    critic, ids = tiny_critic(), tiny_batch(1, 2)
    labels = torch.tensor([[[1.0, 2.0], [3.0, IGNORED]]])
    expected = critic(ids[:, :1], labels=labels[:, :1]).loss
    assert_close(critic(ids, labels=labels).loss, expected)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3)])
def test_exactly_minus_100_is_ignored(shape):
    critic, ids = tiny_critic(), tiny_batch()
    labels = torch.randn(shape)
    labels[:, 3:] = IGNORED
    ignored = critic(ids, labels=labels)
    assert_close(ignored.loss, critic(ids[:, :3], labels=labels[:, :3]).loss)
    gradient = torch.autograd.grad(ignored.loss, critic.quantile_heads.bias)[0]
    assert gradient.abs().sum() > 0
    # its nearest neighbours in float32 are returns like any other
    near = torch.nextafter(torch.tensor(IGNORED), torch.tensor(0.0))
    assert critic(ids, labels=torch.where(labels == IGNORED, near, labels)).loss > 10 * ignored.loss


def test_labels_may_be_whole_numbers_or_half_precision():
    critic, ids = tiny_critic(), tiny_batch(1, 4)
    labels = torch.tensor([[1, -100, 0, 2]])
    expected = critic(ids, labels=labels.float()).loss
    for dtype in (torch.long, torch.bfloat16, torch.float64):
        assert torch.equal(critic(ids, labels=labels.to(dtype)).loss, expected)


def test_nothing_labelled_gives_zero_loss_and_gradients():
    critic = tiny_critic()
    loss = critic(tiny_batch(), labels=torch.full((2, 6), IGNORED)).loss
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in critic.parameters())


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("num_atoms", [None, 3])
def test_micro_batches_add_up_with_num_items_in_batch(num_atoms, as_tensor):
    critic, ids = tiny_critic(), tiny_batch(4)
    labels = torch.randn(4, 6) if num_atoms is None else torch.randn(4, 6, num_atoms)
    labels[:2] += 3
    labels[0, 1:] = IGNORED  # micro-batches of 7 and 12 labelled tokens
    num_items = (labels != IGNORED).sum()  # as Trainer counts: entries
    if not as_tensor:
        num_items = num_items.item()
    whole = critic(ids, labels=labels).loss
    parts = [critic(ids[i : i + 2], labels=labels[i : i + 2], num_items_in_batch=num_items).loss for i in (0, 2)]
    assert_close(sum(parts), whole)
    own_means = [critic(ids[i : i + 2], labels=labels[i : i + 2]).loss for i in (0, 2)]
    assert (sum(own_means) / 2 - whole).abs() > 1e-3  # so the number was used


@pytest.mark.parametrize("shape", [(2, 5), (1, 6), (2, 6, 3, 1), (12,)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"labels have shape .* must be \(batch, tokens\) or"):
        tiny_critic()(tiny_batch(), labels=torch.zeros(shape))


def test_labels_must_cover_all_tokens_whatever_is_kept():
    """Labels one token too long passed, cut to the last ones, and trained every state on its neighbour's return."""
    with pytest.raises(ValueError, match=r"labels have shape \(2, 7\).*\(2, 6\)"):
        tiny_critic()(tiny_batch(), labels=torch.zeros(2, 7), values_to_keep=3)
