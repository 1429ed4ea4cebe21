"""Runs that must have one curve, however the work is cut; and runs that are cut off and go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from critic_runs import SHORT, run, script, values, word_tokenizer
from scripts import (
    Stop,
    assert_same_curve,
    flags,
    kill_after_first_checkpoint,
    metrics_of,
    read_rows,
    run_on_ranks,
    stop_in,
    write_rows,
)

from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.trainers.critic_trainer import CriticTrainer


def run_on_two_ranks(output_dir, *settings, **more):
    run_on_ranks(script.__file__, flags(*settings, output_dir=output_dir, **more))
    return metrics_of(output_dir)


def lose(output_dir, monkeypatch, step, *settings, **more):
    """A run that is lost at the start of this step."""
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_in(patch, CriticTrainer, "optimizer_step", step)
        run(output_dir, *settings, **more)


class TestSameCurve:
    def test_the_curve_is_whole(self, one_process):
        metrics, _ = one_process
        assert list(metrics) == [0, 1, 2, 3, 4, 5, 6]
        assert all({"loss", "quantile", "cvar", "grad_norm", "epoch"} <= metrics[step].keys() for step in range(1, 7))
        assert [step for step in metrics if "eval_crps" in metrics[step]] == [0, 3, 6]
        assert metrics[1]["loss"] != metrics[6]["loss"]

    @pytest.mark.parametrize("settings", [{}, {"packing": "true"}], ids=["padded", "packed"])
    def test_accumulation(self, one_process, inputs, tmp_path, settings):
        found = run(tmp_path / "run", inputs, SHORT, settings, max_tokens_per_device=100)
        assert_same_curve(found, one_process[0])

    def test_without_a_pad_token(self, one_process, inputs, tmp_path):
        """Padding is masked, so that any id will do; such tokenizers were refused where rows are padded."""
        shutil.copytree(inputs["model_name_or_path"], tmp_path / "policy")
        tokenizer = word_tokenizer()
        tokenizer.pad_token = None
        tokenizer.save_pretrained(tmp_path / "policy")
        found = run(tmp_path / "run", inputs, SHORT, model_name_or_path=tmp_path / "policy")
        assert found == one_process[0]

    def test_two_ranks(self, one_process, inputs, tmp_path):
        """Four micro-batches a rank and step or so, whose gradients meet once."""
        found = run_on_two_ranks(tmp_path / "run", inputs, SHORT, max_tokens_per_device=40)
        assert_same_curve(found, one_process[0])
        torch.testing.assert_close(values(tmp_path / "run" / "last"), values(one_process[1] / "last"))

    def test_two_ranks_of_atoms(self, inputs, tmp_path):
        """Categorical heads, whose atoms and first histogram come from the training returns."""
        heads = {"value_head_type": "categorical", "max_steps": 3}
        alone = run(tmp_path / "alone", inputs, SHORT, heads)
        found = run_on_two_ranks(tmp_path / "run", inputs, SHORT, heads, max_tokens_per_device=40)
        assert_same_curve(found, alone)
        assert "cross_entropy" in found[1]

    def test_a_judge_that_never_says_the_same_twice(self, inputs, tmp_path):
        """Every rank asked it about every row, and began with rewards, units and fresh biases of its own, silently.

        It draws from PyTorch's generator, so that fresh weights would differ, too.
        """
        arguments = flags(
            inputs, SHORT, reward_funcs="made_up_rewards:judge", reward_batch_size=16, max_steps=1,
            output_dir=tmp_path / "run",
        )  # fmt: skip
        run_on_ranks(Path(__file__).with_name("start_on_ranks.py"), [str(tmp_path), *arguments])
        one, other = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
        assert len(set(one["returns"])) > 30, "the judge is not random"
        asked = one.pop("asked"), other.pop("asked")
        # 120 rows in 8 batches, 40 held out in 3: 4 and 1 are rank 0's
        assert [len(rows) for rows in asked] == [64 + 16, 56 + 24]
        assert sorted(asked[0] + asked[1]) == sorted([*range(120), *range(40)])
        assert one == other

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [
            {"trainable": "lora", "lora_r": 4, "max_tokens_per_device": 60},
            {"trainable": "heads", "max_tokens_per_device": 60},
            # Adam's first step is the sign of a gradient, rounding where it is 0: at a low rate
            {"returns": "lambda", "gradient_checkpointing": "true", "max_tokens_per_device": 100, "warmup_ratio": 0.5},
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


class TestResume:
    @pytest.mark.parametrize("settings", [{}, {"returns": "lambda", "target": "sampled"}], ids=["plain", "sampled"])
    def test_to_the_same_curve_bit_for_bit(self, one_process, inputs, tmp_path, monkeypatch, settings):
        """Stopped after step 4, one after the last checkpoint and in mid-epoch of an 8-step epoch."""
        expected, whole = one_process
        if settings:
            whole = tmp_path / "whole"
            expected = run(whole, inputs, SHORT, settings)
        lose(tmp_path / "run", monkeypatch, 5, inputs, SHORT, settings, save_steps=3)
        assert list(metrics_of(tmp_path / "run")) == [0, 1, 2, 3, 4]
        found = run(tmp_path / "run", inputs, SHORT, settings, save_steps=3, resume="true")
        assert found == expected
        assert torch.equal(values(tmp_path / "run" / "last"), values(whole / "last"))

    def test_a_finished_run_is_left_as_it_is(self, one_process, inputs):
        metrics, folder = one_process
        config, before = (folder / "last" / "config.json").read_text(), values(folder / "last")
        assert run(folder, inputs, SHORT, resume="true") == metrics
        assert torch.equal(values(folder / "last"), before)
        assert (folder / "last" / "config.json").read_text() == config

    def test_other_settings_are_refused(self, one_process, inputs):
        with pytest.raises(ConfigError, match=r"seed \(was 0, is 1\). Change them back"):
            run(one_process[1], inputs, SHORT, resume="true", seed=1)

    @pytest.mark.parametrize("changed", ["dataset", "eval_dataset"])
    def test_other_data_is_refused(self, inputs, tmp_path, changed):
        """Heads that had learnt in the old units were read in the new ones: 5.02 and 1.02 became 15.37 and -8.46."""
        rows = {name: read_rows(inputs[name]) for name in ("dataset", "eval_dataset")}
        files = {name: write_rows(tmp_path / f"{name}.jsonl", rows[name]) for name in rows}
        run(tmp_path / "run", inputs, SHORT, files, max_steps=1)
        before = values(tmp_path / "run" / "last")
        write_rows(tmp_path / f"{changed}.jsonl", [{**row, "reward": 4 * row["reward"]} for row in rows[changed]])
        which = {"dataset": r"training rows \(was .*units of returns \(was mean", "eval_dataset": "held-out rows"}
        with pytest.raises(ConfigError, match=f"was started on other data: rewards of the {which[changed]}"):
            run(tmp_path / "run", inputs, SHORT, files, max_steps=1, resume="true")
        assert torch.equal(values(tmp_path / "run" / "last"), before)

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_after_being_killed(self, one_process, inputs, tmp_path, ranks):
        arguments = flags(inputs, SHORT, output_dir=tmp_path / "run", save_steps=1)
        kill_after_first_checkpoint(script.__file__, arguments, ranks, tmp_path / "run")
        run_on_ranks(script.__file__, [*arguments, "--resume"], ranks)
        assert_same_curve(metrics_of(tmp_path / "run"), one_process[0])

    @pytest.mark.slow
    def test_on_another_number_of_ranks(self, one_process, inputs, tmp_path, monkeypatch):
        lose(tmp_path / "run", monkeypatch, 5, inputs, SHORT, save_steps=2)
        found = run_on_two_ranks(tmp_path / "run", inputs, SHORT, save_steps=2, resume="true")
        assert_same_curve(found, one_process[0])


class TestDirectory:
    """Never two runs in one; what fails before step 1 is done leaves it free."""

    def test_of_another_run(self, one_process, inputs):
        metrics, folder = one_process
        with pytest.raises(ConfigError, match="run holds another run. Choose another output_dir"):
            run(folder, inputs, SHORT)
        assert metrics_of(folder) == metrics

    def test_overwriting_waits_for_the_first_step(self, inputs, tmp_path, monkeypatch):
        settings = {**inputs, **SHORT, "max_steps": 1}
        lose(tmp_path / "run", monkeypatch, 1, settings)
        assert not (tmp_path / "run").exists()
        assert list(run(tmp_path / "run", settings)) == [0, 1]
        over = {"max_steps": 2, "overwrite_output_dir": "true"}
        lose(tmp_path / "run", monkeypatch, 1, settings, over)
        assert list(metrics_of(tmp_path / "run")) == [0, 1]
        assert list(run(tmp_path / "run", settings, over)) == [0, 1, 2]
