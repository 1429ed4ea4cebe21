"""Runs that must have one curve, however the work is cut; and runs that are cut off and go on."""

import json
from pathlib import Path

import pytest
import torch
import train_dvpo_with_fixed_rollouts as fixed_rollouts
from dvpo_runs import CRITIC, SHORT, record_of, run, saved_critic, script, table_of, weights
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
from modeling_dvpo.training.trainers import dvpo_trainer

EQUAL = {
    "dvpo": {**CRITIC, "critic_lam": 0.9, "bootstrap_truncated": "true", "gamma": 0.99, "warmup_ratio": 0},
    "grpo": {"algorithm": "grpo", "warmup_ratio": 0},
    "dvpo_in_reward": {**CRITIC, "kl": "reward", "length_adaptive_lam": 0.05, "trainable": "lora", "warmup_ratio": 0}
    | {"critic_trainable": "lora", "risk_measure": "cvar", "risk_level": 0.5, "entropy_coef": 0.1, "lora_r": 4}
    | {"num_epochs": 2},
}


@pytest.fixture(scope="module")
def fixed_runs(inputs, tmp_path_factory):
    """One process, padded, all of a mini-batch at once: the yardstick of equal runs."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dvpo_trainer, "roll_out", fixed_rollouts.fixed_roll_out)
        for name, settings in EQUAL.items():
            folder = tmp_path_factory.mktemp(name) / "run"
            done[name] = run(folder, inputs, SHORT, settings), folder
    return done


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
    @pytest.mark.usefixtures("fixed")
    def test_accumulation_and_packing(self, fixed_runs, inputs, tmp_path, name, settings):
        found = run(tmp_path / "run", inputs, SHORT, EQUAL[name], settings)
        assert_same_curve(found, fixed_runs[name][0])

    @pytest.mark.parametrize("names", [["dvpo"], pytest.param(["grpo", "dvpo_in_reward"], marks=pytest.mark.slow)])
    def test_two_ranks(self, fixed_runs, inputs, tmp_path, names):
        """Several micro-batches a rank, whose gradients meet once an update; fresh heads are rank 0's; what is saved
        is the whole. And of a prompt that both ranks are given, they sample different completions."""
        few = {"max_tokens_per_device": 42}
        runs = [(True, flags(inputs, SHORT, EQUAL[name], few, output_dir=tmp_path / name)) for name in names]
        same = write_rows(tmp_path / "same.jsonl", [{"prompt": "What is 2 + 3?", "number": 0}] * 2)
        sampled = {"algorithm": "grpo", "dataset": same, "eval_dataset": None, "prompts_per_step": 2, "max_steps": 1}
        runs.append((False, flags(inputs, SHORT, sampled, log_completions=8, output_dir=tmp_path / "sampled")))
        (tmp_path / "runs.json").write_text(json.dumps(runs))
        run_on_ranks(Path(fixed_rollouts.__file__), [str(tmp_path / "runs.json")])
        for name in names:
            metrics, folder = fixed_runs[name]
            assert_same_curve(metrics_of(tmp_path / name), metrics)
            found, expected = weights(tmp_path / name), weights(folder)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        completions = [row["completion"] for row in table_of(tmp_path / "sampled")]
        assert len(completions) == 8 and completions[:4] != completions[4:]

    @pytest.mark.slow
    def test_two_ranks_that_converse(self, inputs, tmp_path):
        """Different numbers of prompts and lengths a rank; and what they save can be read."""
        settings = {"trainable": "lora", "critic_trainable": "lora", "kl": "reward", "bf16": "true"}
        settings |= {"chat": "true", "environment": "made_up_rewards:ask_twice", "max_completion_length": 40}
        settings |= {"generation_batch_size": 2, "max_tokens_per_device": 150, "prompts_per_step": 5}
        settings |= {"learning_rate": 1e-2, "num_mini_batches": 4, "warmup_ratio": 0}
        run_on_ranks(script.__file__, flags(inputs, SHORT, CRITIC, settings, output_dir=tmp_path / "run"))
        metrics = metrics_of(tmp_path / "run")
        assert list(metrics) == [0, 1, 2, 3, 4]
        assert metrics[4]["turns"] > 1 and metrics[4]["kl"] > 0
        trained = weights(tmp_path / "run")
        for part in ("policy.", "critic."):
            updates = [value for name, value in trained.items() if name.startswith(part) and "lora_B" in name]
            assert updates and all(value.abs().max() > 0 for value in updates)


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
        folder, whole = tmp_path / "run", tmp_path / "whole"
        expected = run(whole, inputs, SHORT, settings)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_in(patch, dvpo_trainer.DVPOTrainer, "collect", 4)
            run(folder, inputs, SHORT, settings, save_steps=2)
        assert list(metrics_of(folder)) == [0, 1, 2, 3]
        assert run(folder, inputs, SHORT, settings, save_steps=2, resume="true") == expected
        assert table_of(folder) == table_of(whole)
        trained, wanted = weights(folder), weights(whole)
        assert trained.keys() == wanted.keys() and all(torch.equal(trained[name], wanted[name]) for name in wanted)
        if "critic_lam" in settings:
            found, config = saved_critic(folder).config, saved_critic(whole).config
            assert found.return_mean == config.return_mean != 0
            assert found.return_scale == config.return_scale != 1
            assert found.critic_training == config.critic_training
            assert found.critic_loss == config.critic_loss

    def test_a_finished_run_is_left_as_it_is(self, runs, inputs):
        metrics, folder = runs("dvpo")
        before, record = weights(folder), record_of(folder)
        assert run(folder, inputs, SHORT, CRITIC, resume="true") == metrics
        after = weights(folder)
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert {**record_of(folder), "settings": None} == {**record, "settings": None}

    @pytest.mark.parametrize("changed", ["dataset", "eval_dataset"])
    def test_other_prompts_are_refused(self, inputs, tmp_path, changed):
        """The run went on with prompts, or answers to them, that it had not begun with, and said nothing."""
        rows = {name: read_rows(inputs[name]) for name in ("dataset", "eval_dataset")}
        files = {name: write_rows(tmp_path / f"{name}.jsonl", rows[name]) for name in rows}
        settings = {"algorithm": "grpo", "max_steps": 1, **files}
        run(tmp_path / "run", inputs, SHORT, settings)
        write_rows(tmp_path / f"{changed}.jsonl", [{**row, "number": row["number"] + 1} for row in rows[changed]])
        name = {"dataset": "training", "eval_dataset": "eval_dataset"}[changed]
        with pytest.raises(ConfigError, match=f"other data: other columns of the {name} prompts .was"):
            run(tmp_path / "run", inputs, SHORT, settings, resume="true")

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_after_being_killed(self, runs, inputs, tmp_path, ranks):
        arguments = flags(inputs, SHORT, CRITIC, output_dir=tmp_path / "run", save_steps=1)
        kill_after_first_checkpoint(script.__file__, arguments, ranks, tmp_path / "run")
        run_on_ranks(script.__file__, [*arguments, "--resume"], ranks)
        found, expected = metrics_of(tmp_path / "run"), runs("dvpo")[0]
        # what ranks sample depends on their number
        assert found == expected if ranks == 1 else list(found) == list(expected)
