"""Scores of completions against the critic's own outputs, read one row at a time."""

from functools import partial

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config

from modeling_dvpo.inference.reranking import rerank
from modeling_dvpo.inference.scoring import score_completions, score_tokens
from modeling_dvpo.text.completion_tokens import Tokens
from modeling_dvpo.text.problems import DataError

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
    torch.testing.assert_close(scored.last_state, expected[-2])
    torch.testing.assert_close(scored.value, expected.mean((-2, -1)))


def test_an_unended_completion_is_read_before_its_last_token_too(critic, tiny_tokenizer):
    """That is the last state whose return a row of a reward set is learnt from; the one after it was read."""
    [scored] = score_completions(critic, tiny_tokenizer, ["hello"], [" world"], truncated=True)
    torch.testing.assert_close(scored.last_state, outputs(critic, scored.input_ids)[-2])


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


def test_arguments_reach_the_template(critic, tiny_tokenizer):
    tiny_tokenizer.chat_template += "{% if add_generation_prompt and calm %}hello {% endif %}"
    prompt = [{"role": "user", "content": "hello"}]
    score = partial(score_completions, critic, tiny_tokenizer, [prompt], ["5"])
    [plain], [calm] = score(), score(chat_template_kwargs={"calm": True})
    assert tiny_tokenizer.decode(calm.input_ids) == "<s>user: hello<end>\n<s>assistant: hello 5<end>"
    assert len(calm.action_positions) == len(plain.action_positions)
    rank = partial(rerank, critic, tiny_tokenizer, prompt, ["5"], use_cache=False, chat_template_kwargs={"calm": True})
    assert torch.equal(rank()[0].quantiles, calm.last_state)


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


class TestSharedPrompts:
    """With a KV cache a prompt is read once, and its cache expanded over the completions."""

    prompts = ["What is 2 + 3?"] * 3 + ["hello"] * 2 + ["alone"]
    completions = [" The answer is 5.", " 5", " First add two and three", " world", " hello hello world", " 1"]

    @pytest.mark.parametrize("max_tokens", [30, 10_000])
    def test_the_same_numbers(self, critic, tiny_tokenizer, max_tokens):
        score = partial(score_completions, critic, tiny_tokenizer, self.prompts, self.completions)
        for cached, whole in zip(score(use_cache=True, max_tokens=max_tokens), score(), strict=True):
            assert (cached.input_ids, cached.action_positions) == (whole.input_ids, whole.action_positions)
            torch.testing.assert_close(cached.quantiles, whole.quantiles, rtol=0, atol=1e-5)

    def test_a_chat_goes_on_behind_other_turns(self, critic, tiny_tokenizer):
        prompt = [{"role": "user", "content": "hello"}]
        turns = [{"role": "assistant", "content": "5"}, {"role": "user", "content": "world"}]
        completions = [[*turns, {"role": "assistant", "content": "2 + 3"}], "5"]
        score = partial(score_completions, critic, tiny_tokenizer, [prompt] * 2, completions)
        for cached, whole in zip(score(use_cache=True), score(), strict=True):
            torch.testing.assert_close(cached.quantiles, whole.quantiles, rtol=0, atol=1e-5)

    def test_a_prompt_is_read_once(self, critic, tiny_tokenizer, monkeypatch):
        read, forward = [], critic.forward
        monkeypatch.setattr(critic, "forward", lambda **inputs: read.append(inputs["input_ids"]) or forward(**inputs))
        scored = score_completions(critic, tiny_tokenizer, self.prompts[:3], self.completions[:3], use_cache=True)
        prompt = tiny_tokenizer(self.prompts[0]).input_ids
        longest = max(len(one.input_ids) for one in scored) - len(prompt)
        assert [tuple(ids.shape) for ids in read] == [(1, len(prompt)), (3, longest)]

    def test_a_recurrent_family_reads_rows_whole(self, tiny_tokenizer):
        critic = tiny_critic(config=tiny_config("jamba", vocab_size=320))
        score = partial(score_completions, critic, tiny_tokenizer, self.prompts, self.completions)
        for left_open, whole in zip(score(use_cache=None), score(), strict=True):
            assert torch.equal(left_open.quantiles, whole.quantiles)
        with pytest.raises(ValueError, match="A jamba critic has no cache that can go on by several tokens"):
            score(use_cache=True)


def test_a_prompt_alone_has_one_state(critic, tiny_tokenizer):
    ids = tiny_tokenizer("hello world").input_ids
    [scored] = score_tokens(critic, [Tokens(ids, [False] * len(ids))])
    assert scored.action_positions == []
    torch.testing.assert_close(scored.quantiles, outputs(critic, ids)[-1:])
    torch.testing.assert_close(scored.last_state, outputs(critic, ids)[-1])
