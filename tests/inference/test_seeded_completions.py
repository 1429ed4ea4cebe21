"""Seeded completions: the policy's distribution, whatever stands beside a row, and its row read once."""

import copy

import numpy as np
import pytest
import torch
from tiny_policies import VOCABULARY, tiny_policy

from modeling_dvpo.inference.sampling import Continuation, Sampler, Sampling, as_sampled
from modeling_dvpo.inference.seeded_completions import OwnDraws, SeededSampler

END = VOCABULARY["eos_token_id"]
ROWS = [[5, 6, 7, 8, 9], [10, 11], [12]]
SEEDS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_token_by_hand():
    """Probabilities .5, .25 and .25: u of .6 falls on the second, and of the two likeliest alone (2/3, 1/3), too."""
    scores = torch.tensor([[0.5, 0.25, 0.25]]).log()
    seed = next(seed for seed in range(100) if 0.55 < np.random.default_rng(seed).random() < 0.65)
    for sampling, chosen in (
        (Sampling(), 1),
        (Sampling(temperature=0.5), 0),  # .67, .17, .17
        (Sampling(top_k=1), 0),
        (Sampling(top_p=0.4), 0),
        (Sampling(min_p=0.9), 0),
    ):
        draws = OwnDraws([seed], 1, sampling, "cpu")
        left = draws(torch.zeros(1, 0, dtype=torch.long), scores)
        assert left.tolist() == [[0.0 if token == chosen else float("-inf") for token in range(3)]]
        # of the policy itself, whatever the settings make of it
        torch.testing.assert_close(torch.tensor(draws.logprobs()), scores[:, [chosen]])


def test_tokens_come_as_often_as_the_policy_says(tiny_tokenizer):
    policy, number = tiny_policy(), 20_000
    (found,) = SeededSampler(policy, tiny_tokenizer, Sampling())([[5, 6]], [range(number)], 1)
    with torch.no_grad():
        expected = policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([ids for ids, *_ in found])[:, 0], minlength=len(expected)) / number
    assert (counts - expected).abs().max() < 0.012  # 3.4 standard errors of a half
    assert (counts > 0).sum() > 50


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "jamba"])
def test_a_completion_hangs_on_its_seed_alone(family, tiny_tokenizer):
    """Alone, beside other rows and beside other completions of its row; and log-probabilities by reading it whole."""
    policy = tiny_policy(family, end_bias=4.0)
    sampler = SeededSampler(policy, tiny_tokenizer, Sampling(temperature=0.8))
    state = torch.get_rng_state()
    together = sampler(ROWS, SEEDS, 12)
    assert torch.equal(torch.get_rng_state(), state)
    assert {completion.ended for own in together for completion in own} == {True, False}
    for row, own, seeds in zip(ROWS, together, SEEDS, strict=True):
        for completion, seed in zip(own, seeds, strict=True):
            ((alone,),) = sampler([row], [[seed]], 12)
            assert (alone.ids, alone.ended) == (completion.ids, completion.ended)
            with torch.no_grad():
                logits = policy(input_ids=torch.tensor([row + completion.ids])).logits[0, len(row) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_the_limit_and_the_end(tiny_tokenizer):
    policy = tiny_policy(end_bias=3.0)
    (long,) = SeededSampler(policy, tiny_tokenizer, Sampling())([[5, 6]], [range(20)], 12)
    (short,) = SeededSampler(policy, tiny_tokenizer, Sampling())([[5, 6]], [range(20)], 4)
    for one, other in zip(long, short, strict=True):
        assert other.ids == one.ids[:4]  # the first draws are the same
        assert one.ended == (one.ids[-1] == END) and len(one.logprobs) == len(one.ids)
        assert other.ended == (other.ids[-1] == END) and END not in one.ids[:-1]
    assert {completion.ended for completion in short} == {True, False}


def test_a_row_is_read_once(tiny_tokenizer):
    """Of its tokens all but the last; then each completion reads one token a step."""
    policy, read = tiny_policy(end_bias=float("-inf")), []
    forward = policy.model.forward

    def counting(input_ids=None, **kwargs):
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **kwargs)

    policy = copy.copy(policy)
    policy.model.forward = counting
    SeededSampler(policy, tiny_tokenizer, Sampling())([[5, 6, 7, 8, 9]], [[1, 2, 3]], 3)
    assert read == [(1, 4), (3, 1), (3, 1), (3, 1)]


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "jamba", "minimax"])
def test_repeated_rows_go_on_as_if_each_had_been_read(family, tiny_tokenizer):
    sampler = Sampler(tiny_policy(family, end_bias=float("-inf")), tiny_tokenizer, Sampling(greedy=True))
    with as_sampled(sampler.policy):
        some = Continuation(sampler, ROWS)
        some.repeat(2)
        found = some.write(6)
    assert found == [one for one in sampler(ROWS, [6] * 3, batch_size=1) for _ in range(2)]
