import json

import pytest

from modeling_dvpo.training.config import ConfigError
from modeling_dvpo.training.tracking import RunLog, check_trackers, without_nan


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def open_log(folder, *, start_step=0, report_to=(), settings=None):
    log = RunLog(10, start_step)
    log.open(folder, list(report_to), settings or {})
    return log


def test_one_line_a_write(tmp_path):
    log = open_log(tmp_path)
    log.write(1, {"loss": 0.5})
    log.write(2, {"loss": 0.25, "eval_crps": 1.0})
    log.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "eval_crps": 1.0}]


def test_nothing_is_written_before_open(tmp_path):
    log = RunLog(10, 0)
    log.step(1, {"loss": 0.5})
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    log = open_log(tmp_path)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": float(step)})
    # killed in the middle of a line
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    log = open_log(tmp_path, start_step=2)
    log.write(3, {"loss": 30.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 30.0}]


def test_a_log_from_the_start_keeps_nothing_of_an_earlier_try(tmp_path):
    open_log(tmp_path).write(0, {"eval_crps": 1.0})
    open_log(tmp_path).write(0, {"eval_crps": 2.0})
    assert lines(tmp_path) == [{"step": 0, "eval_crps": 2.0}]


def test_undefined_numbers_are_null(tmp_path):
    # json.dumps writes NaN, which other readers of JSON refuse
    open_log(tmp_path).write(1, {"eval_explained_variance": float("nan"), "loss": 1.0})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path) == [{"step": 1, "eval_explained_variance": None, "loss": 1.0}]
    assert without_nan({"a": float("inf"), "b": 2.0}) == {"a": None, "b": 2.0}


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = open_log(tmp_path, report_to=["tensorboard"], settings={"seed": 1, "critic_loss": {"risk": 0.1}})
    log.write(3, {"loss": 0.5})
    log.write(4, {"loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / tmp_path.name))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.5), (4, 0.25)]


def test_unknown_tracker():
    with pytest.raises(ConfigError, match="report_to names 'wandbee'; it must be among accelerate's trackers: aim"):
        check_trackers(["wandbee"])


def test_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ConfigError, match="report_to names 'wandb', which is not installed: pip install wandb"):
        check_trackers(["wandb"])
