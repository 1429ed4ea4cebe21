"""How the scripts end where they cannot run: one sentence, no traceback; of several ranks whichever fails says it."""

import re
import time
from pathlib import Path

import pytest
from critic_runs import word_tokenizer
from scripts import flags, start, write_rows
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training import train_critic, train_dvpo
from modeling_dvpo.training.errors import ConfigError, RolloutError
from modeling_dvpo.training.script import exit_with_sentence

FAILS_ON_A_RANK = Path(__file__).with_name("fails_on_a_rank.py")


@pytest.mark.parametrize("error", [ConfigError, DataError, RolloutError])
def test_a_known_error_is_a_sentence(error):
    def main():
        raise error("what is wrong")

    with pytest.raises(SystemExit) as ended:
        exit_with_sentence(main)
    assert ended.value.code == f"{error.__name__}: what is wrong"


def test_any_other_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        exit_with_sentence(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("waiting", "failure", "said"),
    [
        ("at_work", "sentence", "rank 1: RewardDataError: what is wrong"),
        pytest.param("in_a_collective", "bug", "rank 1: ZeroDivisionError: a bug", marks=pytest.mark.slow),
    ],
)
def test_a_failing_rank_says_why_and_ends_all(waiting, failure, said):
    """Only rank 0 said what was wrong: elsewhere it was status 1 without a word, and the others may have waited on."""
    started = time.monotonic()
    done = start(FAILS_ON_A_RANK, [waiting, failure], 2)
    assert done.returncode == 1 and time.monotonic() - started < 120  # most of it imports; the other waits 600 s
    assert said in done.stderr
    last = done.stderr[done.stderr.index("Root Cause (first observed failure)") :]
    assert "rank      : 1" in last and said.removeprefix("rank 1: ").split(": ", 1)[1] in last
    if waiting == "in_a_collective":
        assert not re.search("rank 0: Traceback", done.stderr), "what it says of a broken connection is no reason"


@pytest.mark.slow
def test_a_rank_waits_for_the_others_as_long_as_it_is_told():
    done = start(FAILS_ON_A_RANK, ["in_a_collective", "sleep", "5"], 2)
    assert done.returncode == 1
    assert "Timed out waiting 5000ms" in done.stderr
    assert "rank 0: Other ranks did not come in time. If they are only slow, raise train_timeout" in done.stderr


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
    before = "rank [01]: " if ranks > 1 else ""
    assert re.search(f"^{before}{sentence}", done.stderr, re.M)
    assert ranks > 1 or "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
