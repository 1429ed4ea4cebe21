"""How the scripts end where they cannot run: one sentence, no traceback; of several ranks one says it."""

import re

import pytest
from critic_runs import word_tokenizer
from scripts import flags, start, write_rows
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training import train_critic, train_dvpo
from modeling_dvpo.training.errors import ConfigError, RolloutError
from modeling_dvpo.training.script import exit_with_sentence


@pytest.mark.parametrize("error", [ConfigError, DataError, RolloutError])
@pytest.mark.parametrize(("rank", "code"), [("0", "{}: what is wrong"), ("1", 1)])
def test_a_known_error_is_a_sentence_on_rank_0(monkeypatch, error, rank, code):
    def main():
        raise error("what is wrong")

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended:
        exit_with_sentence(main)
    assert ended.value.code == (code.format(error.__name__) if rank == "0" else code)


def test_any_other_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        exit_with_sentence(lambda: 1 / 0)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "ranks"), [(train_critic, 1), (train_critic, 2), (train_dvpo, 2)])
def test_none_of_several_ranks_waits_for_the_others(tmp_path, script, ranks):
    tokenizer = word_tokenizer()
    AutoModelForCausalLM.from_config(tiny_config("qwen3", vocab_size=len(tokenizer))).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    rows = [{"prompt": "What is 1 + 2?", "completion": "3", "reward": "good"}]
    settings = {"model_name_or_path": tmp_path / "m", "dataset": write_rows(tmp_path / "rows.jsonl", rows)}
    sentence = "RewardDataError: 1 of 1 rows of .* not a number"
    if script is train_dvpo:
        settings |= {"reward_funcs": "made_up_rewards:length", "max_tokens_per_device": 21, "prompts_per_step": 1}
        settings |= {"max_completion_length": 20}
        sentence = "ConfigError: max_tokens_per_device is 21"
    done = start(script.__file__, flags(settings, output_dir=tmp_path / "run"), ranks)
    assert done.returncode == 1
    assert len(re.findall(sentence, done.stderr)) == 1
    assert ranks > 1 or "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
