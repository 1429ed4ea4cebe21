"""Pruning by hand on made-up scores; whole runs against the same run without it."""

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from tiny_policies import VOCABULARY, tiny_policy

from modeling_dvpo import best_of_n
from modeling_dvpo.critic.quantiles import expectation
from modeling_dvpo.inference import reranking
from modeling_dvpo.inference.pruning import (
    Draft,
    Pruning,
    _drop_worst,
    tokens_saved,
    write_and_prune,
)

PROMPT = "What is 2 + 3?"


def drafts(*values, prompt=0, **changes):
    return [Draft(prompt, state=torch.tensor([[value, value + 1.0]]), **changes) for value in values]


def dropped(some):
    return [draft.dropped for draft in some]


class TestDropWorst:
    def test_the_worst_share_of_each_prompt(self):
        first, second = drafts(3.0, 1.0, 2.0, 0.0), drafts(-5.0, -6.0, prompt=1)
        _drop_worst(first + second, expectation, Pruning(share=0.5))
        assert dropped(first) == [False, True, False, True] and dropped(second) == [False, True]

    def test_what_was_dropped_no_longer_counts(self):
        some = drafts(4.0, 3.0, 2.0, 1.0)
        some[3].dropped = True
        _drop_worst(some, expectation, Pruning(share=0.34))  # of three, the best two are left
        assert dropped(some) == [False, False, True, True]

    def test_ended_ones_count_and_are_not_pruned(self):
        some = drafts(4.0, 1.0)
        some[1].ended = True
        _drop_worst(some, expectation, Pruning(share=0.5))
        assert dropped(some) == [False, True] and not some[1].pruned

    @pytest.mark.parametrize(("share", "keep", "left"), [(0.9, 1, 1), (0.9, 3, 3), (0.3, 1, 7), (0.0, 1, 10)])
    def test_how_many_are_left(self, share, keep, left):
        some = drafts(*map(float, range(10)))
        _drop_worst(some, expectation, Pruning(share=share, keep=keep))
        assert dropped(some).count(False) == left

    def test_equal_ones_fall_from_behind(self):
        some = drafts(1.0, 1.0, 1.0, 1.0)
        _drop_worst(some, expectation, Pruning(share=0.5))
        assert dropped(some) == [False, False, True, True]


def test_tokens_saved_are_those_up_to_the_others_mean_length():
    complete = [Draft(0, [1] * 10, ended=True), Draft(0, [1] * 20)]
    early, late = Draft(0, [1] * 4, dropped=True), Draft(0, [1] * 18, dropped=True)
    assert tokens_saved([*complete, early, late]) == 11  # 15 - 4, and nothing for what was longer
    assert tokens_saved(complete) == 0


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", **VOCABULARY))


@pytest.fixture(scope="module")
def models(critic):
    return tiny_policy(end_bias=4.0), critic


@pytest.fixture(scope="module")
def endless(critic):
    return tiny_policy(end_bias=float("-inf")), critic


def run(models, tokenizer, **settings):
    settings = {"max_new_tokens": 12, "seed": 1, **settings}
    return best_of_n(*models, tokenizer, [PROMPT, "hello"], 6, **settings)


def told(results):
    return [sorted((c.place, c.completion, c.num_tokens) for c in result.candidates) for result in results]


def same(results, others):
    assert told(results) == told(others)
    for one, other in zip(results, others, strict=True):
        for candidate, expected in zip(one.candidates, other.candidates, strict=True):
            torch.testing.assert_close(candidate.quantiles, expected.quantiles, rtol=0, atol=1e-5)


@pytest.mark.parametrize("use_cache", [None, False])
@pytest.mark.parametrize("every", [1, 5])
def test_written_in_pieces_is_written_at_once(endless, tiny_tokenizer, every, use_cache):
    """Where no row ends: else the others would draw other random numbers after it has left."""
    whole = run(endless, tiny_tokenizer)
    assert len({candidate.completion for candidate in whole[0].candidates}) == 6
    same(run(endless, tiny_tokenizer, pruning=Pruning(every=every, share=0.0), use_cache=use_cache), whole)


@pytest.mark.parametrize("use_cache", [None, False])
def test_all_are_scored_before_their_last_token(models, tiny_tokenizer, use_cache):
    whole = run(models, tiny_tokenizer)
    lengths = {candidate.num_tokens for result in whole for candidate in result.candidates}
    assert 12 in lengths and len(lengths) > 1  # some end, and some do not
    same(run(models, tiny_tokenizer, pruning=Pruning(every=12, share=0.0), use_cache=use_cache), whole)


@pytest.mark.parametrize("every", [1, 3])
def test_an_end_at_any_place_of_a_piece(models, tiny_tokenizer, critic, every, monkeypatch):
    """Whatever was written: scores are those of the tokens read at once, the last one left out."""
    drafts, write = [], write_and_prune
    monkeypatch.setattr(reranking, "write_and_prune", lambda *a, **b: drafts.extend(write(*a, **b)) or drafts)
    run(models, tiny_tokenizer, pruning=Pruning(every=every, share=0.0))
    places = {len(draft.ids) % 3 for draft in drafts if draft.ended}
    assert len(places) == 3 and len(drafts) == 12
    for draft in drafts:
        ids = tiny_tokenizer([PROMPT, "hello"][draft.prompt]).input_ids + draft.ids[:-1]
        expected = critic(input_ids=torch.tensor([ids])).quantiles[0, -1].detach()
        torch.testing.assert_close(draft.state, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("use_cache", [None, False])
def test_survivors_are_scored_whole_and_pruned_ones_as_far_as_they_came(models, tiny_tokenizer, use_cache):
    results = run(models, tiny_tokenizer, pruning={"every": 3, "share": 0.4}, use_cache=use_cache)
    for result in results:
        flags = [candidate.pruned for candidate in result.candidates]
        assert flags == sorted(flags) and any(flags)  # behind all others
        assert result.tokens_saved > 0
        assert result.tokens_generated == sum(candidate.num_tokens for candidate in result.candidates)
        for candidate in result.candidates:
            assert candidate.num_tokens in (3, 6, 9) or not candidate.pruned
