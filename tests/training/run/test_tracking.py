import io
import json
import re

import pytest

from modeling_dvpo.saving import without_nan
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.run.tracking import RunLog, check_trackers


def lines(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def open_log(folder, *, start_step=0):
    log = RunLog(10, start_step)
    log.open(folder, [], {})
    return log


def test_one_line_a_write(tmp_path):
    log = open_log(tmp_path)
    log.write(1, {"loss": 0.5})
    log.write(2, {"loss": 0.25, "eval_crps": 1.0})
    log.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "eval_crps": 1.0}]


def test_nothing_is_written_before_open(tmp_path):
    log = RunLog(10, 0)
    log.step(1, {"loss": 0.5}, shown=("loss",))
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


def test_a_line_has_means_since_the_last_one(tmp_path):
    """A line had its last step's loss alone, which says little where steps differ."""
    since = {}
    log = RunLog(10, 0, since)
    log.open(tmp_path, [], {})
    log.step(1, {"loss": 1.0, "critic/learning_rate": 0.1, "epoch": 0.5, "kl": float("nan")})
    log.step(2, {"loss": 2.0, "critic/learning_rate": 0.2, "epoch": 1.0, "kl": float("nan")})
    assert since["loss"] == [3.0, 2]  # what a checkpoint keeps
    log = RunLog(10, 2, json.loads(json.dumps(since)))
    log.open(tmp_path, [], {})
    log.step(3, {"loss": 6.0, "critic/learning_rate": 0.4, "epoch": 1.5, "kl": float("nan"), "critic/crps": 0.5})
    log.write_means(3, {"speed": 7.0})
    log.step(4, {"loss": 5.0, "kl": 0.25})
    log.step(5, {"loss": float("inf"), "kl": float("nan")})
    log.write_means(5)
    first = {"loss": 3.0, "critic/learning_rate": 0.4, "epoch": 1.5, "kl": None, "critic/crps": 0.5, "speed": 7.0}
    assert lines(tmp_path) == [{"step": 3, **first}, {"step": 5, "loss": 5.0, "kl": 0.25}]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_bars_are_for_terminals_and_files_get_lines(stream, tmp_path, monkeypatch, capsys):
    """A redirected log was one line of thousands of carriage returns."""
    errors = stream()
    monkeypatch.setattr("sys.stderr", errors)
    log = open_log(tmp_path)
    for step in (1, 2):
        log.step(step, {"loss": 0.5 * step, "reward": 3.0}, shown=("loss",))
    log.write_means(2)
    log.say("saved")
    log.close()
    said = capsys.readouterr().out
    if stream is Terminal:
        assert "train:  20%" in errors.getvalue() and "loss=1" in errors.getvalue() and said == "saved\n"
    else:
        assert not errors.getvalue()
        assert re.fullmatch(r"step 2 of 10: loss 0\.75; [\d.e-]+ s a step\nsaved\n", said)


def test_tables(tmp_path):
    log = open_log(tmp_path)
    log.write_table("completions", 2, [{"prompt": "2 + 3", "right": 1.0}, {"prompt": "4 + 4", "right": None}])
    log.write_table("completions", 4, [{"prompt": "é", "right": 0.0}])
    log.write_table("completions", 5, [])
    assert lines(tmp_path, "completions") == [
        {"step": 2, "prompt": "2 + 3", "right": 1.0},
        {"step": 2, "prompt": "4 + 4", "right": None},
        {"step": 4, "prompt": "é", "right": 0.0},
    ]
    assert not lines(tmp_path)


def test_a_table_reaches_the_trackers_that_take_tables(tmp_path):
    class Tracker:
        def __init__(self):
            self.tables = []

        def log_table(self, name, **table):
            self.tables.append((name, table))

    log, tracker = open_log(tmp_path), Tracker()
    log.trackers = [object(), tracker]
    log.write_table("completions", 2, [{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    assert tracker.tables == [("completions", {"columns": ["a", "b"], "data": [[1, 2], [3, 4]], "step": 2})]


def test_a_resumed_log_trims_its_tables_too(tmp_path):
    log = open_log(tmp_path)
    for step in (0, 2, 4):
        log.write_table("completions", step, [{"a": step}, {"a": -step}])
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write('{"step": 4, "a')
    open_log(tmp_path, start_step=2)
    assert [(line["step"], line["a"]) for line in lines(tmp_path, "completions")] == [(0, 0), (0, 0), (2, 2), (2, -2)]
    open_log(tmp_path)
    assert not lines(tmp_path, "completions"), "a run from the start keeps nothing of an earlier try"
    assert not list(tmp_path.glob("*.partial"))


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


def test_unknown_tracker():
    with pytest.raises(ConfigError, match="report_to names 'wandbee'; it must be among accelerate's trackers: aim"):
        check_trackers(["wandbee"])


def test_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ConfigError, match="report_to names 'wandb', which is not installed: pip install wandb"):
        check_trackers(["wandb"])
