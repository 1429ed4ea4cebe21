import pytest
from conftest import tiny_tokenizer
from dvpo_runs import CRITIC, SHORT, run
from scripts import write_rows
from tiny_policies import policy_that_ends
from train_dvpo_with_fixed_rollouts import fixed_roll_out

from modeling_dvpo.training.trainers import dvpo_trainer


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Flags that name a tiny policy, prompts to train on and held-out ones."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    policy_that_ends(tokenizer).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    rows = [{"prompt": "What is " + "2 + " * (i % 4) + f"{i}?", "number": i / 10} for i in range(16)]
    return {
        "model_name_or_path": str(folder / "policy"),
        "dataset": write_rows(folder / "rows.jsonl", rows[:12]),
        "eval_dataset": write_rows(folder / "held_out.jsonl", rows[12:]),
    }


@pytest.fixture(scope="session")
def runs(inputs, tmp_path_factory):
    """A short run of each algorithm, made when it is first asked for: metrics and directory."""
    done = {}

    def run_of(algorithm):
        if algorithm not in done:
            folder = tmp_path_factory.mktemp(algorithm) / "run"
            settings = CRITIC if algorithm == "dvpo" else {"algorithm": algorithm}
            done[algorithm] = run(folder, inputs, SHORT, settings), folder
        return done[algorithm]

    return run_of


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(dvpo_trainer, "roll_out", fixed_roll_out)
