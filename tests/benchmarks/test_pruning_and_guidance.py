"""benchmarks/pruning_and_guidance.py: a whole run on small random models."""

import importlib
import json
import sys
from pathlib import Path

import torch

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.tasks import arithmetic, imitation

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
benchmark = importlib.import_module("pruning_and_guidance")


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
    flags = ["--policy", "policy", "--critics", "critic", "scalar", "--output", "out/found.json"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["name.py", *flags, "--prompts", "3", "--n", "2", "--seeds", "0", "1"])
    benchmark.main()
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    pruning = found["pruning"]
    assert [row["critic"] for row in pruning] == ["critic"] * 4 + ["scalar"] * 4
    for place, row in enumerate(pruning):
        unpruned = pruning[place // 4 * 4]
        assert row["tokens"] <= unpruned["tokens"]
        assert abs(row["less_unpruned"][0] - (row["accuracy"][0] - unpruned["accuracy"][0])) < 1e-12
    assert [row["beta"] for row in found["guidance"]] == [0.0, 0.0, 0.0, 5.0, 20.0, 80.0, 20.0]
    assert "| critic | none dropped |" in capsys.readouterr().out
