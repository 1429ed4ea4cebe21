"""The critic beside the policy: warmed up, frozen, loaded."""

import pytest
import torch
from dvpo_runs import CRITIC, SHORT, recorded_samples, run, saved_critic, weights
from made_up_rewards import vowels
from scripts import flags, write_rows
from transformers import AutoModelForCausalLM

import modeling_dvpo.training.train_critic as offline
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.rollouts.samples import outcome_returns


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


def test_a_fresh_ones_units_follow_all_returns(inputs, tmp_path, monkeypatch):
    """The first step's completions fixed them. What it predicts stays, whatever its units: here it learns nothing."""
    steps = recorded_samples(monkeypatch)
    still = {**CRITIC, "critic_learning_rate": 0}
    run(tmp_path / "one", inputs, SHORT, still, max_steps=1)
    del steps[:]
    run(tmp_path / "three", inputs, SHORT, still, max_steps=3, save_steps=2)
    first, later = saved_critic(tmp_path / "one"), saved_critic(tmp_path / "three")
    returns = torch.cat([outcome_returns(samples, 1.0) for samples in steps]).double()
    assert later.config.return_mean == pytest.approx(returns.mean().item())
    assert later.config.return_scale == pytest.approx(returns.std(correction=0).item())
    assert later.config.critic_training["return_range"] == [returns.min().item(), returns.max().item()]
    assert abs(first.config.return_scale / later.config.return_scale - 1) > 1e-3
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(later(tokens).quantiles, first(tokens).quantiles, rtol=1e-4, atol=1e-5)


def test_a_fresh_monotone_one_keeps_its_first_units_and_says_so(inputs, tmp_path, monkeypatch):
    steps = recorded_samples(monkeypatch)
    with pytest.warns(UserWarning, match="monotone heads cannot be rescaled, so this critic keeps the units of the"):
        run(tmp_path / "run", inputs, SHORT, CRITIC, value_head_type="monotone", max_steps=2)
    first = outcome_returns(steps[0], 1.0).mean().item()
    assert saved_critic(tmp_path / "run").config.return_mean == pytest.approx(first)


def test_a_loaded_one_keeps_its_units_and_what_it_predicts(runs, inputs, tmp_path):
    """It was rescaled into those of a sample of a few completions."""
    _, folder = runs("dvpo")
    given = {"critic": folder / "last" / "critic", "max_steps": 1, "critic_learning_rate": 0, "reward_weights": 2}
    run(tmp_path / "run", inputs, SHORT, given)
    before, after = saved_critic(folder), saved_critic(tmp_path / "run")
    units = [(critic.config.return_mean, critic.config.return_scale) for critic in (before, after)]
    assert units[0] == units[1]
    assert after.config.critic_training["parent"] == str(folder / "last" / "critic")
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(after(tokens).quantiles, before(tokens).quantiles)


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


def test_one_with_atoms(inputs, tmp_path):
    """Advantages from its distribution, cross-entropy for a loss; targets beyond its atoms are counted."""
    kind = {"value_head_type": "categorical", "value_projection": "hl_gauss"}
    support = [x / 10 for x in range(-3, 14)]
    metrics = run(tmp_path / "run", inputs, SHORT, CRITIC, kind, value_support=support, critic_lam=0.9, max_steps=2)
    assert metrics[2]["critic/loss"] == pytest.approx(metrics[2]["critic/cross_entropy"])
    assert metrics[2]["critic/clipped"] == 0 and "critic/quantile" not in metrics[2]
    critic = saved_critic(tmp_path / "run")
    assert critic.config.value_support == support
    low = {"value_head_type": "bernoulli", "value_support": [0.0, 1e-3]}
    metrics = run(tmp_path / "low", inputs, SHORT, CRITIC, low, max_steps=1)
    assert metrics[1]["critic/clipped"] > 0.5


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
