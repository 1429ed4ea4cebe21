"""What a run of every algorithm measures, saves and shows; and which options run beside each other."""

import json

import pytest
import torch
from dvpo_runs import CRITIC, SHORT, WITH_CRITIC, record_of, run, saved_critic, table_of, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_dvpo.training.algorithms.advantages import ALGORITHMS
from modeling_dvpo.training.errors import ConfigError


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEveryAlgorithm:
    def test_metrics(self, runs, algorithm):
        metrics, _ = runs(algorithm)
        expected = {"reward", "reward_std", "reward/vowels", "completion_length", "truncated", "turns", "samples"}
        expected |= {"advantage_std", "policy_loss", "grad_norm", "ratio", "clip_fraction", "policy_change"}
        expected |= {"entropy", "learning_rate", "kl"}
        if algorithm in WITH_CRITIC:
            terms = ("quantile", "risk", "cvar", "gain", "shift", "shape", "curvature", "consistency")
            report = ("explained_variance", "crps", "pinball", "mae", "bias", "head_disagreement")
            expected |= {f"critic/{name}" for name in ("loss", "underestimation", *terms, *report)}
            expected |= {f"critic/{name}" for name in ("grad_norm", "learning_rate", "heads_learning_rate")}
        if algorithm == "dvpo":
            distribution = ("sd", "crossing_rate", "coverage_50", "coverage_80", "coverage_90", "pit_ks")
            expected |= {f"critic/{name}" for name in distribution}
        evaluation = {f"eval/held_out/{name}" for name in ("vowels", "completion_length", "truncated", "prompts")}
        assert {step: set(found) for step, found in metrics.items()} == {
            0: evaluation, 1: expected, 2: expected, 3: expected, 4: expected | evaluation
        }  # fmt: skip
        assert all(value is not None for step in metrics.values() for value in step.values())
        assert [metrics[step]["samples"] for step in range(1, 5)] == [12, 24, 36, 48]
        # the rate warms up from 0, so the second update is the first one that tells
        assert metrics[1]["ratio"] == 1 and metrics[3]["ratio"] != 1
        assert metrics[1]["kl"] == pytest.approx(0, abs=1e-6) and metrics[4]["kl"] > 1e-5

    def test_files(self, runs, algorithm, inputs):
        _, folder = runs(algorithm)
        found = {path.name for path in folder.iterdir()}
        assert found == {"run.json", "metrics.jsonl", "completions.jsonl", "checkpoints", "last"}
        parts = {"critic", "policy"} if algorithm in WITH_CRITIC else {"policy"}
        assert {path.name for path in (folder / "last").iterdir()} == {*parts, "pair.json"}
        vocabulary = AutoTokenizer.from_pretrained(inputs["model_name_or_path"]).get_vocab()
        for part in parts:
            assert AutoTokenizer.from_pretrained(folder / "last" / part).get_vocab() == vocabulary
        trained, start = weights(folder), AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"])
        start = {f"policy.{name}": value for name, value in start.state_dict().items()}
        assert start.keys() == {name for name in trained if name.startswith("policy.")}
        assert not any(torch.equal(trained[name], value) for name, value in start.items() if value.dim() > 1)

    def test_samples_to_read(self, runs, algorithm):
        _, folder = runs(algorithm)
        rows = table_of(folder)
        assert {tuple(row) for row in rows} == {("step", "dataset", "prompt", "completion", "reward", "reward/vowels")}
        at = [(row["step"], row["dataset"]) for row in rows]
        expected = [(0, "held_out"), *((step, "training") for step in range(1, 5)), (4, "held_out")]
        assert at == [place for place in expected for _ in range(4)]
        assert all(row["prompt"].startswith("What is") and row["completion"] for row in rows)
        assert all(row["reward"] == row["reward/vowels"] for row in rows)


def test_the_pair_is_tied(runs, inputs):
    metrics, folder = runs("dvpo")
    record = record_of(folder)
    assert record["step"] == 4
    assert record["files"].keys() == {"policy", "critic"}
    assert record["settings"]["num_quantiles"] == 8 and record["settings"]["dataset"] == inputs["dataset"]
    last = {name: value for name, value in metrics[4].items() if not name.startswith("eval/")}
    assert last.items() <= record["metrics"].items()
    assert set(record["versions"]) == {"modeling_dvpo", "transformers", "torch", "python"}
    config = saved_critic(folder).config
    expected = {
        "parent": inputs["model_name_or_path"],
        "policy": inputs["model_name_or_path"],
        "algorithm": "dvpo",
        "reward_source": ["made_up_rewards:vowels"],
        "step": 4,
    }
    assert {name: config.critic_training[name] for name in expected} == expected
    low, high = config.critic_training["return_range"]
    assert low < config.return_mean < high
    assert (config.num_value_heads, config.num_quantiles) == (3, 8)


KINDS = {
    "wang": {**CRITIC, "risk_measure": "wang", "critic_lam": 0.9, "critic_target": "sampled", "num_critic_epochs": 2},
    "no_kl": {**CRITIC, "kl": "none", "value_head_type": "monotone", "aggregation": "sequence"},
    "bf16": {**CRITIC, "bf16": "true", "gradient_checkpointing": "true", "whiten_advantages": "false"},
    "paper": {**CRITIC, "critic_loss": '{"form": "paper"}', "critic_lam": 0.95, "clip_high": 0.28},
    "lora": {**CRITIC, "trainable": "lora", "lora_target_modules": ".*q_proj", "critic_trainable": "heads"},
    "scalar": {**CRITIC, "num_quantiles": 1, "bootstrap_truncated": "true", "length_adaptive_lam": 0.05},
    "robust": {"algorithm": "robust_bellman", "kl": "reward", "gamma": 0.9, "bootstrap_truncated": "true"},
    "reinforce": {"algorithm": "reinforce_plus_plus", "entropy_coef": 0.01, "gamma": 0.99, "packing": "true"},
    "dr_grpo": {"algorithm": "dr_grpo", "aggregation": "token", "whiten_advantages": "true", "top_p": 0.9},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs(inputs, tmp_path, kind):
    """A smoke test of options beside each other; what each computes is tested where it is computed."""
    metrics = run(tmp_path / "run", inputs, SHORT, KINDS[kind], eval_dataset=None, max_steps=2)
    assert list(metrics) == [1, 2]
    assert ("kl" in metrics[2]) == (kind != "no_kl")
    assert ("critic/crossing_rate" in metrics[2]) == (KINDS[kind].get("num_quantiles") == 8)
    if kind == "no_kl":
        assert metrics[2]["critic/crossing_rate"] == 0
    trained = weights(tmp_path / "run")
    assert all(value.isfinite().all() for value in trained.values())
    if kind == "lora":
        assert any("policy" in name and "q_proj.lora_B" in name for name in trained)
        assert not any("k_proj.lora_B" in name for name in trained)


def test_an_adapter_goes_on(inputs, tmp_path):
    """Other servers read the adapter too, so it says nothing of heads that a policy has not."""
    given = {"trainable": "lora", "warmup_ratio": 0, "max_steps": 2, "learning_rate": 1e-2}
    run(tmp_path / "first", inputs, SHORT, given, algorithm="grpo")
    first = tmp_path / "first" / "last" / "policy"
    adapter = json.loads((first / "adapter_config.json").read_text())
    assert adapter["modules_to_save"] is None and adapter["task_type"] == "CAUSAL_LM"
    onwards = {**CRITIC, **given, "model_name_or_path": first, "critic_trainable": "lora"}
    metrics = run(tmp_path / "second", inputs, SHORT, onwards)
    # close to the policy as it started, adapter and all
    assert metrics[1]["kl"] < 0.1 * metrics[2]["kl"]
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert any(".lora_" in name for name in before)
    assert all(torch.equal(value, after[name]) == (".lora_" not in name) for name, value in before.items())
    with pytest.raises(ConfigError, match="policy is a LoRA adapter, and trainable is 'all'"):
        run(tmp_path / "third", inputs, SHORT, onwards, trainable="all")


def test_the_reference_is_another_model_where_one_is_named(inputs, tmp_path, runs):
    reference = runs("grpo")[1] / "last" / "policy"
    metrics = run(tmp_path / "run", inputs, SHORT, algorithm="grpo", reference=reference, max_steps=1)
    assert metrics[1]["kl"] > 1e-5  # of the policy as it starts


def test_a_shared_recipe_names_what_is_not_used(inputs, tmp_path, capsys):
    given = {"algorithm": "grpo", "critic_warmup_steps": 3, "critic_lam": 0.9, "lam": 0.9, "max_steps": 2}
    metrics = run(tmp_path / "run", inputs, SHORT, given)
    assert "grpo has no critic, and no use for critic_lam, critic_warmup_steps, lam." in capsys.readouterr().out
    assert "policy_loss" in metrics[1]
