"""Rows read piece by piece against the same rows read whole."""

import pytest
import torch
from tiny_critics import tiny_batch, tiny_critic
from torch.testing import assert_close

from modeling_dvpo.inference.prefix_reader import PrefixReader, evaluating

FAMILIES = ["qwen3", "gpt2", "bloom", "gemma3_text", "minimax", "jamba"]  # the last two read rows whole
CACHES = [None, False]


def lively_critic(family):
    """At the usual initial scale a tiny layer adds next to nothing: a wrong mask or position would go unnoticed."""
    critic = tiny_critic(family)
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.1:
                parameter.mul_(10)
    return critic


def whole(critic, ids):
    return critic(input_ids=ids).quantiles.detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_cache", CACHES)
def test_pieces_picked_and_repeated_rows(family, use_cache):
    critic, ids = lively_critic(family), tiny_batch(4, 24)
    ids[2:, :14] = ids[0, :14]
    reader = PrefixReader(critic, use_cache=use_cache)
    with evaluating(critic):
        assert_close(reader.read(ids[:2, :14]), whole(critic, ids[:2, :14]), rtol=0, atol=1e-5)
        reader.select([0, 1, 0, 0])
        expected = whole(critic, ids)
        assert_close(reader.read(ids[:, 14:20]), expected[:, 14:20], rtol=0, atol=1e-5)
        reader.select([3, 1])
        assert_close(reader.read(ids[[3, 1], 20:]), expected[[3, 1], 20:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("use_cache", CACHES)
def test_a_branch_leaves_the_reader_where_it_was(use_cache):
    critic, ids = tiny_critic(), tiny_batch(2, 12)
    reader = PrefixReader(critic, use_cache=use_cache)
    with evaluating(critic):
        reader.read(ids[:, :5])
        for _ in range(2):
            branch = reader.branch([1, 0])
            assert_close(branch.read(ids[[1, 0], 5:9]), whole(critic, ids[[1, 0]])[:, 5:9], rtol=0, atol=1e-5)
            assert_close(branch.read(ids[[1, 0], 9:]), whole(critic, ids[[1, 0]])[:, 9:], rtol=0, atol=1e-5)
        assert_close(reader.read(ids[:, 5:]), whole(critic, ids)[:, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "bloom"])
@pytest.mark.parametrize("use_cache", CACHES)
def test_padding_on_the_left_changes_nothing(family, use_cache):
    critic, ids = lively_critic(family), tiny_batch(1, 10)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids[:, :6]], 1)
    mask = torch.tensor([[0] * 4 + [1] * 6])
    both = torch.cat([padded, tiny_batch(1, 10, seed=2)])
    reader = PrefixReader(critic, use_cache=use_cache)
    with evaluating(critic):
        first = reader.read(both, torch.cat([mask, torch.ones(1, 10, dtype=torch.long)]))
        assert_close(first[0, 4:], whole(critic, ids)[0, :6], rtol=0, atol=1e-5)
        after = reader.read(torch.cat([ids[:, 6:], ids[:, 6:]]))
        assert_close(after[0], whole(critic, ids)[0, 6:], rtol=0, atol=1e-5)


def test_a_cache_reads_each_token_once(monkeypatch):
    critic, ids = tiny_critic(), tiny_batch(2, 9)
    widths, forward = [], critic.forward
    monkeypatch.setattr(
        critic, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    reader = PrefixReader(critic)
    with evaluating(critic):
        reader.read(ids[:, :4])
        reader.read(ids[:, 4:])
    assert reader.use_cache and widths == [4, 5]


@pytest.mark.parametrize("family", ["jamba", "minimax"])
def test_a_cache_that_cannot_be_trusted_is_refused_or_left_out(family):
    critic = tiny_critic(family)
    with evaluating(critic):
        reader = PrefixReader(critic)
        reader.read(tiny_batch())
        assert not reader.use_cache
        with pytest.raises(ValueError, match=f"A {family} critic has no cache .* leave use_cache out"):
            PrefixReader(critic, use_cache=True).read(tiny_batch())


def test_evaluating_gives_every_module_its_mode_back():
    critic = tiny_critic().train()
    critic.quantile_heads.eval()
    with evaluating(critic):
        assert not any(module.training for module in critic.modules()) and not torch.is_grad_enabled()
    assert critic.training and not critic.quantile_heads.training and torch.is_grad_enabled()
