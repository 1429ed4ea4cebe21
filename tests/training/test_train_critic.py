"""Whole runs of the script on a tiny policy and a reward set whose rewards can be told from the prompt."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import modeling_dvpo
import modeling_dvpo.training.train_critic as script
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training.data.reward_sets import RewardDataError
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.trainers import critic_trainer

REPOSITORY = Path(script.__file__).parents[1]
SCRIPT = str(Path(script.__file__))
# a step has about 260 tokens
SHORT = {"max_steps": 6, "rows_per_step": 16, "learning_rate": 1e-3, "logging_steps": 1, "eval_steps": 3}
LEARNING = {"max_steps": 30, "rows_per_step": 32, "learning_rate": 3e-3, "logging_steps": 10}
# the one metric that no two runs share
TIMING = "action_tokens_per_second"


def word_tokenizer():
    """One token a word or digit; as quick to learn from as can be."""
    words = ["<pad>", "<s>", "<end>", "What", "is", "+", "?", "The", "answer", ".", *"0123456789"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end>")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reward_rows(number, seed=0):
    """The first summand, 0 to 4, is the reward times 4, nine times in ten; prompts and completions vary in length."""
    draw = random.Random(seed)
    for _ in range(number):
        first, second = draw.randrange(5), draw.randrange(10 ** draw.randint(1, 4))
        reward = first / 4 if draw.random() < 0.9 else draw.random()
        answer = draw.randrange(10 ** draw.randint(1, 6))
        yield {"prompt": f"What is {first} + {second}?", "completion": f"The answer is {answer}.", "reward": reward}


@pytest.fixture(scope="module")
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


def flags(*settings, **more):
    """Settings as flags; None leaves one out."""
    merged = {name: value for part in (*settings, more) for name, value in part.items()}
    return [f"--{name}={value}" for name, value in merged.items() if value is not None]


def run(output_dir, *settings, **more):
    """One run in this process; its metrics by step."""
    script.main(flags(*settings, output_dir=output_dir, **more))
    return metrics_of(output_dir)


def metrics_of(output_dir):
    metrics = {}
    for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        line.pop(TIMING, None)
        metrics.setdefault(line.pop("step"), {}).update(line)
    return metrics


def run_on_two_ranks(output_dir, *settings, **more):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT]
    done = subprocess.run([*launch, *flags(*settings, output_dir=output_dir, **more)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "2 process(es)" in done.stdout + done.stderr
    return metrics_of(output_dir)


def assert_same_curve(found, expected):
    """All metrics of all steps agree, in the worst case and, which shows drift, in the mean.

    Relative to the expected value, or to 1e-3 where that is smaller.
    """
    assert found.keys() == expected.keys() and len(found) == 7
    differences = []
    for step in expected:
        assert found[step].keys() == expected[step].keys()
        for name, value in expected[step].items():
            differences.append(abs(found[step][name] - value) / max(abs(value), 1e-3))
    largest, mean = max(differences), sum(differences) / len(differences)
    print(f"relative difference: largest {largest:.1e}, mean {mean:.1e}")  # for pytest -rP
    assert largest < 1e-5 and mean < 1e-6


def values(directory):
    """What the critic of a directory predicts for one text, by `from_pretrained` alone."""
    critic = AutoModelForDistributionalValue.from_pretrained(directory)
    tokens = AutoTokenizer.from_pretrained(directory)("What is 3 + 14? The answer is 15.", return_tensors="pt")
    with torch.no_grad():
        return critic(input_ids=tokens["input_ids"]).quantiles


@pytest.fixture(scope="module")
def one_process(inputs, tmp_path_factory):
    """A short run and its directory, the yardstick of equal runs."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return run(folder, inputs, SHORT), folder


class TestSameCurve:
    def test_the_curve_is_whole(self, one_process):
        metrics, _ = one_process
        assert list(metrics) == [0, 1, 2, 3, 4, 5, 6]
        assert all({"loss", "quantile", "cvar", "grad_norm", "epoch"} <= metrics[step].keys() for step in range(1, 7))
        assert [step for step in metrics if "eval_crps" in metrics[step]] == [0, 3, 6]
        assert metrics[1]["loss"] != metrics[6]["loss"]

    def test_accumulation(self, one_process, inputs, tmp_path):
        found = run(tmp_path / "run", inputs, SHORT, max_tokens_per_device=100)
        assert_same_curve(found, one_process[0])

    def test_two_ranks(self, one_process, inputs, tmp_path):
        """Four micro-batches a rank and step or so, whose gradients meet once."""
        found = run_on_two_ranks(tmp_path / "run", inputs, SHORT, max_tokens_per_device=40)
        assert_same_curve(found, one_process[0])
        torch.testing.assert_close(values(tmp_path / "run" / "last"), values(one_process[1] / "last"))

    def test_packed(self, one_process, inputs, tmp_path):
        found = run(tmp_path / "run", inputs, SHORT, packing="true", max_tokens_per_device=100)
        assert_same_curve(found, one_process[0])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [
            {"trainable": "lora", "lora_r": 4, "max_tokens_per_device": 60},
            {"trainable": "heads", "max_tokens_per_device": 60},
            {"returns": "lambda", "gradient_checkpointing": "true", "max_tokens_per_device": 100},
            {"packing": "true", "max_tokens_per_device": 150, "value_head_type": "monotone"},
        ],
        ids=["lora", "heads", "lambda", "packed"],
    )
    def test_two_ranks_of_other_kinds(self, inputs, tmp_path, settings):
        expected = run(tmp_path / "one", inputs, SHORT, settings)
        found = run_on_two_ranks(tmp_path / "two", inputs, SHORT, settings)
        assert_same_curve(found, expected)
        torch.testing.assert_close(values(tmp_path / "two" / "last"), values(tmp_path / "one" / "last"))

    @pytest.mark.slow
    def test_two_ranks_in_bf16(self, inputs, tmp_path):
        """One process computes in autocast, two in FSDP2's mixed precision: near each other, no more."""
        expected = run(tmp_path / "one", inputs, SHORT, bf16="true")
        found = run_on_two_ranks(tmp_path / "two", inputs, SHORT, bf16="true")
        for step in range(1, 7):
            assert found[step]["quantile"] == pytest.approx(expected[step]["quantile"], rel=0.05)


class Stop(Exception):
    """Stands in for a lost machine."""


def stop_at(monkeypatch, step):
    optimizer_step = critic_trainer.CriticTrainer.optimizer_step

    def stopping(self, this_step, micro_batches):
        if this_step == step:
            raise Stop
        return optimizer_step(self, this_step, micro_batches)

    monkeypatch.setattr(critic_trainer.CriticTrainer, "optimizer_step", stopping)


class TestResume:
    @pytest.mark.parametrize(
        "settings", [{}, {"returns": "lambda", "target": "sampled"}], ids=["monte_carlo", "sampled"]
    )
    def test_to_the_same_curve_bit_for_bit(self, one_process, inputs, tmp_path, monkeypatch, settings):
        """Stopped after step 4, one after the last checkpoint and in mid-epoch of an 8-step epoch."""
        folder = tmp_path / "run"
        expected, whole = one_process if not settings else (run(tmp_path / "whole", inputs, SHORT, settings), None)
        with monkeypatch.context() as patch:
            stop_at(patch, 5)
            with pytest.raises(Stop):
                run(folder, inputs, SHORT, settings, save_steps=3)
        assert list(metrics_of(folder)) == [0, 1, 2, 3, 4]
        found = run(folder, inputs, SHORT, settings, save_steps=3, resume="true")
        assert found == expected
        assert torch.equal(values(folder / "last"), values((whole or tmp_path / "whole") / "last"))

    def test_a_finished_run_is_left_as_it_is(self, one_process, inputs):
        metrics, folder = one_process
        before = values(folder / "last")
        assert run(folder, inputs, SHORT, resume="true") == metrics
        assert torch.equal(values(folder / "last"), before)
        config = json.loads((folder / "last" / "config.json").read_text())
        assert config["critic_training"]["evaluation"]["crps"] == metrics[6]["eval_crps"]

    def test_other_settings_are_refused(self, one_process, inputs):
        with pytest.raises(ConfigError, match=r"seed \(was 0, is 1\). Change them back"):
            run(one_process[1], inputs, SHORT, resume="true", seed=1)

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_after_being_killed(self, one_process, inputs, tmp_path, ranks):
        """SIGKILL as soon as the first checkpoint is whole; nothing gets to tidy up."""
        folder = tmp_path / "run"
        arguments = flags(inputs, SHORT, output_dir=folder, save_steps=1)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch = [*(launch if ranks > 1 else [sys.executable]), SCRIPT]
        process = subprocess.Popen(
            [*launch, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while not (folder / "checkpoints" / "step-1").exists():
                assert process.poll() is None, "ended before its first checkpoint"
        finally:
            os.killpg(process.pid, 9)
            process.wait()
        assert not (folder / "last").exists()
        done = subprocess.run([*launch, *arguments, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        assert_same_curve(metrics_of(folder), one_process[0])

    @pytest.mark.slow
    def test_on_another_number_of_ranks(self, one_process, inputs, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            stop_at(patch, 5)
            with pytest.raises(Stop):
                run(folder, inputs, SHORT, save_steps=2)
        found = run_on_two_ranks(folder, inputs, SHORT, save_steps=2, resume="true")
        assert_same_curve(found, one_process[0])


@pytest.fixture(scope="module")
def learned(inputs, tmp_path_factory):
    """A run that is long enough to learn, with its best in the middle."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    return run(folder, inputs, LEARNING, eval_steps=10, lr_scheduler_type="constant_with_warmup"), folder


class TestLearning:
    def test_from_nothing_to_most_of_the_variance(self, learned):
        metrics, _ = learned
        assert metrics[0]["eval_explained_variance"] == pytest.approx(0, abs=0.05)
        assert metrics[30]["eval_explained_variance"] > 0.5
        assert metrics[30]["eval_crps"] < 0.7 * metrics[0]["eval_crps"]

    def test_best_is_the_best(self, learned):
        metrics, folder = learned
        best = max((10, 20, 30), key=lambda step: metrics[step]["eval_explained_variance"])
        training = json.loads((folder / "best" / "config.json").read_text())["critic_training"]
        assert training["step"] == best
        assert training["evaluation"]["explained_variance"] == metrics[best]["eval_explained_variance"]

    @pytest.mark.parametrize(
        "settings",
        [
            {"returns": "lambda", "gamma": 0.99},
            {"returns": "lambda", "lam": 0.8, "target": "sampled"},
            {"trainable": "lora", "learning_rate": 1e-2, "heads_learning_rate": 3e-2, "max_steps": 60},
            {"trainable": "heads", "heads_learning_rate": 0.1, "max_steps": 100},
            {"num_quantiles": 1},
            {"value_head_type": "monotone"},
            {"bf16": "true", "gradient_checkpointing": "true"},
            {"packing": "true"},
            {"packing": "false"},
            {"critic_loss": '{"form": "paper", "kappa": 1, "shift": 0.1}', "returns": "lambda", "lam": 0.9},
        ],
        ids=["index", "sampled", "lora", "heads", "scalar", "monotone", "bf16", "packed", "padded", "paper"],
    )
    def test_every_kind_learns(self, inputs, tmp_path, settings):
        metrics = run(tmp_path / "run", inputs, LEARNING, settings)
        last = metrics[max(metrics)]
        assert last["eval_explained_variance"] > 0.3
        assert ("eval_coverage_80" in last) == (settings.get("num_quantiles") != 1)
        if settings.get("value_head_type") == "monotone":
            assert last["eval_crossing_rate"] == 0
        assert values(tmp_path / "run" / "last").isfinite().all()

    def test_heads_only_leaves_the_body_alone(self, inputs, tmp_path):
        run(tmp_path / "run", inputs, SHORT, trainable="heads")
        policy = AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"])
        critic = AutoModelForDistributionalValue.from_pretrained(tmp_path / "run" / "last")
        body = dict(critic.model.named_parameters())
        assert body and all(torch.equal(body[name], weight) for name, weight in policy.model.named_parameters())

    def test_lora_saves_an_adapter_that_goes_on(self, inputs, tmp_path):
        first = run(tmp_path / "run", inputs, SHORT, trainable="lora", lora_r=4)
        saved = {path.name for path in (tmp_path / "run" / "last").iterdir()}
        assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
        onwards = {"model_name_or_path": tmp_path / "run" / "last", "num_quantiles": None, "trainable": "lora"}
        second = run(tmp_path / "onwards", inputs, SHORT, onwards)
        assert second[0]["eval_crps"] == pytest.approx(first[6]["eval_crps"], rel=1e-5)
        assert not torch.equal(values(tmp_path / "onwards" / "last"), values(tmp_path / "run" / "last"))
        with pytest.raises(ConfigError, match="last is a LoRA adapter, and trainable is 'all'"):
            run(tmp_path / "all", inputs, SHORT, onwards, trainable="all")

    def test_reward_functions(self, inputs, tmp_path, monkeypatch):
        (tmp_path / "my_rewards.py").write_text(
            "def first(prompts, completions, **kwargs):\n    return [int(text[8]) / 4 for text in prompts]\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        metrics = run(tmp_path / "run", inputs, LEARNING, reward_funcs="my_rewards:first")
        assert metrics[30]["eval_explained_variance"] > 0.5
        config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
        assert config["critic_training"]["reward_source"] == ["my_rewards:first"]


class TestFinalDirectory:
    def test_says_how_it_was_trained(self, learned, inputs):
        config = AutoModelForDistributionalValue.from_pretrained(learned[1] / "last").config
        rewards = [json.loads(line)["reward"] for line in Path(inputs["dataset"]).read_text().splitlines()]
        training = config.critic_training
        expected = {
            "parent": inputs["model_name_or_path"],
            "gamma": 1.0,
            "lam": 1.0,
            "returns": "monte_carlo",
            "kl_in_reward": False,
            "reward_source": "column 'reward'",
            "dataset": inputs["dataset"],
            "training_rows": 120,
            "trainable": "all",
            "learning_rate": 3e-3,
            "rows_per_step": 32,
            "seed": 0,
            "step": 30,
        }
        assert {name: training[name] for name in expected} == expected
        assert training["return_range"] == pytest.approx([min(rewards), max(rewards)])
        assert training["evaluation"]["crps"] == learned[0][30]["eval_crps"]
        assert training["versions"]["modeling_dvpo"] == modeling_dvpo.__version__
        assert config.critic_loss["kappa"] == 0.02
        assert (config.num_value_heads, config.num_quantiles) == (3, 16)
        assert 0 < config.return_mean < 1 and 0 < config.return_scale < 1

    def test_predicts_what_the_run_predicted(self, inputs, tmp_path, monkeypatch):
        """The weights in memory at the end and those that are read back."""
        kept = []
        trainer, train = critic_trainer.CriticTrainer, critic_trainer.CriticTrainer.train
        monkeypatch.setattr(trainer, "train", lambda self: (kept.append(self.critic), train(self)))
        run(tmp_path / "run", inputs, SHORT)
        tokens = AutoTokenizer.from_pretrained(tmp_path / "run" / "last")("What is 3 + 14? The answer is 15.")
        with torch.no_grad():
            expected = kept[0].eval()(input_ids=torch.tensor([tokens["input_ids"]])).quantiles
        assert torch.equal(values(tmp_path / "run" / "last"), expected)

    def test_files(self, learned):
        _, folder = learned
        found = {str(path.relative_to(folder)) for path in folder.glob("*")}
        assert found == {"run.json", "metrics.jsonl", "checkpoints", "best", "last"}
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-30"]
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in (folder / "last").iterdir()}

    def test_an_undefined_metric_is_null(self, inputs, tmp_path):
        """Explained variance of equal returns is undefined; as NaN it would make config.json unreadable elsewhere."""
        same = write_rows(tmp_path / "same.jsonl", [{**row, "reward": 0.5} for row in reward_rows(10)])
        run(tmp_path / "run", inputs, SHORT, eval_dataset=same)
        text = (tmp_path / "run" / "best" / "config.json").read_text()
        assert "NaN" not in text
        assert json.loads(text)["critic_training"]["evaluation"]["explained_variance"] is None


class TestGoingOn:
    def test_a_loaded_critic_starts_where_it_ended(self, learned, inputs, tmp_path):
        """Another reward set has another scale; the heads are rescaled so that predictions stay."""
        metrics, folder = learned
        rows = [json.loads(line) for line in Path(inputs["dataset"]).read_text().splitlines()]
        other = write_rows(tmp_path / "other.jsonl", [{**row, "reward": 3 * row["reward"] - 1} for row in rows])
        loaded = {"model_name_or_path": folder / "last", "num_quantiles": None, "dataset": other}
        found = run(tmp_path / "run", inputs, SHORT, loaded)
        for name, value in metrics[30].items():
            if name.startswith("eval_"):
                assert found[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
        scales = [
            AutoModelForDistributionalValue.from_pretrained(path / "last").config.return_scale
            for path in (folder, tmp_path / "run")
        ]
        assert scales[1] == pytest.approx(3 * scales[0])

    def test_other_returns_are_named(self, learned, inputs, tmp_path):
        loaded = {"model_name_or_path": learned[1] / "last", "num_quantiles": None, "max_steps": 1}
        message = (
            "last was trained on other returns: gamma was 1.0 and is 0.9; lam was 1.0 and is 0.95; returns was "
            "'monte_carlo' and is 'lambda'; target was None and is 'index'. Its values start from the old meaning"
        )
        with pytest.warns(UserWarning, match=message):
            run(tmp_path / "run", inputs, SHORT, loaded, returns="lambda", gamma=0.9)

    def test_other_heads_are_refused(self, learned, inputs, tmp_path):
        with pytest.raises(ValueError, match="is a critic with num_quantiles=16, but num_quantiles=8 was asked for"):
            run(tmp_path / "run", inputs, SHORT, model_name_or_path=learned[1] / "last", num_quantiles=8)


GOOD = {"prompt": "What is 1 + 2?", "completion": "The answer is 3.", "reward": 1.0}
CHAT = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], "reward": 1.0}
BAD_ROWS = {
    "missing column": ([{"prompt": "1", "completion": "2", "score": 1.0}], "No column 'reward'"),
    "empty file": ([], "is empty: a set needs at least one row"),
    "empty completion": ([GOOD, {**GOOD, "completion": ""}], "1 of 2 rows .* have an empty completion"),
    "nan": ([GOOD, {**GOOD, "reward": float("nan")}], "1 of 2 rows .* (NaN or infinite|have no reward)"),
    "infinite": ([GOOD, {**GOOD, "reward": float("inf")}], "1 of 2 rows .* (NaN or infinite|have no reward)"),
    "none": ([GOOD, {**GOOD, "reward": None}], "1 of 2 rows .* have no reward"),
    "text": ([{**GOOD, "reward": "good"}], "1 of 1 rows .* have a reward that is not a number"),
    "step ends": ([{**GOOD, "reward": [1.0, 2.0], "step_ends": [3, 99]}], "have step ends that do not match"),
    "too long": ([GOOD, {**GOOD, "prompt": "1 + " * 100}], "1 of 2 rows .* are longer than the context of 128"),
    "chat": ([CHAT], "The rows are chats, and the tokenizer has no chat template"),
}


class TestBadInput:
    def refused(self, tmp_path, error, message, *settings, **more):
        """Refused with this message; no critic is trained, and the directory is free for the next try."""
        with pytest.raises(error, match=message):
            run(tmp_path / "run", *settings, **more)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("kind", BAD_ROWS)
    def test_rows(self, inputs, tmp_path, kind):
        rows, message = BAD_ROWS[kind]
        dataset = write_rows(tmp_path / "bad.jsonl", rows)
        self.refused(tmp_path, DataError, message, inputs, SHORT, dataset=dataset)

    def test_long_rows_are_dropped_on_request(self, inputs, tmp_path):
        rows = [*reward_rows(20), *BAD_ROWS["too long"][0]]
        dataset = write_rows(tmp_path / "long.jsonl", rows)
        run(tmp_path / "run", inputs, SHORT, dataset=dataset, drop_long_rows="true", max_steps=1)
        config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
        assert config["critic_training"]["training_rows"] == 21

    @pytest.mark.parametrize("settings", [{"max_tokens_per_device": 10}, {"eval_steps": 1, "eval_dataset": None}])
    def test_settings_that_cannot_work(self, inputs, tmp_path, settings):
        message = "max_tokens_per_device is 10, and the longest row has|eval_steps is set, but nothing is held out"
        self.refused(tmp_path, ConfigError, message, inputs, SHORT, settings)

    def test_a_long_held_out_row_is_found_at_the_start(self, inputs, tmp_path):
        """It used to stop the run at its first evaluation."""
        rows = [{**GOOD, "prompt": "1 + " * 40}, GOOD]
        held_out = write_rows(tmp_path / "held_out.jsonl", rows)
        message = "max_tokens_per_device is 60, and the longest row has 8"
        self.refused(tmp_path, ConfigError, message, inputs, SHORT, eval_dataset=held_out, max_tokens_per_device=60)

    def test_model_that_is_not_there(self, inputs, tmp_path):
        message = "model_name_or_path: .*nowhere has no config that transformers can read"
        self.refused(tmp_path, ConfigError, message, inputs, model_name_or_path=tmp_path / "nowhere")

    @pytest.mark.parametrize("model_type", ["qwen3", "llama"])
    def test_model_without_a_tokenizer(self, inputs, tmp_path, model_type):
        """transformers answers for Qwen3 with a tokenizer of one token, under which every text is empty."""
        tiny_config(model_type).save_pretrained(tmp_path / "policy")
        message = "policy has no tokenizer"
        self.refused(tmp_path, ConfigError, message, inputs, model_name_or_path=tmp_path / "policy")

    def test_tokenizer_that_does_not_fit_the_vocabulary(self, inputs, tmp_path):
        tiny_config("qwen3", vocab_size=15).save_pretrained(tmp_path / "policy")
        word_tokenizer().save_pretrained(tmp_path / "policy")
        message = "The tokenizer does not fit the model: row .* the model's vocabulary ends at 14"
        self.refused(tmp_path, RewardDataError, message, inputs, model_name_or_path=tmp_path / "policy")

    def test_tokenizer_without_pad_where_rows_are_padded(self, inputs, tmp_path):
        policy = AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"])
        policy.save_pretrained(tmp_path / "policy")
        tokenizer = word_tokenizer()
        tokenizer.pad_token = None
        tokenizer.save_pretrained(tmp_path / "policy")
        settings = {**inputs, **SHORT, "model_name_or_path": tmp_path / "policy", "max_steps": 1}
        self.refused(tmp_path, RewardDataError, "The tokenizer has no pad token", settings, packing="false")
        assert run(tmp_path / "packed", settings, packing="true")[1]["loss"] > 0

    def test_packing_a_model_that_mixes_rows_up(self, inputs, tmp_path):
        policy = AutoModelForCausalLM.from_config(tiny_config("mamba", vocab_size=20))
        policy.save_pretrained(tmp_path / "policy")
        word_tokenizer().save_pretrained(tmp_path / "policy")
        settings = {**inputs, "model_name_or_path": tmp_path / "policy", "packing": "true", "max_length": 128}
        message = "packing is true, but MambaForDistributionalValue would mix packed rows up"
        self.refused(tmp_path, ConfigError, message, settings)

    def test_directory_of_another_run(self, one_process, inputs):
        metrics, folder = one_process
        with pytest.raises(ConfigError, match="run holds another run. Choose another output_dir"):
            run(folder, inputs, SHORT)
        assert metrics_of(folder) == metrics

    def test_overwriting_waits_for_the_first_step(self, inputs, tmp_path, monkeypatch):
        run(tmp_path / "run", inputs, SHORT, max_steps=1)
        with monkeypatch.context() as patch:
            stop_at(patch, 1)
            with pytest.raises(Stop):
                run(tmp_path / "run", inputs, SHORT, max_steps=2, overwrite_output_dir="true")
        assert list(metrics_of(tmp_path / "run")) == [0, 1]
        assert list(run(tmp_path / "run", inputs, SHORT, max_steps=2, overwrite_output_dir="true")) == [0, 1, 2]

    def test_a_run_that_fails_in_step_one_does_not_block_the_next(self, inputs, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            stop_at(patch, 1)
            with pytest.raises(Stop):
                run(tmp_path / "run", inputs, SHORT, max_steps=1)
        assert not (tmp_path / "run").exists()
        assert list(run(tmp_path / "run", inputs, SHORT, max_steps=1)) == [0, 1]

    @pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_the_script_says_what_is_wrong_and_fails(self, inputs, tmp_path, ranks):
        """One sentence, no traceback; on several ranks once, and none of them waits for the others."""
        dataset = write_rows(tmp_path / "bad.jsonl", BAD_ROWS["text"][0])
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch = [*(launch if ranks > 1 else [sys.executable]), SCRIPT]
        arguments = flags(inputs, dataset=dataset, output_dir=tmp_path / "run")
        done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        assert done.stderr.count("RewardDataError: 1 of 1 rows of") == 1
        assert "not a number" in done.stderr
        assert ranks > 1 or "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


class TestNonFinite:
    @pytest.mark.parametrize("which", ["loss", "gradient"])
    def test_stops_before_the_update_and_names_the_step(self, inputs, tmp_path, monkeypatch, which):
        runs, weights = [], []
        critic_loss, optimizer_step = critic_trainer.critic_loss, critic_trainer.CriticTrainer.optimizer_step

        class Poison(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient * float("nan")

        def poisoned(*args, **kwargs):
            loss, terms = critic_loss(*args, **kwargs)
            if runs[-1].progress["step"] == 2:
                loss = loss * float("nan") if which == "loss" else Poison.apply(loss)
            return loss, terms

        def watched(self, step, micro_batches):
            runs.append(self)
            weights.append({name: p.detach().clone() for name, p in self.critic.named_parameters()})
            return optimizer_step(self, step, micro_batches)

        monkeypatch.setattr(critic_trainer, "critic_loss", poisoned)
        monkeypatch.setattr(critic_trainer.CriticTrainer, "optimizer_step", watched)
        with pytest.raises(FloatingPointError, match="Step 3: loss .*, gradient norm nan. No update was made"):
            run(tmp_path / "run", inputs, SHORT, save_steps=2)
        assert all(torch.equal(p, weights[2][name]) for name, p in runs[-1].critic.named_parameters())
        assert not torch.equal(weights[2]["quantile_heads.weight"], weights[1]["quantile_heads.weight"])
        assert list(metrics_of(tmp_path / "run")) == [0, 1, 2]
        assert (tmp_path / "run" / "checkpoints" / "step-2").exists()


def test_trackers_get_the_metrics(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = run(tmp_path / "run", inputs, SHORT, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("eval_crps")] == [0, 3, 6]
    assert events.Scalars("loss")[-1].value == pytest.approx(metrics[6]["loss"], rel=1e-6)


def test_learning_rates_warm_up_and_decay(inputs, tmp_path):
    metrics = run(tmp_path / "run", inputs, SHORT, learning_rate=3e-3, warmup_ratio=0.4, lr_scheduler_type="linear")
    # 6 steps, of which ceil(2.4) = 3 warm up; the rate of a step is that before its update
    expected = [0, 1e-3, 2e-3, 3e-3, 2e-3, 1e-3]
    assert [metrics[step]["learning_rate"] for step in range(1, 7)] == pytest.approx(expected)
    assert [metrics[step]["heads_learning_rate"] for step in range(1, 7)] == pytest.approx([10 * x for x in expected])


def test_the_shift_gate_follows_a_running_mean(inputs, tmp_path, monkeypatch):
    """The gate of a step is decided by the steps before it, the same on all ranks and for all micro-batches."""
    runs = []
    train = critic_trainer.CriticTrainer.train
    monkeypatch.setattr(critic_trainer.CriticTrainer, "train", lambda self: (runs.append(self), train(self)))
    metrics = run(tmp_path / "run", inputs, SHORT, max_steps=12, max_tokens_per_device=100)
    mean, gates = 0.0, []
    for step in range(1, 13):
        gates.append(mean > 0)
        expected = metrics[step]["underestimation"] if gates[-1] else 0.0
        assert metrics[step]["shift"] == pytest.approx(expected, abs=1e-6)
        mean = 0.95 * mean + 0.05 * metrics[step]["underestimation"]
    assert True in gates and False in gates[1:]
    assert runs[0].progress["underestimation"] == pytest.approx(mean)
