"""What is learnt, by which parameters, at which rates; and what stops it."""

import math

import pytest
import torch
from critic_runs import LEARNING, SHORT, config_of, run, script, values
from scripts import flags, metrics_of
from transformers import AutoModelForCausalLM

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.errors import ConfigError, RewardDataError
from modeling_dvpo.training.trainers import critic_trainer


def test_from_nothing_to_most_of_the_variance(learned):
    metrics, _ = learned
    assert metrics[0]["eval_explained_variance"] == pytest.approx(0, abs=0.05)
    assert metrics[30]["eval_explained_variance"] > 0.5
    assert metrics[30]["eval_crps"] < 0.7 * metrics[0]["eval_crps"]


def test_the_loss_is_a_mean_over_action_tokens(inputs, tmp_path):
    """In units of the returns' deviation over all tokens, a critic that says their mean everywhere has loss 1; in
    general 1 - explained variance + (bias / deviation)². A sum divided by rows is larger by the tokens a row has."""
    all_rows = {"rows_per_step": 120, "eval_dataset": inputs["dataset"], "max_steps": 1, "max_tokens_per_device": 500}
    metrics = run(tmp_path / "run", inputs, SHORT, all_rows, num_quantiles=1, num_value_heads=1)
    scale = config_of(tmp_path / "run" / "last")["return_scale"]
    explained, bias = (metrics[0][f"eval_{name}"] for name in ("explained_variance", "bias"))
    assert metrics[1]["loss"] == pytest.approx(1 - explained + (bias / scale) ** 2, rel=1e-4)


def test_ranks_agree_on_the_fresh_critic_and_draw_apart(inputs, tmp_path, monkeypatch):
    """With one seed for all, dropout and sampled targets of every rank would be the same."""
    found = []

    def note(self):
        heads = [parameter.detach().clone() for parameter in self.critic.quantile_heads.parameters()]
        found.append((heads, torch.rand(3)))

    monkeypatch.setattr(critic_trainer.CriticTrainer, "train", note)
    monkeypatch.setattr(critic_trainer, "world_size", lambda: 2)
    for this_rank in (0, 1):
        monkeypatch.setattr(critic_trainer, "rank", lambda this_rank=this_rank: this_rank)
        script.main(flags(inputs, SHORT, output_dir=tmp_path / "run"))
    (heads, drawn), (other_heads, other_drawn) = found
    assert all(map(torch.equal, heads, other_heads)) and not torch.equal(drawn, other_drawn)


@pytest.mark.parametrize(
    "settings",
    [
        {"returns": "lambda", "gamma": 0.99, "value_head_type": "linear"},
        {"value_head_type": "categorical"},
        {"value_head_type": "categorical", "num_bins": 21, "returns": "lambda", "lam": 0.8},
        {"value_head_type": "bounded", "num_quantiles": 1},
        {"returns": "lambda", "lam": 0.8, "target": "sampled", "value_head_type": "linear"},
        {"trainable": "lora", "learning_rate": 1e-2, "heads_learning_rate": 3e-2, "max_steps": 60},
        {"trainable": "heads", "heads_learning_rate": 0.1, "max_steps": 100},
        {"num_quantiles": 1},
        {"value_head_type": "monotone"},
        {"bf16": "true", "gradient_checkpointing": "true"},
        {"critic_loss": '{"form": "paper", "kappa": 1, "shift": 0.1}', "returns": "lambda", "lam": 0.9},
    ],
    ids=[
        "index",
        "categorical",
        "categorical lambda",
        "bounded",
        "sampled",
        "lora",
        "heads",
        "scalar",
        "monotone",
        "bf16",
        "paper",
    ],
)
def test_every_kind_learns(inputs, tmp_path, settings):
    metrics = run(tmp_path / "run", inputs, LEARNING, settings)
    last = metrics[max(metrics)]
    assert last["eval_explained_variance"] > 0.3
    assert ("eval_coverage_80" in last) == (settings.get("num_quantiles") != 1)
    if settings.get("value_head_type") == "monotone":
        assert last["eval_crossing_rate"] == 0
    assert values(tmp_path / "run" / "last").isfinite().all()
    if settings.get("trainable") == "heads":
        policy = AutoModelForCausalLM.from_pretrained(inputs["model_name_or_path"])
        critic = AutoModelForDistributionalValue.from_pretrained(tmp_path / "run" / "last")
        body = dict(critic.model.named_parameters())
        assert body and all(torch.equal(body[name], weight) for name, weight in policy.model.named_parameters())


def test_reward_functions(inputs, tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def first(prompts, completions, **kwargs):\n    return [int(text[8]) / 4 for text in prompts]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metrics = run(tmp_path / "run", inputs, LEARNING, reward_funcs="my_rewards:first")
    assert metrics[30]["eval_explained_variance"] > 0.5
    assert config_of(tmp_path / "run" / "last")["critic_training"]["reward_source"] == ["my_rewards:first"]
    with pytest.raises(RewardDataError, match="reward_source says what scored it before: give one of them"):
        run(tmp_path / "both", inputs, LEARNING, reward_funcs="my_rewards:first", reward_source="my_rewards:first")


def test_lora_saves_an_adapter_that_goes_on(inputs, tmp_path):
    first = run(tmp_path / "run", inputs, SHORT, trainable="lora", lora_r=4)
    saved = {path.name for path in (tmp_path / "run" / "last").iterdir()}
    assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
    onwards = {"model_name_or_path": tmp_path / "run" / "last", "num_quantiles": None, "trainable": "lora"}
    second = run(tmp_path / "onwards", inputs, SHORT, onwards)
    assert second[0]["eval_crps"] == pytest.approx(first[6]["eval_crps"], rel=1e-5)
    assert not torch.equal(values(tmp_path / "onwards" / "last"), values(tmp_path / "run" / "last"))
    with pytest.raises(ConfigError, match="last is a LoRA adapter, and trainable is 'all'"):
        run(tmp_path / "all", inputs, SHORT, onwards, trainable="all")


def test_learning_rates_warm_up_and_decay(inputs, tmp_path):
    metrics = run(tmp_path / "run", inputs, SHORT, learning_rate=3e-3, warmup_ratio=0.4, lr_scheduler_type="linear")
    # 6 steps, of which ceil(2.4) = 3 warm up, from 1/3; then down a line that would reach 0 in the seventh
    expected = [1e-3, 2e-3, 3e-3, 2.25e-3, 1.5e-3, 0.75e-3]
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


def test_losses_that_are_not_finite(inputs, tmp_path, monkeypatch):
    """The third step's is skipped, and leaves no NaN in the shift's gate; from the fifth on they end the run."""
    losses, runs = [], []
    critic_loss, train = critic_trainer.critic_loss, critic_trainer.CriticTrainer.train

    def poisoned(*args, **kwargs):
        loss, terms = critic_loss(*args, **kwargs)
        losses.append(loss)  # one micro-batch a step
        factor = float("nan") if len(losses) == 3 or len(losses) >= 5 else 1
        return loss * factor, {name: value * factor for name, value in terms.items()}

    monkeypatch.setattr(critic_trainer, "critic_loss", poisoned)
    monkeypatch.setattr(critic_trainer.CriticTrainer, "train", lambda self: (runs.append(self), train(self)))
    with pytest.raises(FloatingPointError, match="Step 6: loss nan, gradient norm nan. No update was made, nor in"):
        run(tmp_path / "run", inputs, SHORT, save_steps=2, max_skipped_updates=1)
    metrics = metrics_of(tmp_path / "run")
    assert list(metrics) == [0, 1, 2, 3, 4, 5]
    assert [metrics[step]["skipped_updates"] for step in range(1, 6)] == [0, 0, 1, 1, 2]
    assert metrics[3]["loss"] is None and metrics[4]["loss"] > 0
    assert math.isfinite(runs[0].progress["underestimation"])
    assert (tmp_path / "run" / "checkpoints" / "step-4").exists()
