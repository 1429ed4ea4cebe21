"""Whole runs of the script on a tiny policy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from tiny_models import tiny_config
from train_dvpo_with_fixed_rollouts import fixed_roll_out
from transformers import AutoModelForCausalLM, AutoTokenizer

import modeling_dvpo.training.train_dvpo as script
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.algorithms.advantages import ALGORITHMS
from modeling_dvpo.training.data.reward_sets import RewardDataError
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.trainers import dvpo_trainer

TESTS = Path(__file__).parents[1]
# where a run of its own finds this file's reward functions
WITH_CRITIC = [name for name, algorithm in ALGORITHMS.items() if algorithm.advantages == "critic"]
# a step has 12 completions of up to 10 tokens
SHORT = {
    "max_steps": 4,
    "prompts_per_step": 3,
    "num_generations": 4,
    "max_completion_length": 10,
    "num_mini_batches": 2,
    "learning_rate": 1e-3,
    "reward_funcs": "made_up_rewards:vowels",
}
CRITIC = {"algorithm": "dvpo", "num_quantiles": 8, "critic_learning_rate": 1e-3}
CANCELLING = ("policy_loss", "critic/explained_variance", "critic/underestimation", "critic/bias")
# what no two runs share
TIMING = ("seconds", "rollout_seconds", "tokens_per_second")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Flags that name a tiny policy, prompts to train on and held-out ones."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    torch.manual_seed(0)
    config = tiny_config("qwen3", vocab_size=len(tokenizer), tie_word_embeddings=True)
    policy = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # likelier to end, so that completions end at different lengths
        policy.model.embed_tokens.weight[tokenizer.eos_token_id] *= 4
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    rows = [{"prompt": "What is " + "2 + " * (i % 4) + f"{i}?", "number": i / 10} for i in range(16)]
    return {
        "model_name_or_path": str(folder / "policy"),
        "dataset": write_rows(folder / "rows.jsonl", rows[:12]),
        "eval_dataset": write_rows(folder / "held_out.jsonl", rows[12:]),
    }


def flags(*settings, **more):
    """Settings as flags; None leaves one out."""
    merged = {name: value for part in (*settings, more) for name, value in part.items()}
    found = []
    for name, value in ((name, value) for name, value in merged.items() if value is not None):
        found += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return found


def run(output_dir, *settings, **more):
    """One run in this process; its metrics by step."""
    script.main(flags(*settings, output_dir=output_dir, **more))
    return metrics_of(output_dir)


def metrics_of(output_dir):
    metrics = {}
    for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines():
        line = {name: value for name, value in json.loads(line).items() if name not in TIMING}
        metrics.setdefault(line.pop("step"), {}).update(line)
    return metrics


def table_of(output_dir):
    return [json.loads(line) for line in (Path(output_dir) / "completions.jsonl").read_text().splitlines()]


def on_two_ranks(program, *arguments):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "2 process(es)" in done.stdout + done.stderr


def differences(found, expected):
    """Relative differences of all metrics of all steps; relative to 1e-3 where the expected value is smaller, and to
    0.1 for what is small only because numbers of about 1 cancel in it."""
    assert found.keys() == expected.keys() and len(found) == 5
    worst = {}
    for step in expected:
        assert found[step].keys() == expected[step].keys()
        for name, value in expected[step].items():
            if value is None:
                assert found[step][name] is None
            else:
                worst[step, name] = abs(found[step][name] - value) / max(
                    abs(value), 0.1 if name in CANCELLING else 1e-3
                )
    return worst


def assert_same_curve(found, expected):
    """In the worst case and, which shows drift, in the mean."""
    worst = differences(found, expected)
    largest, mean = max(worst.values()), sum(worst.values()) / len(worst)
    print(f"relative difference: largest {largest:.1e} at {max(worst, key=worst.get)}, mean {mean:.1e}")  # pytest -rP
    assert largest < 1e-5 and mean < 1e-6


def weights(directory):
    """Of the policy and the critic of a directory, by `from_pretrained` alone."""
    found = {}
    for part, auto_class in (("policy", AutoModelForCausalLM), ("critic", AutoModelForDistributionalValue)):
        if (Path(directory) / part).exists():
            model = auto_class.from_pretrained(Path(directory) / part)
            state = model.state_dict().items()
            # an adapter has heads of its own; the base model's are fresh, and unused
            found |= {f"{part}.{name}": value for name, value in state if ".original_module." not in name}
    return found


@pytest.fixture(scope="module")
def runs(inputs, tmp_path_factory):
    """A short run of each algorithm, made when it is first asked for: metrics and directory."""
    done = {}

    def run_of(algorithm):
        if algorithm not in done:
            folder = tmp_path_factory.mktemp(algorithm) / "run"
            settings = {**CRITIC} if algorithm == "dvpo" else {"algorithm": algorithm}
            done[algorithm] = run(folder, inputs, SHORT, settings), folder
        return done[algorithm]

    return run_of


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
        assert list(metrics) == [0, 1, 2, 3, 4]
        assert [metrics[step].keys() - {n for n in metrics[step] if "eval" in n} for step in range(1, 5)] == [
            expected
        ] * 4
        assert all(value is not None for step in metrics.values() for value in step.values())
        evaluation = {f"eval/held_out/{name}" for name in ("vowels", "completion_length", "truncated")}
        assert [step for step in metrics if evaluation <= metrics[step].keys()] == [0, 4]
        assert [metrics[step]["samples"] for step in range(1, 5)] == [12, 24, 36, 48]
        # the rate warms up from 0, so the second update is the first one that tells
        assert metrics[1]["ratio"] == 1 and metrics[3]["ratio"] != 1
        assert metrics[1]["kl"] == pytest.approx(0, abs=1e-6) and metrics[4]["kl"] > 1e-5

    def test_files(self, runs, algorithm, inputs):
        _, folder = runs(algorithm)
        found = {path.name for path in folder.iterdir()}
        assert found == {"run.json", "metrics.jsonl", "completions.jsonl", "checkpoints", "last"}
        parts = ["critic", "policy"] if algorithm in WITH_CRITIC else ["policy"]
        assert sorted(path.name for path in (folder / "last").iterdir()) == sorted([*parts, "pair.json"])
        vocabulary = AutoTokenizer.from_pretrained(inputs["model_name_or_path"]).get_vocab()
        for part in parts:
            assert AutoTokenizer.from_pretrained(folder / "last" / part).get_vocab() == vocabulary
        trained, start = weights(folder / "last"), AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"])
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
    import hashlib

    metrics, folder = runs("dvpo")
    record = json.loads((folder / "last" / "pair.json").read_text())
    assert record["step"] == 4
    for part in ("policy", "critic"):
        digest = hashlib.sha256((folder / "last" / part / "model.safetensors").read_bytes()).hexdigest()
        assert record["files"][part] == {"model.safetensors": digest}
    assert record["settings"]["num_quantiles"] == 8 and record["settings"]["dataset"] == inputs["dataset"]
    last = {name: value for name, value in metrics[4].items() if not name.startswith("eval/")}
    assert last.items() <= record["metrics"].items()
    assert set(record["versions"]) == {"modeling_dvpo", "transformers", "torch", "python"}
    config = AutoModelForDistributionalValue.from_pretrained(folder / "last" / "critic").config
    expected = {
        "parent": inputs["model_name_or_path"],
        "policy": inputs["model_name_or_path"],
        "algorithm": "dvpo",
        "gamma": 1.0,
        "returns": "monte_carlo",
        "kl_in_reward": False,
        "reward_source": ["made_up_rewards:vowels"],
        "step": 4,
    }
    assert {name: config.critic_training[name] for name in expected} == expected
    low, high = config.critic_training["return_range"]
    assert low < config.return_mean < high
    assert (config.num_value_heads, config.num_quantiles) == (3, 8)


def watch_updates(monkeypatch):
    """What each update of the policy measured: (step, ratio)."""
    found, update = [], dvpo_trainer.PolicyUpdates._update_policy

    def watched(self, mini_batch, step):
        metrics = update(self, mini_batch, step)
        found.append((step, metrics["ratio"]))
        return metrics

    monkeypatch.setattr(dvpo_trainer.PolicyUpdates, "_update_policy", watched)
    return found


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": "true", "trainable": "lora", "temperature": 0.7}])
def test_the_first_ratio_of_a_step_is_one(inputs, tmp_path, monkeypatch, settings):
    """Old log-probabilities come from a forward pass of their own, since the step has two updates."""
    found = watch_updates(monkeypatch)
    settings = {"warmup_ratio": 0, "num_epochs": 2, "max_steps": 2, "learning_rate": 1e-2, **settings}
    run(tmp_path / "run", inputs, SHORT, CRITIC, settings)
    assert [step for step, _ in found] == [1] * 4 + [2] * 4
    assert found[0][1] == pytest.approx(1, abs=1e-6) and found[4][1] == pytest.approx(1, abs=1e-6)
    others = [ratio for place, (_, ratio) in enumerate(found) if place % 4]
    assert all(abs(ratio - 1) > 1e-5 for ratio in others)


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(dvpo_trainer, "roll_out", fixed_roll_out)


@pytest.fixture(scope="module")
def fixed_runs(inputs, tmp_path_factory):
    """One process, padded, all of a mini-batch at once: the yardstick of equal runs."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dvpo_trainer, "roll_out", fixed_roll_out)
        for name, settings in EQUAL.items():
            folder = tmp_path_factory.mktemp(name) / "run"
            done[name] = run(folder, inputs, SHORT, settings), folder
    return done


EQUAL = {
    "dvpo": {**CRITIC, "critic_lam": 0.9, "bootstrap_truncated": "true", "gamma": 0.99, "warmup_ratio": 0},
    "grpo": {"algorithm": "grpo", "warmup_ratio": 0},
    "dvpo_in_reward": {**CRITIC, "kl": "reward", "length_adaptive_lam": 0.05, "trainable": "lora", "warmup_ratio": 0}
    | {"critic_trainable": "lora", "risk_measure": "cvar", "risk_level": 0.5, "entropy_coef": 0.1, "lora_r": 4}
    | {"num_epochs": 2},
}


class TestSameCurve:
    def test_it_is_one(self, fixed_runs):
        for metrics, _ in fixed_runs.values():
            assert list(metrics) == [0, 1, 2, 3, 4]
            assert 0 < metrics[1]["truncated"] < 1 and metrics[4]["kl"] > 1e-6
        assert fixed_runs["dvpo"][0][1]["grad_norm"] != fixed_runs["grpo"][0][1]["grad_norm"]

    @pytest.mark.parametrize(
        "settings", [{"max_tokens_per_device": 42}, {"max_tokens_per_device": 90, "packing": "true"}]
    )
    @pytest.mark.parametrize("name", EQUAL)
    def test_accumulation_and_packing(self, fixed_runs, fixed, inputs, tmp_path, name, settings):
        found = run(tmp_path / "run", inputs, SHORT, EQUAL[name], settings)
        assert_same_curve(found, fixed_runs[name][0])

    @pytest.mark.slow
    def test_two_ranks(self, fixed_runs, inputs, tmp_path):
        """Several micro-batches a rank, whose gradients meet once an update; and what is saved is the whole."""
        few = {"max_tokens_per_device": 42}
        commands = [flags(inputs, SHORT, EQUAL[name], few, output_dir=tmp_path / name) for name in EQUAL]
        (tmp_path / "commands.json").write_text(json.dumps(commands))
        on_two_ranks(TESTS / "train_dvpo_with_fixed_rollouts.py", str(tmp_path / "commands.json"))
        for name in EQUAL:
            assert_same_curve(metrics_of(tmp_path / name), fixed_runs[name][0])
            found, expected = weights(tmp_path / name / "last"), weights(fixed_runs[name][1] / "last")
            assert found.keys() == expected.keys()
            for weight, value in expected.items():
                torch.testing.assert_close(
                    found[weight], value, rtol=1e-3, atol=1e-5, msg=lambda m, w=weight: f"{w}: {m}"
                )


class Stop(Exception):
    """Stands in for a lost machine."""


def stop_at(monkeypatch, step):
    """Stopped in that step, once its completions are there."""
    collect = dvpo_trainer.DVPOTrainer.collect

    def stopping(self, this_step):
        samples = collect(self, this_step)
        if this_step == step:
            raise Stop
        return samples

    monkeypatch.setattr(dvpo_trainer.DVPOTrainer, "collect", stopping)


class TestResume:
    @pytest.mark.parametrize(
        "settings",
        [
            {**CRITIC, "critic_lam": 0.9, "critic_target": "sampled", "eval_steps": 1, "lr_scheduler_type": "cosine"},
            {"algorithm": "grpo", "trainable": "lora", "num_epochs": 2},
        ],
        ids=["dvpo", "grpo_lora"],
    )
    def test_to_the_same_curve_bit_for_bit(self, inputs, tmp_path, monkeypatch, settings):
        """Stopped after step 3, one after the last checkpoint; what was written of step 3 is written again."""
        expected = run(tmp_path / "whole", inputs, SHORT, settings)
        with monkeypatch.context() as patch:
            stop_at(patch, 4)
            with pytest.raises(Stop):
                run(tmp_path / "run", inputs, SHORT, settings, save_steps=2)
        assert list(metrics_of(tmp_path / "run")) == [0, 1, 2, 3]
        found = run(tmp_path / "run", inputs, SHORT, settings, save_steps=2, resume="true")
        assert found == expected
        assert table_of(tmp_path / "run") == table_of(tmp_path / "whole")
        trained, whole = weights(tmp_path / "run" / "last"), weights(tmp_path / "whole" / "last")
        assert trained.keys() == whole.keys() and all(torch.equal(trained[name], whole[name]) for name in whole)
        if "critic_lam" in settings:
            configs = [
                AutoModelForDistributionalValue.from_pretrained(tmp_path / name / "last" / "critic").config
                for name in ("run", "whole")
            ]
            assert configs[0].return_mean == configs[1].return_mean != 0
            assert configs[0].return_scale == configs[1].return_scale != 1
            assert configs[0].critic_training == configs[1].critic_training
            assert configs[0].critic_loss == configs[1].critic_loss

    def test_a_finished_run_is_left_as_it_is(self, runs, inputs):
        metrics, folder = runs("dvpo")
        before, record = weights(folder / "last"), (folder / "last" / "pair.json").read_text()
        assert run(folder, inputs, SHORT, CRITIC, resume="true") == metrics
        after = weights(folder / "last")
        assert all(torch.equal(after[name], value) for name, value in before.items())
        after = json.loads((folder / "last" / "pair.json").read_text())
        assert after["files"] == json.loads(record)["files"] and after["metrics"] == json.loads(record)["metrics"]

    def test_other_settings_are_refused(self, runs, inputs):
        _, folder = runs("grpo")
        with pytest.raises(ConfigError, match=r"kl_coef \(was 0.01, is 0.1\).*Change them back"):
            run(folder, inputs, SHORT, algorithm="grpo", resume="true", kl_coef=0.1)

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_after_being_killed(self, runs, inputs, tmp_path, ranks):
        """SIGKILL as soon as the first checkpoint is whole; nothing gets to tidy up."""
        folder = tmp_path / "run"
        arguments = flags(inputs, SHORT, CRITIC, output_dir=folder, save_steps=1)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch = [*(launch if ranks > 1 else [sys.executable]), script.__file__]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*launch, *arguments], start_new_session=True, **options)
        try:
            while not (folder / "checkpoints" / "step-1").exists():
                assert process.poll() is None, "ended before its first checkpoint"
        finally:
            os.killpg(process.pid, 9)
            process.wait()
        assert not (folder / "last").exists()
        done = subprocess.run([*launch, *arguments, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        found, expected = metrics_of(folder), runs("dvpo")[0]
        if ranks == 1:
            assert found == expected
        else:  # what ranks sample depends on their number
            assert list(found) == list(expected)


@pytest.mark.slow
def test_two_ranks_that_sample(inputs, tmp_path):
    """Different numbers of prompts and lengths a rank, in conversations; and what they save can be read."""
    settings = {"trainable": "lora", "critic_trainable": "lora", "kl": "reward", "bf16": "true"}
    settings |= {"chat": "true", "environment": "made_up_rewards:ask_twice", "max_completion_length": 40}
    settings |= {"generation_batch_size": 2, "max_tokens_per_device": 150, "prompts_per_step": 5, "warmup_ratio": 0}
    settings |= {"learning_rate": 1e-2, "num_mini_batches": 4}
    on_two_ranks(script.__file__, *flags(inputs, SHORT, CRITIC, settings, output_dir=tmp_path / "run"))
    metrics = metrics_of(tmp_path / "run")
    assert list(metrics) == [0, 1, 2, 3, 4]
    assert metrics[4]["turns"] > 1 and metrics[4]["kl"] > 0
    trained = weights(tmp_path / "run" / "last")
    for part in ("policy.", "critic."):
        updates = [value for name, value in trained.items() if name.startswith(part) and "lora_B" in name]
        assert updates and all(value.abs().max() > 0 for value in updates)
    assert weights(tmp_path / "run" / "last").keys() == trained.keys()


class TestCritic:
    def test_warmup_updates_the_critic_alone(self, inputs, tmp_path):
        metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, critic_warmup_steps=2, warmup_ratio=0, max_steps=3)
        assert [("policy_loss" in metrics[step], "critic/loss" in metrics[step]) for step in (1, 2, 3)] == [
            (False, True), (False, True), (True, True)
        ]  # fmt: skip
        run(tmp_path / "critic", inputs, SHORT, CRITIC, critic_warmup_steps=2, max_steps=3, learning_rate=0)
        start = AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"]).state_dict()
        trained, kept = weights(tmp_path / "run" / "last"), weights(tmp_path / "critic" / "last")
        for name, value in start.items():
            assert torch.equal(kept[f"policy.{name}"], value)
        for name in ("policy.model.layers.0.mlp.up_proj.weight", "critic.model.layers.0.mlp.up_proj.weight"):
            assert not torch.equal(trained[name], start[name.removeprefix("policy.").removeprefix("critic.")])

    def test_frozen(self, runs, inputs, tmp_path):
        """Only asked, and saved as it was, record and all."""
        _, folder = runs("dvpo")
        given = {"critic": folder / "last" / "critic", "critic_trainable": "none", "save_steps": 2}
        metrics = run(tmp_path / "run", inputs, SHORT, given)
        assert "critic/loss" not in metrics[1] and "critic/explained_variance" in metrics[1]
        expected, found = weights(folder / "last"), weights(tmp_path / "run" / "last")
        assert all(torch.equal(found[n], value) for n, value in expected.items() if n.startswith("critic."))
        assert any(not torch.equal(found[n], value) for n, value in expected.items() if n.startswith("policy."))
        configs = [
            json.loads((path / "last" / "critic" / "config.json").read_text()) for path in (folder, tmp_path / "run")
        ]
        assert configs[0] == configs[1] and configs[0]["critic_training"]["step"] == 4

    def test_goes_on(self, runs, inputs, tmp_path):
        """A loaded critic predicts what it did, in the units of this run's returns."""
        _, folder = runs("dvpo")
        given = {"critic": folder / "last" / "critic", "max_steps": 1, "critic_learning_rate": 0, "reward_weights": 2}
        run(tmp_path / "run", inputs, SHORT, given)
        tokens = torch.tensor([[5, 6, 7, 8, 9]])
        critics = [
            AutoModelForDistributionalValue.from_pretrained(path / "last" / "critic")
            for path in (folder, tmp_path / "run")
        ]
        assert critics[0].config.return_mean != critics[1].config.return_mean
        assert critics[1].config.critic_training["parent"] == str(folder / "last" / "critic")
        with torch.no_grad():
            expected, found = (critic(tokens).quantiles for critic in critics)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_other_returns_are_named(self, runs, inputs, tmp_path):
        _, folder = runs("dvpo")
        given = {"critic": folder / "last" / "critic", "max_steps": 1}
        other = {"gamma": 0.9, "kl": "reward", "reward_funcs": ["made_up_rewards:vowels", "made_up_rewards:short"]}
        with pytest.warns(UserWarning) as warned:
            run(tmp_path / "run", inputs, SHORT, given, other, reward_weights=[100, 1])
        text = "\n".join(str(warning.message) for warning in warned)
        assert "gamma was 1.0 and is 0.9; kl_in_reward was False and is True; reward_source was " in text
        assert "return_range differs" in text

    def test_the_same_returns_are_not_warned_about(self, runs, inputs, tmp_path, recwarn):
        _, folder = runs("dvpo")
        given = {"critic": folder / "last" / "critic", "max_steps": 1, "critic_trainable": "heads"}
        run(tmp_path / "run", inputs, SHORT, given)
        assert not [w for w in recwarn if "was trained on" in str(w.message)]

    def test_an_offline_critic_goes_on(self, inputs, tmp_path):
        """A critic of train_critic.py, which learnt from a column of rewards, adapted and not."""
        import modeling_dvpo.training.train_critic as offline

        rows = [{"prompt": f"What is {i}?", "completion": "The answer", "reward": i / 8} for i in range(8)]
        offline_inputs = {
            "model_name_or_path": inputs["model_name_or_path"],
            "dataset": write_rows(tmp_path / "rewards.jsonl", rows),
            "max_steps": 2, "rows_per_step": 4, "num_quantiles": 8, "trainable": "lora",
        }  # fmt: skip
        offline.main(flags(offline_inputs, output_dir=tmp_path / "offline"))
        given = {"critic": tmp_path / "offline" / "last", "max_steps": 2}
        with pytest.raises(ConfigError, match="is a LoRA adapter, and critic_trainable is 'all': go on with lora"):
            run(tmp_path / "run", inputs, SHORT, given)
        with pytest.warns(
            UserWarning, match="reward_source was \"column 'reward'\" and is \\['made_up_rewards:vowels'"
        ):
            metrics = run(tmp_path / "run", inputs, SHORT, given, critic_trainable="lora")
        assert metrics[2]["critic/loss"] > 0
        critic = AutoModelForDistributionalValue.from_pretrained(tmp_path / "run" / "last" / "critic")
        assert critic.config.critic_training["parent"] == str(tmp_path / "offline" / "last")


def recorded_samples(monkeypatch):
    """The samples of every step, in order."""
    found, collect = [], dvpo_trainer.DVPOTrainer.collect

    def recording(self, step):
        found.append(collect(self, step))
        return found[-1]

    monkeypatch.setattr(dvpo_trainer.DVPOTrainer, "collect", recording)
    return found


class TestRewards:
    def test_noise_is_in_what_is_trained_on_and_nowhere_else(self, inputs, tmp_path, monkeypatch, fixed):
        """A flip of every reward within 0 and 1, the bounds of a function that is one or the other."""
        steps = recorded_samples(monkeypatch)
        settings = {"algorithm": "grpo", "reward_funcs": "made_up_rewards:long", "reward_noise": "flip=1.0"}
        noisy = run(tmp_path / "noisy", inputs, SHORT, settings)
        clean = run(tmp_path / "clean", inputs, SHORT, settings, reward_noise=None)
        for samples, same in zip(steps[:4], steps[4:], strict=True):
            assert [s.reward for s in samples] == [1 - s.reward for s in same]
            assert [s.rewards for s in samples] == [s.rewards for s in same] == [{"long": s.reward} for s in same]
            torch.testing.assert_close(
                *(torch.tensor([s.advantage * k for s in ss]) for ss, k in ((samples, 1), (same, -1)))
            )
        for step in range(1, 5):
            assert noisy[step]["reward"] == pytest.approx(1 - clean[step]["reward"])
            assert noisy[step]["reward/long"] == clean[step]["reward/long"] == pytest.approx(clean[step]["reward"])
        for step in (0, 4):
            assert noisy[step]["eval/held_out/long"] == clean[step]["eval/held_out/long"] > 0

    def test_several_functions_with_weights(self, inputs, tmp_path, monkeypatch, fixed):
        """One of them asynchronous and silent about half of the completions, one about all."""
        steps = recorded_samples(monkeypatch)
        names = [f"made_up_rewards:{name}" for name in ("vowels", "short", "never")]
        given = {"reward_funcs": names, "reward_weights": [2, 3, 5], "algorithm": "reinforce_plus_plus"}
        metrics = run(tmp_path / "run", inputs, SHORT, given)
        for step, samples in enumerate(steps, 1):
            for i, sample in enumerate(samples):
                assert (sample.rewards["short"] is None) == (i % 2 == 0) and sample.rewards["never"] is None
                assert sample.reward == pytest.approx(
                    2 * sample.rewards["vowels"] + 3 * (sample.rewards["short"] or 0)
                )
            said = [s.rewards["short"] for s in samples if s.rewards["short"] is not None]
            assert metrics[step]["reward/short"] == pytest.approx(sum(said) / 6)
            assert metrics[step]["reward/never"] is None
        # a record that other programs can read has no NaN
        assert "NaN" not in (tmp_path / "run" / "last" / "pair.json").read_text()

    def test_what_a_function_must_answer(self, inputs, tmp_path):
        for name, message in [("wrong", "'wrong' returned nan for row 0"), ("never", "scored by no reward function")]:
            with pytest.raises(RewardDataError, match=message):
                run(tmp_path / "run", inputs, SHORT, CRITIC, reward_funcs=f"made_up_rewards:{name}")
            assert not (tmp_path / "run").exists()

    def test_a_conversation(self, inputs, tmp_path, monkeypatch):
        """Three turns of the policy's, or fewer where there is no room; what the environment said is no action."""
        steps = recorded_samples(monkeypatch)
        settings = {"chat": "true", "system_prompt": "Add.", "environment": "made_up_rewards:ask_twice"}
        settings |= {
            "max_completion_length": 90,
            "temperature": 2.0,
            "stop_strings": ["a", "e"],
            "log_completions": 12,
        }
        metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, settings, max_steps=2)
        assert {sample.num_turns for samples in steps for sample in samples} <= {1, 2, 3}
        assert 1 < metrics[1]["turns"] <= 3
        row = next(row for row in table_of(tmp_path / "run") if row["completion"].count("user: hello") == 2)
        assert row["prompt"].startswith("system: Add.\nuser: What is")
        assert row["completion"].startswith("assistant: ")
        assert all(not s.completion_mask[0] and s.completion_mask[-1] for samples in steps for s in samples)


class TestEvaluation:
    def test_greedy_and_repeated(self, inputs, tmp_path, monkeypatch):
        asked = []
        roll_out = dvpo_trainer.roll_out

        def recording(policy, tokenizer, prompts, args, **options):
            rollouts = roll_out(policy, tokenizer, prompts, args, **options)
            asked.append((len(prompts), args.temperature, options["greedy"], [r.completion for r in rollouts]))
            return rollouts

        monkeypatch.setattr(dvpo_trainer, "roll_out", recording)
        settings = {"learning_rate": 0, "max_steps": 2, "eval_generations": 3, "algorithm": "grpo"}
        metrics = run(tmp_path / "greedy", inputs, SHORT, settings, eval_temperature=0)
        assert [entry[:3] for entry in asked] == [(12, 1.0, True), (12, 1.0, False), (12, 1.0, False), (12, 1.0, True)]
        first = asked[0][3]
        assert first[0::3] == first[1::3] == first[2::3] and len(set(asked[1][3])) > 1
        assert metrics[0] == {name: metrics[2][name] for name in metrics[0]}
        asked.clear()
        run(tmp_path / "sampled", inputs, SHORT, settings, eval_temperature=0.5, temperature=2.0)
        assert [entry[1:3] for entry in asked] == [(0.5, False), (2.0, False), (2.0, False), (0.5, False)]
        assert asked[0][3] == asked[3][3]  # evaluations share their random numbers
        assert asked[0][3][0::3] != asked[0][3][1::3]

    def test_leaves_training_alone(self, inputs, tmp_path, runs):
        """Neither whether nor how often is looked changes what is learnt."""
        metrics, folder = runs("dvpo")
        found = run(tmp_path / "run", inputs, SHORT, CRITIC, eval_steps=1, log_completions=0, eval_generations=2)
        for step in range(1, 5):
            assert {n: v for n, v in found[step].items() if "eval" not in n} == {
                n: v for n, v in metrics[step].items() if "eval" not in n
            }
        assert not (tmp_path / "run" / "completions.jsonl").exists()


KINDS = {
    "wang": {**CRITIC, "risk_measure": "wang", "critic_lam": 0.9, "critic_target": "sampled", "num_critic_epochs": 2},
    "no_kl": {**CRITIC, "kl": "none", "value_head_type": "monotone", "aggregation": "sequence"},
    "bf16": {**CRITIC, "bf16": "true", "gradient_checkpointing": "true", "whiten_advantages": "false"},
    "paper": {**CRITIC, "critic_loss": '{"form": "paper"}', "critic_lam": 0.95, "clip_high": 0.28},
    "lora": {
        **CRITIC,
        "trainable": "lora",
        "lora_r": 4,
        "critic_trainable": "heads",
        "lora_target_modules": ".*q_proj",
    },
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
    trained = weights(tmp_path / "run" / "last")
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
    before, after = weights(tmp_path / "first" / "last"), weights(tmp_path / "second" / "last")
    adapted = [name for name in before if ".lora_" in name]
    assert adapted and all(not torch.equal(before[name], after[name]) for name in adapted)
    whole = [name for name in before if ".lora_" not in name]
    assert all(torch.equal(before[name], after[name]) for name in whole)
    with pytest.raises(ConfigError, match="policy is a LoRA adapter, and trainable is 'all'"):
        run(tmp_path / "third", inputs, SHORT, onwards, trainable="all")


def test_the_reference_is_another_model_where_one_is_named(inputs, tmp_path, runs):
    _, folder = runs("grpo")
    metrics = run(tmp_path / "run", inputs, SHORT, algorithm="grpo", reference=folder / "last" / "policy", max_steps=1)
    assert metrics[1]["kl"] > 1e-5  # of the policy as it starts


def test_trackers_get_the_metrics(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, report_to="tensorboard", logging_steps=2)
    assert list(metrics) == [0, 2, 4]
    events = EventAccumulator(str(tmp_path / "run" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("reward/vowels")] == [2, 4]
    assert [event.step for event in events.Scalars("eval/held_out/vowels")] == [0, 4]
    assert events.Scalars("critic/sd")[-1].value == pytest.approx(metrics[4]["critic/sd"], rel=1e-6)


def test_a_shared_recipe_names_what_is_not_used(inputs, tmp_path, capsys):
    given = {"algorithm": "grpo", "critic_warmup_steps": 3, "critic_lam": 0.9, "lam": 0.9, "max_steps": 2}
    metrics = run(tmp_path / "run", inputs, SHORT, given)
    assert "grpo has no critic, and no use for critic_lam, critic_warmup_steps, lam." in capsys.readouterr().out
    assert "policy_loss" in metrics[1]


BAD_SETTINGS = {
    "algorithm": ({"algorithm": "dvop"}, ConfigError, "algorithm is 'dvop'; there are .*; did you mean 'dvpo'"),
    "one of a group": ({"algorithm": "grpo", "num_generations": 1}, ConfigError, "num_generations is 1, and grpo"),
    "no reward": ({"reward_funcs": None}, ConfigError, "required: --reward_funcs"),
    "unknown reward": ({"reward_funcs": "made_up_rewards:no"}, RewardDataError, "cannot be imported"),
    "weights": ({"reward_weights": [1, 2]}, ConfigError, "2 reward_weights for 1 reward_funcs"),
    "noise": ({"reward_noise": "flop=0.2"}, ConfigError, "there is no 'flop'; did you mean 'flip'"),
    "column": ({"prompt_column": "question"}, RewardDataError, "No column 'question'"),
    "kl": ({"algorithm": "grpo", "kl": "reward"}, ConfigError, "grpo has one advantage a completion: use kl=loss"),
    "gamma": ({"algorithm": "grpo", "gamma": 0.9}, ConfigError, "gamma is 0.9, and grpo has one advantage"),
    "risk": ({"algorithm": "grpo", "risk_measure": "cvar"}, ConfigError, "risk_measure needs a critic, and grpo"),
    "scalar risk": ({"algorithm": "ppo", "risk_measure": "cvar"}, ConfigError, "risk_measure needs a distribution"),
    "risk level": ({"risk_level": 0.5}, ConfigError, "risk_level is set, and the expectation has no parameter"),
    "bootstrap": ({"algorithm": "dr_grpo", "bootstrap_truncated": "true"}, ConfigError, "needs a critic, and dr_grpo"),
    "quantiles": ({"algorithm": "grpo", "num_quantiles": 8}, ConfigError, "no critic, and num_quantiles asks for one"),
    "critic": ({"algorithm": "grpo", "critic": "a/b"}, ConfigError, "grpo has no critic, and critic asks for one"),
    "many quantiles": ({"algorithm": "ppo", "num_quantiles": 8}, ConfigError, "a scalar critic, .* num_quantiles=8"),
    "one head": ({"algorithm": "robust_bellman", "num_value_heads": 1}, ConfigError, "the worst of several heads"),
    "revision": ({"critic_revision": "main"}, ConfigError, "critic_revision is set, and there is no critic"),
    "frozen": ({"critic_trainable": "none"}, ConfigError, "must be a trained one: give critic"),
    "frozen warm-up": (
        {"critic_trainable": "none", "critic": "a/b", "critic_warmup_steps": 1}, ConfigError, "nothing would learn"
    ),
    "warm-up": ({"critic_warmup_steps": 4}, ConfigError, "critic_warmup_steps is 4 and max_steps is 4: the policy"),
    "reference": ({"reference": "a/b", "kl": "none"}, ConfigError, "reference is set, and there is no KL penalty"),
    "mini-batches": ({"num_mini_batches": 5}, ConfigError, "does not divide the 12 completions of a step"),
    "prompts": ({"prompts_per_step": 13, "num_mini_batches": 1}, ConfigError, "takes 13 prompts and the set has 12"),
    "no evaluation": ({"eval_steps": 2, "eval_dataset": None}, ConfigError, "eval_steps is set, but nothing"),
    "temperature": ({"eval_temperature": -1}, ConfigError, "eval_temperature is -1.0"),
    "context": ({"max_completion_length": 120}, RewardDataError, "5 of 12 prompts .* longer than the 8 tokens"),
    "no context": ({"max_completion_length": 128}, ConfigError, "the model's context has 128 tokens"),
    "memory": ({"max_tokens_per_device": 21}, ConfigError, "the longest prompt has 12 tokens, .* raise it to 22"),
    "environment": ({"environment": "made_up_rewards:no"}, ValueError, "cannot be imported"),
    "loss": ({"critic_loss": '{"risks": 1}'}, ConfigError, "critic_loss is .*risks"),
}  # fmt: skip


class TestBadInput:
    @pytest.mark.parametrize("kind", BAD_SETTINGS)
    def test_is_named_before_anything_is_sampled(self, inputs, tmp_path, monkeypatch, kind):
        def roll_out(*_, **__):
            raise AssertionError("sampled")

        monkeypatch.setattr(dvpo_trainer, "roll_out", roll_out)
        settings, error, message = BAD_SETTINGS[kind]
        with pytest.raises(error, match=message):
            run(tmp_path / "run", inputs, SHORT, settings)
        assert not (tmp_path / "run").exists()

    def test_another_tokenizer(self, runs, inputs, tmp_path):
        _, folder = runs("dvpo")
        critic = tmp_path / "critic"
        AutoModelForDistributionalValue.from_pretrained(folder / "last" / "critic").save_pretrained(critic)
        tokenizer = AutoTokenizer.from_pretrained(inputs["model_name_or_path"])
        tokenizer.add_tokens(["<more>"])
        tokenizer.save_pretrained(critic)
        with pytest.raises(
            ConfigError, match="critic .* has another tokenizer than .*, so it would read other tokens"
        ):
            run(tmp_path / "run", inputs, SHORT, critic=critic)
        with pytest.raises(ConfigError, match="critic .* is no critic: train one with train_critic.py"):
            run(tmp_path / "run", inputs, SHORT, critic=inputs["model_name_or_path"])

    def test_two_sets_of_one_name(self, inputs, tmp_path):
        (tmp_path / "other").mkdir()
        other = write_rows(tmp_path / "other" / "held_out.jsonl", [{"prompt": "What", "number": 1}])
        with pytest.raises(ConfigError, match="eval_dataset has two sets named 'held_out'"):
            run(tmp_path / "run", inputs, SHORT, eval_dataset=[inputs["eval_dataset"], other])

    def test_a_directory_in_use(self, runs, inputs):
        _, folder = runs("grpo")
        before = (folder / "metrics.jsonl").read_text()
        with pytest.raises(ConfigError, match="holds another run"):
            run(folder, inputs, SHORT, algorithm="grpo")
        assert (folder / "metrics.jsonl").read_text() == before

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_the_script_says_what_is_wrong_and_fails(self, inputs, tmp_path, ranks):
        """One sentence, no traceback; on several ranks once, and none of them waits for the others."""
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch = [*(launch if ranks > 1 else [sys.executable]), script.__file__]
        arguments = flags(inputs, SHORT, output_dir=tmp_path / "run", max_tokens_per_device=21)
        done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=200)
        assert done.returncode == 1
        assert done.stderr.count("ConfigError: max_tokens_per_device is 21") == 1
        assert ranks > 1 or "Traceback" not in done.stderr
