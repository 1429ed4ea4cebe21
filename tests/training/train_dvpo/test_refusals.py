"""What cannot be run is named before anything is sampled, and the directory is free for the next try.

Settings that refuse each other are in test_policy_arguments.py, critics that do not fit in test_policies.py."""

import pytest
from dvpo_runs import SHORT, run
from scripts import write_rows
from transformers import AutoTokenizer

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.data.reward_sets import RewardDataError
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.trainers import dvpo_trainer


@pytest.fixture
def refused(inputs, tmp_path, monkeypatch):
    def roll_out(*_, **__):
        raise AssertionError("sampled")

    def refused(error, message, **settings):
        with monkeypatch.context() as patch, pytest.raises(error, match=message):
            patch.setattr(dvpo_trainer, "roll_out", roll_out)
            run(tmp_path / "run", inputs, SHORT, settings)
        assert not (tmp_path / "run").exists()

    return refused


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"reward_funcs": None}, ConfigError, "required: --reward_funcs"),
        ({"reward_funcs": "made_up_rewards:no"}, RewardDataError, "cannot be imported"),
        ({"reward_noise": "flop=0.2"}, ConfigError, "there is no 'flop'; did you mean 'flip'"),
        ({"environment": "made_up_rewards:no"}, ValueError, "cannot be imported"),
        ({"num_mini_batches": 5}, ConfigError, "does not divide the 12 completions of a step"),
        ({"prompt_column": "question"}, RewardDataError, "No column 'question'"),
        ({"prompts_per_step": 13, "num_mini_batches": 1}, ConfigError, "takes 13 prompts and the set has 12"),
        ({"max_completion_length": 120}, RewardDataError, "5 of 12 prompts .* longer than the 8 tokens"),
        ({"max_completion_length": 128}, ConfigError, "the model's context has 128 tokens"),
        ({"max_tokens_per_device": 21}, ConfigError, "the longest prompt has 12 tokens, .* raise it to 22"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings(refused, settings, error, message):
    refused(error, message, **settings)


def test_a_critic_that_reads_other_tokens_or_is_none(refused, runs, inputs, tmp_path):
    critic = AutoModelForDistributionalValue.from_pretrained(runs("dvpo")[1] / "last" / "critic")
    critic.save_pretrained(tmp_path / "critic")
    tokenizer = AutoTokenizer.from_pretrained(inputs["model_name_or_path"])
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tmp_path / "critic")
    message = "critic .* has another tokenizer than .*, so it would read other tokens"
    refused(ConfigError, message, critic=tmp_path / "critic")
    message = "critic .* is no critic: train one with train_critic.py"
    refused(ConfigError, message, critic=inputs["model_name_or_path"])


def test_two_sets_of_one_name(refused, inputs, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_rows(tmp_path / "other" / "held_out.jsonl", [{"prompt": "What", "number": 1}])
    message = "eval_dataset has two sets named 'held_out'"
    refused(ConfigError, message, eval_dataset=[inputs["eval_dataset"], other])
