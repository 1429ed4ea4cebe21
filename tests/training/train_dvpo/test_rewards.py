"""What completions are worth, in training and where they are only looked at."""

import pytest
import torch
from dvpo_runs import CRITIC, SHORT, record_of, recorded_samples, run, table_of

from modeling_dvpo.training.data.reward_sets import RewardDataError
from modeling_dvpo.training.trainers import dvpo_trainer


@pytest.mark.usefixtures("fixed")
class TestRewards:
    def test_noise_is_in_what_is_trained_on_and_nowhere_else(self, inputs, tmp_path, monkeypatch):
        """A flip of every reward within 0 and 1, the bounds of a function that is one or the other."""
        steps = recorded_samples(monkeypatch)
        settings = {"algorithm": "grpo", "reward_funcs": "made_up_rewards:long", "reward_noise": "flip=1.0"}
        noisy = run(tmp_path / "noisy", inputs, SHORT, settings)
        clean = run(tmp_path / "clean", inputs, SHORT, settings, reward_noise=None)
        for samples, same in zip(steps[:4], steps[4:], strict=True):
            assert [s.reward for s in samples] == [1 - s.reward for s in same]
            assert [s.rewards for s in samples] == [s.rewards for s in same] == [{"long": s.reward} for s in same]
            advantages = [torch.tensor([s.advantage for s in each]) for each in (samples, same)]
            torch.testing.assert_close(advantages[0], -advantages[1])
        for step in range(1, 5):
            assert noisy[step]["reward"] == pytest.approx(1 - clean[step]["reward"])
            assert noisy[step]["reward/long"] == clean[step]["reward/long"] == pytest.approx(clean[step]["reward"])
        for step in (0, 4):
            assert noisy[step]["eval/held_out/long"] == clean[step]["eval/held_out/long"] > 0
        held_out = [row for row in table_of(tmp_path / "noisy") if row["dataset"] == "held_out"]
        assert held_out and all(row["reward"] == row["reward/long"] for row in held_out)

    def test_several_functions_with_weights(self, inputs, tmp_path, monkeypatch):
        """One of them asynchronous and silent about half of the completions, one about all."""
        steps = recorded_samples(monkeypatch)
        names = [f"made_up_rewards:{name}" for name in ("vowels", "short", "never")]
        given = {"reward_funcs": names, "reward_weights": [2, 3, 5], "algorithm": "reinforce_plus_plus"}
        metrics = run(tmp_path / "run", inputs, SHORT, given)
        for step, samples in enumerate(steps, 1):
            for i, sample in enumerate(samples):
                vowels, short, never = (sample.rewards[name] for name in ("vowels", "short", "never"))
                assert (short is None) == (i % 2 == 0) and never is None
                assert sample.reward == pytest.approx(2 * vowels + 3 * (short or 0))
            said = [s.rewards["short"] for s in samples if s.rewards["short"] is not None]
            assert metrics[step]["reward/short"] == pytest.approx(sum(said) / 6)
            assert metrics[step]["reward/never"] is None
        assert record_of(tmp_path / "run")["metrics"]["reward/never"] is None

    @pytest.mark.parametrize(
        ("name", "message"), [("wrong", "'wrong' returned nan for row 0"), ("never", "scored by no reward function")]
    )
    def test_what_a_function_must_answer(self, inputs, tmp_path, name, message):
        with pytest.raises(RewardDataError, match=message):
            run(tmp_path / "run", inputs, SHORT, CRITIC, reward_funcs=f"made_up_rewards:{name}")
        assert not (tmp_path / "run").exists()


def test_a_conversation(inputs, tmp_path, monkeypatch):
    """Three turns of the policy's, or fewer where there is no room; what the environment said is no action."""
    steps = recorded_samples(monkeypatch)
    settings = {"chat": "true", "system_prompt": "Add.", "environment": "made_up_rewards:ask_twice"}
    settings |= {"max_completion_length": 90, "temperature": 2.0, "stop_strings": ["a", "e"], "log_completions": 12}
    metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, settings, max_steps=2)
    assert {sample.num_turns for samples in steps for sample in samples} <= {1, 2, 3}
    assert 1 < metrics[1]["turns"] <= 3
    row = next(row for row in table_of(tmp_path / "run") if row["completion"].count("user: hello") == 2)
    assert row["prompt"].startswith("system: Add.\nuser: What is")
    assert row["completion"].startswith("assistant: ")
    assert all(not s.completion_mask[0] and s.completion_mask[-1] for samples in steps for s in samples)


class TestEvaluation:
    def test_greedy_and_repeated(self, inputs, tmp_path, monkeypatch):
        asked, roll_out = [], dvpo_trainer.roll_out

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
        metrics, _ = runs("dvpo")
        found = run(tmp_path / "run", inputs, SHORT, CRITIC, eval_steps=1, log_completions=0, eval_generations=2)
        for step in range(1, 5):
            one, other = ({n: v for n, v in each[step].items() if "eval" not in n} for each in (found, metrics))
            assert one == other
        assert not (tmp_path / "run" / "completions.jsonl").exists()


def test_trackers_get_the_metrics(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, report_to="tensorboard", logging_steps=2)
    assert list(metrics) == [0, 2, 4]
    events = EventAccumulator(str(tmp_path / "run" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("reward/vowels")] == [2, 4]
    assert [event.step for event in events.Scalars("eval/held_out/vowels")] == [0, 4]
    assert events.Scalars("critic/sd")[-1].value == pytest.approx(metrics[4]["critic/sd"], rel=1e-6)


def test_functions_know_the_step_and_log_as_with_trl(inputs, tmp_path, monkeypatch):
    """A function that asks for TRL's `trainer_state`, `log_extra` or `log_metric` ended the run with a TypeError."""
    steps = recorded_samples(monkeypatch)
    metrics = run(tmp_path / "run", inputs, SHORT, algorithm="grpo", reward_funcs="made_up_rewards:talkative")
    for step, samples in enumerate(steps, 1):
        assert {sample.reward for sample in samples} == {step - 1}
        lengths = [sample.num_actions for sample in samples]
        assert metrics[step]["ids"] == pytest.approx(sum(lengths) / len(lengths))
        assert metrics[step]["done"] == (step - 1) / 4
    assert [metrics[step]["eval/held_out/done"] for step in (0, 4)] == [0, 1]
    table = table_of(tmp_path / "run")
    shown = [row["first"] for row in table if row["dataset"] == "training" and row["step"] == 4]
    own = [next(t for t, a in zip(s.input_ids, s.completion_mask, strict=True) if a) for s in steps[-1]]
    assert shown == own[: len(shown)] and shown
    assert all("first" in row for row in table)
