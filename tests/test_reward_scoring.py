"""Reward functions and reward models: how they are found, called, weighted and refused."""

import math
import sys
import types

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Qwen3Config

from modeling_dvpo.training.reward_checks import RewardDataError
from modeling_dvpo.training.reward_rows import Row
from modeling_dvpo.training.reward_scoring import RewardModel, load_reward_function, score_rows

TEXT = [
    Row(prompt="1 + 1?", completion=" 2", extra={"answer": "2"}),
    Row(prompt="2 + 2?", completion=" 5", extra={"answer": "4"}),
]
CHAT = [
    Row(prompt=[{"role": "user", "content": "hi", "name": None}], completion="yo"),
    Row(
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ]
    ),
]
IDS = [[7], [8, 9]]


def right_answer(prompts, completions, answer, **_):
    return [float(completion.strip() == right) for completion, right in zip(completions, answer, strict=True)]


def brevity(completion_ids, **_):
    return [1 / len(ids) for ids in completion_ids]


def only_first(prompts, **_):
    return [3.0] + [None] * (len(prompts) - 1)


class TestScoreRows:
    def test_weighted_sum_by_hand(self):
        # right: 1, 0; brevity: 1, 1/2
        assert score_rows(TEXT, IDS, [right_answer, brevity], weights=[2.0, 0.5]) == [2.5, 0.25]

    def test_none_is_left_out_of_the_sum(self):
        assert score_rows(TEXT, IDS, [only_first, brevity]) == [4.0, 0.5]
        assert score_rows(TEXT, IDS, [only_first]) == [3.0, None]

    def test_chats_arrive_as_messages(self):
        seen = {}

        def look(prompts, completions, **_):
            seen.update(prompts=prompts, completions=completions)
            return [0.0, 1.0]

        score_rows(CHAT, IDS, [look])
        # Arrow's empty keys are gone, a text completion is a message, a conversation splits at its first answer.
        assert seen["prompts"] == [[{"role": "user", "content": "hi"}], CHAT[1].messages[:1]]
        assert seen["completions"] == [[{"role": "assistant", "content": "yo"}], CHAT[1].messages[1:]]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ([1.0], "returned 1 scores for 2 rows"),
            ([1.0, math.nan], "returned nan for row 12: it must return a finite number"),
            ([1.0, "good"], "returned 'good' for row 12"),
        ],
    )
    def test_bad_answers_are_refused(self, answer, message):
        def broken(**_):
            return answer

        with pytest.raises(RewardDataError, match=f"The reward function 'broken' {message}"):
            score_rows(TEXT, IDS, [broken], row_ids=[11, 12])

    def test_weights_must_fit(self):
        with pytest.raises(RewardDataError, match="1 reward weights for 2 reward functions"):
            score_rows(TEXT, IDS, [brevity, only_first], weights=[1.0])


class TestLoadRewardFunction:
    @pytest.fixture(autouse=True)
    def module(self, monkeypatch):
        module = types.ModuleType("some_rewards")
        module.brevity, module.NUMBER = brevity, 3
        monkeypatch.setitem(sys.modules, "some_rewards", module)

    @pytest.mark.parametrize("name", ["some_rewards:brevity", "some_rewards.brevity"])
    def test_by_name(self, name):
        assert load_reward_function(name) is brevity

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("some_rewards:brevitty", "'some_rewards:brevitty' cannot be imported"),
            ("no_such_module:f", "No module named 'no_such_module'"),
            ("some_rewards:NUMBER", "is 3, not a function"),
            ("brevity", "write `package.module:function`"),
        ],
    )
    def test_refusals(self, name, message):
        with pytest.raises(RewardDataError, match=message):
            load_reward_function(name)


class TestRewardModel:
    def save(self, tokenizer, path, labels=1):
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=330,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            num_labels=labels,
            initializer_range=0.5,
        )
        AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    def test_scores_text_row_by_row(self, tiny_tokenizer, tmp_path):
        """Padding rows of unlike length into one batch must not change a score."""
        model = load_reward_function(self.save(tiny_tokenizer, tmp_path))
        scores = score_rows(TEXT, IDS, [model])
        for row, score in zip(TEXT, scores, strict=True):
            ids = tiny_tokenizer(row.prompt + row.completion, return_tensors="pt").input_ids
            with torch.no_grad():
                assert score == pytest.approx(model.model(ids.to(model.device)).logits.item(), abs=1e-5)
        assert scores[0] != pytest.approx(scores[1], abs=1e-3)

    def test_scores_chats_through_its_own_template(self, tiny_tokenizer, tmp_path):
        model = RewardModel(self.save(tiny_tokenizer, tmp_path), batch_size=1)
        text = "<s>user: hi<end>\n<s>assistant: yo<end>\n"
        ids = tiny_tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model.model(ids.to(model.device)).logits.item()
        assert score_rows(CHAT, IDS, [model])[0] == pytest.approx(expected, abs=1e-5)

    def test_a_tokenizer_without_pad_token_pads_with_its_end(self, tiny_tokenizer, tmp_path):
        with_pad = score_rows(TEXT, IDS, [RewardModel(self.save(tiny_tokenizer, tmp_path / "with"))])
        tiny_tokenizer.pad_token = None
        without = score_rows(TEXT, IDS, [RewardModel(self.save(tiny_tokenizer, tmp_path / "without"))])
        assert without == pytest.approx(with_pad, abs=1e-5)

    def test_one_label_is_needed(self, tiny_tokenizer, tmp_path):
        with pytest.raises(RewardDataError, match="has 2 labels, and a reward model needs 1"):
            RewardModel(self.save(tiny_tokenizer, tmp_path, labels=2))
