"""benchmarks/best_of_n.py: ways to choose by hand, and a whole run on small random models."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.tasks import arithmetic, imitation

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
choosing = importlib.import_module("best_of_n_choices")
benchmark = importlib.import_module("best_of_n")


@pytest.fixture
def choices():
    """Two prompts, four completions each."""
    return choosing.Choices(
        right=torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
        answers=[[3, 5, 5, 7], [None, 4, 4, 2]],
        scores={"critic, mean": torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.2, 0.2, 0.8]])},
        tokens=40.0,
    )


@pytest.mark.parametrize(
    ("way", "of_four", "of_two"),
    [
        ("random", [0.5, 0.25], [0.5, 0.25]),
        ("oracle", [1.0, 1.0], [1.0, 0.5]),
        ("critic, mean", [0.0, 1.0], [0.5, 0.5]),
        # 5 twice, then 4 twice; of two the first with an answer
        ("majority vote", [1.0, 0.0], [0.5, 0.0]),
        # .9 for 3 against .4 for 5; .4 for 4 against .8 for 2
        ("vote weighted by critic, mean", [0.0, 1.0], [0.5, 0.5]),
    ],
)
def test_ways_to_choose(choices, way, of_four, of_two):
    assert way in choices.ways()
    assert_close(choices.accuracy(way, 4), torch.tensor(of_four))
    assert_close(choices.accuracy(way, 2), torch.tensor(of_two))  # the first two, the last two, averaged
    assert_close(choices.accuracy(way, 1), choices.right.mean(1))


def test_pairs_in_order(choices):
    """First prompt: .1 and .3 against .9 and .2, one of four; second: .8 against .1, .2 and .2, all three."""
    assert choices.pairs_in_order("critic, mean") == pytest.approx(4 / 7)
    choices.scores["critic, mean"][:] = 0.5
    assert choices.pairs_in_order("critic, mean") == 0.5
    choices.right[:] = 0.0
    assert choices.pairs_in_order("critic, mean") is None


def test_no_answer_wins_only_alone():
    assert choosing.voted([None, None, 6], [1.0, 1.0, 0.1]) == 2
    assert choosing.voted([None, None], [1.0, 1.0]) == 0


def test_interval_of_a_mean():
    """Of n prompts with chance p, about 1.96 standard errors to either side."""
    right = torch.tensor([1.0] * 300 + [0.0] * 100)
    found = choosing.interval(right)
    error = (0.75 * 0.25 / 400) ** 0.5
    assert found["mean"] == 0.75
    assert found["low"] == pytest.approx(0.75 - 1.96 * error, abs=0.006)
    assert found["high"] == pytest.approx(0.75 + 1.96 * error, abs=0.006)


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    tokenizer = arithmetic.tokenizer()
    policy = imitation.build_policy(tokenizer, hidden_size=16, num_layers=1)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    for name, number in (("critic", 8), ("scalar", 1)):
        critic = AutoModelForDistributionalValue.from_config(policy.config, num_quantiles=number)
        critic.save_pretrained(tmp_path / name)
    monkeypatch.setattr(benchmark, "MAX_NEW_TOKENS", 8)
    flags = ["--policy", "policy", "--critic", "critic", "--scalar_critic", "scalar", "--output", "out/found.json"]
    sizes = ["--prompts", "3", "--n", "2", "--seeds", "0", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["best_of_n.py", *flags, *sizes])
    benchmark.main()
    [found] = json.loads((tmp_path / "out" / "found.json").read_text())["domains"]
    ways = {"random", "likelihood", "scalar critic, mean", "distributional critic, cvar=0.1"}
    assert found["accuracy"].keys() >= ways
    assert set(found["tokens_of_n"]) == {"1", "2"} and len(found["pruning"]) == 2 * len(benchmark.PRUNINGS)
    assert all(row["tokens"] <= found["tokens_of_n"]["2"] for row in found["pruning"])
    assert [row["beta"] for row in found["guidance"]][:3] == [0.0, 0.0, 0.0]
    assert "| majority vote |" in capsys.readouterr().out


def test_likelihoods_are_the_policys(tmp_path):
    """Of the very tokens, end token included, whatever they are padded with."""
    tokenizer = arithmetic.tokenizer()
    policy = imitation.build_policy(tokenizer, hidden_size=16, num_layers=1).eval()
    bench = benchmark.Bench.__new__(benchmark.Bench)
    bench.policy, bench.tokenizer = policy, tokenizer
    one = type("Candidate", (), {"completion": "answer 12", "num_tokens": 4})
    other = type("Candidate", (), {"completion": "8-3=5;5", "num_tokens": 7})  # cut off
    rows = [bench.tokens("8+4=", one), bench.tokens("8-3+2=", other)]
    assert rows[0].input_ids[-1] == tokenizer.eos_token_id and sum(rows[0].actions) == 4
    for row, found in zip(rows, bench.log_likelihoods(rows), strict=True):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        start = row.actions.index(True)
        expected = sum(logits[place - 1, row.input_ids[place]].item() for place in range(start, len(row.input_ids)))
        assert found == pytest.approx(expected, abs=1e-4)
