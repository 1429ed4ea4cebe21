"""Samples against the policy's own probabilities."""

import pytest
import torch
from tiny_policies import VOCABULARY, tiny_policy

from modeling_dvpo.inference.sampling import (
    Continuation,
    Sampling,
    as_sampled,
    end_token_ids,
    padded_left,
)
from modeling_dvpo.text.problems import DataError

END = VOCABULARY["eos_token_id"]


def continuation(policy, prompts, **settings):
    return Continuation(policy, prompts, end_ids=[END], sampling=Sampling(**settings))


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "jamba", "minimax"])
def test_pieces_go_on_from_each_other(family):
    """Greedy, against the likeliest token found by reading everything anew; rows of different length, one picked."""
    policy, prompts = tiny_policy(family, end_bias=float("-inf")), [[5, 6, 7, 8, 9], [10, 11]]
    some = continuation(policy, prompts, top_k=1)
    with as_sampled(policy):
        first = some.write(3)
        some.select([1])
        second = some.write(4)
    row = list(prompts[1])
    with torch.no_grad():
        for token in first[1] + second[0]:
            assert policy(input_ids=torch.tensor([row])).logits[0, -1].argmax().item() == token
            row.append(token)
    assert len(first[0]) == 3 and len(second) == 1


def test_tokens_come_as_often_as_the_policy_says():
    policy = tiny_policy()
    rows = 20_000
    with as_sampled(policy, seed=0):
        written = continuation(policy, [[5, 6]] * rows).write(1)
    with torch.no_grad():
        expected = policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor(written)[:, 0], minlength=len(expected)) / rows
    assert (counts - expected).abs().max() < 0.012  # 3.4 standard errors of a half
    assert (counts > 0).sum() > 50  # not the 50 likeliest of transformers' default


def test_nothing_behind_an_end_token():
    policy = tiny_policy(end_bias=6.0)
    with as_sampled(policy, seed=0):
        written = continuation(policy, [[5, 6]] * 20).write(8)
    assert all(END not in row[:-1] for row in written)
    assert {row[-1] == END for row in written} == {True, False}


def test_modes_and_generation_config_come_back():
    policy = tiny_policy().train()
    policy.generation_config.repetition_penalty = 3.0
    with pytest.raises(RuntimeError), as_sampled(policy):
        assert not policy.training and policy.generation_config.repetition_penalty is None
        raise RuntimeError
    assert policy.training and policy.generation_config.repetition_penalty == 3.0


def test_padding_on_the_left():
    ids, mask = padded_left([[5], [6, 7, 8]], 0, "cpu")
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]] and mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_every_end_token(tiny_tokenizer):
    policy = tiny_policy()
    policy.generation_config.eos_token_id = [7, END]
    assert end_token_ids(policy, tiny_tokenizer) == [7, END]
    policy.generation_config.eos_token_id = tiny_tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        end_token_ids(policy, tiny_tokenizer)
