"""Reward sets as a whole: which rows are held out, what is counted, limited and refused."""

import math

import pytest
import torch
from datasets import Dataset, DatasetDict
from reward_rows import text
from transformers import Qwen3Config

from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.packing import RewardBatchSampler, RewardCollator
from modeling_dvpo.training.data.reward_sets import load_reward_data
from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.run.config import parse_config


class TestHeldOutRows:
    @pytest.mark.parametrize("form", ["another split", "another file"])
    def test_what_is_named_is_held_out(self, tiny_tokenizer, tmp_path, caplog, form):
        train, test = [text(0.0), text(1.0)], [text(0.0), text(1.0, prompt="Another?"), text(prompt="New?")]
        if form == "another split":
            splits = {"train": Dataset.from_list(train), "test": Dataset.from_list(test)}
            DatasetDict(splits).save_to_disk(tmp_path / "splits")
            args = RewardDataArguments(dataset=str(tmp_path / "splits"), eval_split="test")
        else:
            Dataset.from_list(train).to_json(tmp_path / "a.jsonl")
            Dataset.from_list(test).to_json(tmp_path / "b.jsonl")
            args = RewardDataArguments(dataset=str(tmp_path / "a.jsonl"), eval_dataset=str(tmp_path / "b.jsonl"))
        assert list(map(len, load_reward_data(args, tiny_tokenizer))) == [2, 3]
        assert "1 of 3 held-out rows have a prompt that is also trained on" in caplog.text

    def test_a_prompt_is_never_on_both_sides(self, load_both):
        rows = [text(i % 2, prompt=f"Prompt {i // 4}") for i in range(40)]
        train, held_out = load_both(*rows, eval_fraction=0.25, seed=1)
        assert not set(train["prompt_id"]) & set(held_out["prompt_id"])
        assert len(held_out) == 12 and len(train) == 28  # whole prompts of 4 rows, until 10 are reached
        again, other = (load_both(*rows, eval_fraction=0.25, seed=seed)[1] for seed in (1, 2))
        assert again["row_id"][:] == held_out["row_id"][:] != other["row_id"][:]

    def test_none_unless_asked_for(self, load_both):
        assert load_both(text(0.0), text())[1] is None

    def test_one_prompt_cannot_be_split(self, load_both):
        with pytest.raises(RewardDataError, match="All 2 rows have the same prompt"):
            load_both(text(0.0), text(), eval_fraction=0.5)


class TestRefusals:
    def test_bad_rows_are_counted_and_named(self, load):
        message = (
            r"^2 of 6 rows of .*rows.jsonl' have an empty completion \(rows 1, 4; the first: ''\)\. .* remove these "
            r"rows\. Other problems in rows beside these: 1\.$"
        )
        with pytest.raises(RewardDataError, match=message):
            load(text(0.0), text(completion=""), text(None), text(), text(completion=""), text())

    @pytest.mark.parametrize(
        ("rewards", "found"),
        [
            ({"reward": 1e39}, r"1e\+39"),
            ({"reward": -2e18}, r"-2e\+18"),
            ({"reward": [9e17, 9e17], "step_ends": [6, 17]}, r"1.8e\+18"),
            ({"token_rewards": [3e38] * 5, "reward": None}, r"1.5e\+39"),
        ],
    )
    def test_a_reward_that_float32_cannot_hold(self, load, rewards, found):
        """It was finite when it was checked, became inf as float32, and ended in a traceback that named no row."""
        with pytest.raises(RewardDataError, match=rf"1 of 2 rows .* beyond 1e18 \(row 1; the first: {found}\)"):
            load(text(0.0), text(**rewards))

    def test_a_row_that_the_template_refuses(self, load, tiny_tokenizer):
        """It ended in a traceback through the template, which named no row."""
        chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "5"}]
        tiny_tokenizer.chat_template = (
            "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
            "<s>{{ m.role }}: {{ m.content.strip() }}<end>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
        refused = [chat[0], {"role": "tool", "content": "5"}, chat[1]]
        rows = [{"messages": chat, "reward": 0.0}, {"messages": refused, "reward": 1.0}]
        message = r"1 of 2 rows .* are refused by the chat template \(row 1; the first: TemplateError: no tools here\)"
        with pytest.raises(RewardDataError, match=message):
            load(*rows)
        with pytest.raises(RewardDataError, match=r"refused by the chat template \(row 1; the first: UndefinedError"):
            load(rows[0], {"messages": [{"role": "user", "content": {"a": 1}}, chat[1]], "reward": 1.0})

    def test_long_rows_are_counted_and_can_be_dropped(self, load, caplog):
        rows = [text(0.0), text(completion=" hello" * 50), text(1.0), text(completion=" hello" * 60)]
        message = r"2 of 4 rows .* longer than the context of 30 tokens \(rows 1, 3; .*set drop_long_rows=true .* or"
        with pytest.raises(RewardDataError, match=message):
            load(*rows, max_length=30)
        assert load(*rows, max_length=30, drop_long_rows=True)["row_id"][:] == [0, 2]
        assert "Dropped 2 of 4 rows" in caplog.text
        with pytest.raises(RewardDataError, match=r"4 of 4 rows .*\): raise max_length if the model allows it"):
            load(*rows, max_length=3, drop_long_rows=True)

    def test_the_context_of_model_or_tokenizer_is_the_limit(self, load, tiny_tokenizer):
        rows = [text(0.0), text(completion=" hello" * 50)]
        with pytest.raises(RewardDataError, match="1 of 2 rows .* context of 16 tokens"):
            load(*rows, model_config=Qwen3Config(max_position_embeddings=16, vocab_size=330), max_length=40)
        tiny_tokenizer.model_max_length = 17
        with pytest.raises(RewardDataError, match="1 of 2 rows .* context of 17 tokens"):
            load(*rows)
        assert len(load(*rows, max_length=80)) == 2  # the tokenizer's is asked for last

    def test_a_tokenizer_of_another_model(self, load):
        with pytest.raises(RewardDataError, match="does not fit the model: row 0 has token id .* ends at 99"):
            load(text(0.0), text(), model_config=Qwen3Config(vocab_size=100))
        load(text(0.0), text(), model_config=Qwen3Config(vocab_size=330))

    def test_equal_rewards_are_a_warning(self, load):
        with pytest.raises(UserWarning, match="All 3 rows of .* have the same total reward, 0.5"):
            load(text(0.5), text(0.5), text(0.5))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"eval_fraction": 1.0}, "eval_fraction is 1.0"),
            ({"eval_fraction": 0.1, "eval_split": "test"}, "not both"),
            ({"reward_funcs": ["a:b"], "reward_weights": [1.0, 2.0]}, "2 reward_weights for 1 reward_funcs"),
            ({"max_length": 1}, "max_length is 1"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(RewardDataError, match=message):
            RewardDataArguments(dataset="x", **arguments)


def test_arguments_parse_from_the_command_line():
    line = "--dataset rows.jsonl --reward_funcs a:b c:d --reward_weights 1 0.5 --append_eos false"
    (arguments,) = parse_config((RewardDataArguments,), line.split())
    assert arguments.reward_funcs == ["a:b", "c:d"] and arguments.reward_weights == [1.0, 0.5]
    assert arguments.append_eos is False and arguments.eval_dataset is None


@pytest.mark.parametrize(
    ("logprobs", "total"),
    [([-0.5, -1.25], -1.75), (-1.75, -1.75), ([], None), (None, None), ("-1.75", None), ({"content": []}, None)],
)
def test_likelihoods_are_carried_where_they_are_numbers(load, logprobs, total):
    """Other forms of the column are nobody's business in training."""
    rows = load(text(logprobs=logprobs))
    found = rows["log_likelihood"][0]
    assert found == total if total else math.isnan(found)
    assert "log_likelihood" not in load(text(logs=logprobs)).column_names
    assert load(text(logs=logprobs), logprobs_column="logs")["log_likelihood"][0] == pytest.approx(found, nan_ok=True)


def test_several_workers_give_the_same_rows(load):
    rows = [text(i % 2, prompt=f"Prompt {i}") for i in range(8)]
    assert load(*rows)[:] == load(*rows, num_workers=2)[:]


def test_rows_go_through_sampler_and_collator(load):
    rows = load(*[text(i % 2, prompt=f"Prompt {i}" * (1 + i % 3)) for i in range(7)])
    sampler = RewardBatchSampler(rows["length"][:], rows_per_step=4, max_tokens=60)
    total = 0.0
    for batch in (batch for plan in sampler.steps() for batch in plan):
        tensors = RewardCollator(packing=True)([rows[place] for place in batch.rows], filler=batch.filler)
        assert tensors["input_ids"].shape[1] <= 60
        assert not (tensors["completion_mask"] & (tensors["position_ids"] == 0)).any()
        assert torch.all(tensors["completion_mask"] | (tensors["rewards"] == 0))
        total += tensors["rewards"].sum().item()
    assert total == 3.0
