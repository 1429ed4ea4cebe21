"""What cannot be trained on is named, no critic is trained, and the directory is free for the next try."""

import pytest
from critic_runs import SHORT, config_of, reward_rows, run, word_tokenizer
from scripts import write_rows
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from modeling_dvpo.training.data.reward_sets import RewardDataError
from modeling_dvpo.training.errors import ConfigError

GOOD = {"prompt": "What is 1 + 2?", "completion": "The answer is 3.", "reward": 1.0}
LONG = {**GOOD, "prompt": "1 + " * 100}


def refused(tmp_path, error, message, *settings, **more):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", *settings, **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "1", "completion": "2", "score": 1.0}], "No column 'reward'"),
        ([GOOD, {**GOOD, "reward": float("nan")}], "1 of 2 rows .* (NaN or infinite|have no reward)"),
        ([GOOD, LONG], "1 of 2 rows .* are longer than the context of 128"),
    ],
)
def test_rows(inputs, tmp_path, rows, message):
    """One each of those that columns, rows and the model's size refuse; test_reward_sets.py has all."""
    refused(tmp_path, RewardDataError, message, inputs, SHORT, dataset=write_rows(tmp_path / "bad.jsonl", rows))


def test_long_rows_are_dropped_on_request(inputs, tmp_path):
    dataset = write_rows(tmp_path / "long.jsonl", [*reward_rows(20), GOOD, LONG])
    run(tmp_path / "run", inputs, SHORT, dataset=dataset, drop_long_rows="true", max_steps=1)
    assert config_of(tmp_path / "run" / "last")["critic_training"]["training_rows"] == 21


@pytest.mark.parametrize("which", ["dataset", "eval_dataset"])
def test_a_micro_batch_without_room(inputs, tmp_path, which):
    """A held-out row used to stop the run at its first evaluation."""
    rows = write_rows(tmp_path / "rows.jsonl", [{**GOOD, "prompt": "1 + " * 40}, GOOD])
    message = "max_tokens_per_device is 60, and the longest row has 8"
    refused(tmp_path, ConfigError, message, inputs, SHORT, {which: rows}, max_tokens_per_device=60)


def test_evaluation_of_nothing(inputs, tmp_path):
    message = "eval_steps is set, but nothing is held out"
    refused(tmp_path, ConfigError, message, inputs, SHORT, eval_steps=1, eval_dataset=None)


def test_a_model_that_is_not_there(inputs, tmp_path):
    message = "model_name_or_path: .*nowhere has no config that transformers can read"
    refused(tmp_path, ConfigError, message, inputs, model_name_or_path=tmp_path / "nowhere")


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])
def test_a_model_without_a_tokenizer(inputs, tmp_path, model_type):
    """transformers answers for Qwen3 with a tokenizer of one token, under which every text is empty."""
    tiny_config(model_type).save_pretrained(tmp_path / "policy")
    refused(tmp_path, ConfigError, "policy has no tokenizer", inputs, model_name_or_path=tmp_path / "policy")


def test_a_tokenizer_that_does_not_fit_the_vocabulary(inputs, tmp_path):
    tiny_config("qwen3", vocab_size=15).save_pretrained(tmp_path / "policy")
    word_tokenizer().save_pretrained(tmp_path / "policy")
    message = "The tokenizer does not fit the model: row .* the model's vocabulary ends at 14"
    refused(tmp_path, RewardDataError, message, inputs, model_name_or_path=tmp_path / "policy")


def test_packing_a_model_that_mixes_rows_up(inputs, tmp_path):
    policy = AutoModelForCausalLM.from_config(tiny_config("mamba", vocab_size=20))
    policy.save_pretrained(tmp_path / "policy")
    word_tokenizer().save_pretrained(tmp_path / "policy")
    settings = {**inputs, "model_name_or_path": tmp_path / "policy", "packing": "true", "max_length": 128}
    message = "packing is true, but MambaForDistributionalValue would mix packed rows up"
    refused(tmp_path, ConfigError, message, settings)
