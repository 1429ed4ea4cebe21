import pytest
import torch
from critic_runs import LEARNING, SHORT, reward_rows, run, word_tokenizer
from scripts import write_rows
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Flags that name a tiny policy and a reward set, whose last quarter is held out."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(tiny_config("qwen3", vocab_size=len(tokenizer)))
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    rows = list(reward_rows(160))
    return {
        "model_name_or_path": str(folder / "policy"),
        "dataset": write_rows(folder / "rows.jsonl", rows[:120]),
        "eval_dataset": write_rows(folder / "held_out.jsonl", rows[120:]),
        "num_quantiles": 16,
    }


@pytest.fixture(scope="session")
def one_process(inputs, tmp_path_factory):
    """Metrics and directory of a short run, the yardstick of equal runs."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return run(folder, inputs, SHORT), folder


@pytest.fixture(scope="session")
def learned(inputs, tmp_path_factory):
    """Metrics and directory of a run that is long enough to learn, with its best in the middle."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    settings = {"eval_steps": 10, "lr_scheduler_type": "constant_with_warmup", "value_head_type": "linear"}
    return run(folder, inputs, LEARNING, settings), folder
