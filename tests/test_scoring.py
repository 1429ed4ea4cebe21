"""Scores of completions against the critic's own outputs, read one row at a time."""

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config

from modeling_dvpo.scoring import score_completions
from modeling_dvpo.text_problems import DataError

PAIRS = [("What is 2 + 3?", " The answer is 5."), ("hello", " world hello world"), ("What is two and three?", " 5")]


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", vocab_size=320))


def outputs(critic, input_ids):
    return critic(input_ids=torch.tensor([input_ids])).quantiles[0].detach()


def test_state_before_each_action_and_after_the_last(critic, tiny_tokenizer):
    [scored] = score_completions(critic, tiny_tokenizer, ["hello"], [" world"])
    prompt = tiny_tokenizer("hello").input_ids
    completion = [*tiny_tokenizer(" world").input_ids, tiny_tokenizer.eos_token_id]
    assert scored.input_ids == prompt + completion
    assert scored.action_positions == list(range(len(prompt), len(prompt + completion)))
    expected = outputs(critic, prompt + completion)[len(prompt) - 1 :]
    torch.testing.assert_close(scored.quantiles, expected)
    assert scored.ended
    torch.testing.assert_close(scored.last_state, expected[-2])
    torch.testing.assert_close(scored.value, expected.mean((-2, -1)))


def test_an_unended_completion_is_read_after_its_last_token(critic, tiny_tokenizer):
    [scored] = score_completions(critic, tiny_tokenizer, ["hello"], [" world"], truncated=True)
    assert not scored.ended
    torch.testing.assert_close(scored.last_state, outputs(critic, scored.input_ids)[-1])


@pytest.mark.parametrize("max_tokens", [1, 30, 10_000])
def test_batches_and_padding_change_nothing(critic, tiny_tokenizer, max_tokens):
    prompts, completions = zip(*PAIRS, strict=True)
    scored = score_completions(critic, tiny_tokenizer, prompts, completions, max_tokens=max_tokens)
    for one, prompt, completion in zip(scored, prompts, completions, strict=True):
        [alone] = score_completions(critic, tiny_tokenizer, [prompt], [completion])
        assert one.input_ids == alone.input_ids
        torch.testing.assert_close(one.quantiles, alone.quantiles)


def test_a_chat_has_states_in_the_assistants_turns_only(critic, tiny_tokenizer):
    said = [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "world"},
        {"role": "assistant", "content": "5"},
    ]
    [scored] = score_completions(critic, tiny_tokenizer, [[{"role": "user", "content": "hello"}]], [said])
    decoded = tiny_tokenizer.decode([scored.input_ids[place] for place in scored.action_positions])
    assert decoded == "hello<end>5<end>"
    expected = outputs(critic, scored.input_ids)
    places = [*(place - 1 for place in scored.action_positions), scored.action_positions[-1]]
    torch.testing.assert_close(scored.quantiles, expected[places])


def test_an_assistants_text_is_a_turn(critic, tiny_tokenizer):
    prompt = [{"role": "user", "content": "hello"}]
    turn = [{"role": "assistant", "content": "world"}]
    both = score_completions(critic, tiny_tokenizer, [prompt, prompt], ["world", turn])
    assert both[0].input_ids == both[1].input_ids


def test_a_critic_in_training_stays_so(critic, tiny_tokenizer):
    critic.train()
    score_completions(critic, tiny_tokenizer, ["hello"], [" world"])
    assert critic.training
    critic.eval()


class TestRefusals:
    def test_unequal_numbers(self, critic, tiny_tokenizer):
        with pytest.raises(ValueError, match="2 prompts, 1 completions and 1 values"):
            score_completions(critic, tiny_tokenizer, ["a", "b"], ["c"])

    def test_empty_completion_by_its_place(self, critic, tiny_tokenizer):
        with pytest.raises(ValueError, match="Completion 1: empty completion"):
            score_completions(critic, tiny_tokenizer, ["a", "b"], ["c", ""])

    def test_nothing_is_cut_off(self, tiny_tokenizer):
        short = tiny_critic(config=tiny_config("qwen3", vocab_size=320, max_position_embeddings=8))
        with pytest.raises(ValueError, match="critic reads 8 at most"):
            score_completions(short, tiny_tokenizer, ["hello"], [" hello world" * 9])

    def test_another_tokenizer(self, tiny_tokenizer):
        with pytest.raises(ValueError, match="vocabulary ends at 98"):
            score_completions(tiny_critic(), tiny_tokenizer, ["hello"], [" world"])

    def test_a_chat_without_a_template(self, critic, tiny_tokenizer):
        tiny_tokenizer.chat_template = None
        with pytest.raises(DataError, match="no chat template"):
            score_completions(critic, tiny_tokenizer, [[{"role": "user", "content": "a"}]], ["b"])
