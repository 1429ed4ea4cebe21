"""The critic beside the policy: warmed up, frozen, loaded."""

import pytest
import torch
from dvpo_runs import CRITIC, SHORT, run, saved_critic, weights
from made_up_rewards import vowels
from scripts import flags, write_rows
from transformers import AutoModelForCausalLM

import modeling_dvpo.training.train_critic as offline
from modeling_dvpo.training.errors import ConfigError


def test_warmup_updates_the_critic_alone(inputs, tmp_path):
    metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, critic_warmup_steps=2, warmup_ratio=0, max_steps=3)
    learnt = [("policy_loss" in metrics[step], "critic/loss" in metrics[step]) for step in (1, 2, 3)]
    assert learnt == [(False, True), (False, True), (True, True)]
    start = AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"]).state_dict()
    trained = weights(tmp_path / "run")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not any(torch.equal(trained[f"{part}.{name}"], start[name]) for part in ("policy", "critic"))


def test_a_frozen_one_is_only_asked(runs, inputs, tmp_path):
    """And saved as it was, record and all."""
    _, folder = runs("dvpo")
    given = {"critic": folder / "last" / "critic", "critic_trainable": "none", "save_steps": 2}
    metrics = run(tmp_path / "run", inputs, SHORT, given)
    assert "critic/loss" not in metrics[1] and "critic/explained_variance" in metrics[1]
    expected, found = weights(folder), weights(tmp_path / "run")
    same = {name: torch.equal(found[name], value) for name, value in expected.items()}
    assert all(kept for name, kept in same.items() if name.startswith("critic."))
    assert not all(kept for name, kept in same.items() if name.startswith("policy."))
    configs = [(path / "last" / "critic" / "config.json").read_text() for path in (folder, tmp_path / "run")]
    assert configs[0] == configs[1] and saved_critic(folder).config.critic_training["step"] == 4


def test_a_loaded_one_predicts_what_it_did(runs, inputs, tmp_path):
    """In the units of this run's returns."""
    _, folder = runs("dvpo")
    given = {"critic": folder / "last" / "critic", "max_steps": 1, "critic_learning_rate": 0, "reward_weights": 2}
    run(tmp_path / "run", inputs, SHORT, given)
    before, after = saved_critic(folder), saved_critic(tmp_path / "run")
    assert before.config.return_mean != after.config.return_mean
    assert after.config.critic_training["parent"] == str(folder / "last" / "critic")
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(after(tokens).quantiles, before(tokens).quantiles, rtol=1e-5, atol=1e-5)


def test_other_returns_are_named(runs, inputs, tmp_path, recwarn):
    given = {"critic": runs("dvpo")[1] / "last" / "critic", "max_steps": 1}
    run(tmp_path / "same", inputs, SHORT, given, critic_trainable="heads")
    assert not any("was trained on" in str(warning.message) for warning in recwarn)
    other = {"gamma": 0.9, "kl": "reward", "reward_funcs": ["made_up_rewards:vowels", "made_up_rewards:short"]}
    run(tmp_path / "other", inputs, SHORT, given, other, reward_weights=[100, 1])
    text = "\n".join(str(warning.message) for warning in recwarn)
    assert "gamma was 1.0 and is 0.9; kl_in_reward was False and is True; reward_source was " in text
    assert "return_range differs" in text


def test_an_offline_one_goes_on(inputs, tmp_path):
    """A critic of train_critic.py, which learnt from a column of rewards, adapted and not."""
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
    message = "reward_source was \"column 'reward'\" and is \\['made_up_rewards:vowels'"
    with pytest.warns(UserWarning, match=message):
        metrics = run(tmp_path / "run", inputs, SHORT, given, critic_trainable="lora")
    assert metrics[2]["critic/loss"] > 0
    assert saved_critic(tmp_path / "run").config.critic_training["parent"] == str(tmp_path / "offline" / "last")


@pytest.mark.parametrize("scored", ["before", "now"])
def test_one_that_learnt_from_the_same_function_goes_on_in_silence(scored, inputs, tmp_path, recwarn):
    """Every critic of a set that was scored before was said to have learnt from other returns."""
    answers = ["aeiou", "xyz", "an", "io x"]
    rows = [{"prompt": f"What is {i}?", "completion": text, "number": 0} for i, text in enumerate(answers)]
    source = {"reward_funcs": "made_up_rewards.vowels"}
    if scored == "before":
        rewards = vowels(answers, answers, answers, [0, 0, 0, 0])
        rows = [{**row, "reward": reward} for row, reward in zip(rows, rewards, strict=True)]
        source = {"reward_source": "made_up_rewards.vowels"}
    offline_inputs = {
        "model_name_or_path": inputs["model_name_or_path"],
        "dataset": write_rows(tmp_path / "rewards.jsonl", rows),
        "max_steps": 1, "rows_per_step": 4, "num_quantiles": 8,
    }  # fmt: skip
    offline.main(flags(offline_inputs, source, output_dir=tmp_path / "offline"))
    given = {"critic": tmp_path / "offline" / "last", "max_steps": 1, "reward_funcs": "made_up_rewards:vowels"}
    run(tmp_path / "run", inputs, SHORT, given)
    assert not [w for w in recwarn if "was trained on other returns" in str(w.message)]
