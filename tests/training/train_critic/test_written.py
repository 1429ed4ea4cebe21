"""What a run leaves: directories, records, trackers; and how a critic goes on from there."""

import pytest
import torch
from critic_runs import SHORT, config_of, reward_rows, run, values
from scripts import read_rows, write_rows
from transformers import AutoTokenizer

import modeling_dvpo
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.trainers.critic_trainer import CriticTrainer


def test_files(learned):
    _, folder = learned
    assert {path.name for path in folder.iterdir()} == {"run.json", "metrics.jsonl", "checkpoints", "best", "last"}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-30"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in (folder / "last").iterdir()}


def test_last_says_how_it_was_trained(learned, inputs):
    metrics, folder = learned
    config = config_of(folder / "last")
    rewards = [row["reward"] for row in read_rows(inputs["dataset"])]
    training = config["critic_training"]
    expected = {
        "parent": inputs["model_name_or_path"],
        "gamma": 1.0,
        "lam": 1.0,
        "returns": "monte_carlo",
        "target": None,
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
    assert training["evaluation"]["crps"] == metrics[30]["eval_crps"]
    assert training["versions"]["modeling_dvpo"] == modeling_dvpo.__version__
    assert config["critic_loss"]["kappa"] == 0.02
    assert (config["num_value_heads"], config["num_quantiles"]) == (3, 16)
    assert 0 < config["return_mean"] < 1 and 0 < config["return_scale"] < 1


def test_best_is_the_best(learned):
    metrics, folder = learned
    best = max((10, 20, 30), key=lambda step: metrics[step]["eval_explained_variance"])
    training = config_of(folder / "best")["critic_training"]
    assert training["step"] == best
    assert training["evaluation"]["explained_variance"] == metrics[best]["eval_explained_variance"]


def test_last_predicts_what_the_run_predicted(inputs, tmp_path, monkeypatch):
    """The weights in memory at the end and those that are read back."""
    kept, train = [], CriticTrainer.train
    monkeypatch.setattr(CriticTrainer, "train", lambda self: (kept.append(self.critic), train(self)))
    run(tmp_path / "run", inputs, SHORT)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "run" / "last")("What is 3 + 14? The answer is 15.")
    with torch.no_grad():
        expected = kept[0].eval()(input_ids=torch.tensor([tokens["input_ids"]])).quantiles
    assert torch.equal(values(tmp_path / "run" / "last"), expected)


def test_an_undefined_metric_is_null(inputs, tmp_path):
    """Explained variance of equal returns is undefined; as NaN it would make config.json unreadable elsewhere."""
    same = write_rows(tmp_path / "same.jsonl", [{**row, "reward": 0.5} for row in reward_rows(10)])
    run(tmp_path / "run", inputs, SHORT, eval_dataset=same)
    assert config_of(tmp_path / "run" / "best")["critic_training"]["evaluation"]["explained_variance"] is None


def test_a_loaded_critic_starts_where_it_ended(learned, inputs, tmp_path):
    """Another reward set has another scale; the heads are rescaled so that predictions stay."""
    metrics, folder = learned
    rows = [{**row, "reward": 3 * row["reward"] - 1} for row in read_rows(inputs["dataset"])]
    other = write_rows(tmp_path / "other.jsonl", rows)
    loaded = {"model_name_or_path": folder / "last", "num_quantiles": None, "dataset": other}
    found = run(tmp_path / "run", inputs, SHORT, loaded)
    for name, value in metrics[30].items():
        if name.startswith("eval_"):
            assert found[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    scales = [config_of(path / "last")["return_scale"] for path in (folder, tmp_path / "run")]
    assert scales[1] == pytest.approx(3 * scales[0])


def test_a_loaded_critic_s_other_returns_and_heads_are_named(learned, inputs, tmp_path):
    loaded = {**inputs, **SHORT, "model_name_or_path": learned[1] / "last", "max_steps": 1}
    message = (
        "last was trained on other returns: gamma was 1.0 and is 0.9; lam was 1.0 and is 0.95; returns was "
        "'monte_carlo' and is 'lambda'; target was None and is 'index'. Its values start from the old meaning"
    )
    with pytest.warns(UserWarning, match=message):
        run(tmp_path / "run", loaded, num_quantiles=None, returns="lambda", gamma=0.9)
    with pytest.raises(ValueError, match="is a critic with num_quantiles=16, but num_quantiles=8 was asked for"):
        run(tmp_path / "other", loaded, num_quantiles=8)


def test_returns_beyond_a_loaded_critic_s_atoms_are_named(inputs, tmp_path):
    """They would all count as its ends."""
    run(tmp_path / "first", inputs, SHORT, max_steps=1, value_head_type="categorical")
    rows = [{**row, "reward": 9 * row["reward"]} for row in read_rows(inputs["dataset"])]
    loaded = {"model_name_or_path": tmp_path / "first" / "last", "num_quantiles": None, "value_head_type": "auto"}
    run(tmp_path / "same", inputs, SHORT, loaded, max_steps=1)
    with pytest.raises(ConfigError, match="training returns lie outside value_support"):
        run(tmp_path / "other", inputs, SHORT, loaded, dataset=write_rows(tmp_path / "other.jsonl", rows))
    run(tmp_path / "fresh", inputs, SHORT, loaded, dataset=tmp_path / "other.jsonl", max_steps=1, fresh_heads=True)
    # the automatic choice: rewards of few values are atoms themselves
    support = config_of(tmp_path / "fresh" / "last")["value_support"]
    assert support == pytest.approx(sorted({row["reward"] for row in rows}))


def test_trackers_get_the_metrics(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = run(tmp_path / "run", inputs, SHORT, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("eval_crps")] == [0, 3, 6]
    assert events.Scalars("loss")[-1].value == pytest.approx(metrics[6]["loss"], rel=1e-6)
