"""Where a run's numbers go: a JSONL file always, a progress bar or plain lines, and experiment trackers on request."""

import json
import math
import sys
import time
from pathlib import Path

from tqdm import tqdm

from modeling_dvpo.ranks import is_main
from modeling_dvpo.saving import without_nan

from ..errors import ConfigError

# Where a run stands, not what a step measured: a line has the last step's, of everything else the mean.
STANDINGS = ("learning_rate", "heads_learning_rate", "epoch", "samples", "skipped_updates")


def on_terminal() -> bool:
    """Whether somebody watches; in a file, a bar would be one endless line."""
    return sys.stderr.isatty()


class RunLog:
    """Rank 0 writes `metrics.jsonl` (one object a line, key `step`), shows how far it is and feeds the trackers.

    Args:
        total_steps: of the run.
        start_step: steps done before.
        since_line: what was measured since the last line, metric -> [sum, number of steps]; changed in place, so that
            a checkpoint can keep it.
    """

    def __init__(self, total_steps: int, start_step: int, since_line: dict[str, list] | None = None):
        self.active, self.opened, self.start_step = is_main(), False, start_step
        self.since_line: dict[str, list] = {} if since_line is None else since_line
        self.total_steps, self.line = total_steps, (start_step, time.perf_counter())
        self.shown: tuple[str, ...] = ()
        self.trackers: list = []
        if self.active:
            options = {"desc": "train", "dynamic_ncols": True, "disable": not on_terminal()}
            self.bar = tqdm(total=total_steps, initial=start_step, **options)

    def open(self, output_dir, report_to: list[str], settings: dict) -> None:
        """Begin to write to `output_dir`; lines of an earlier try after `start_step` are removed.

        Args:
            report_to: names of accelerate's trackers; see `check_trackers`.
            settings: what the trackers record as the run's configuration.
        """
        self.opened = True
        if self.active:
            self.folder = Path(output_dir)
            for path in {self.folder / "metrics.jsonl", *self.folder.glob("*.jsonl")}:
                lines = _whole_lines(path) if self.start_step else []
                done = [line for line in lines if json.loads(line)["step"] <= self.start_step]
                partial = path.with_suffix(".partial")
                partial.write_text("".join(done), encoding="utf-8")
                partial.replace(path)
            self.trackers = [_start_tracker(name, output_dir, settings) for name in report_to]

    def step(self, step: int, metrics: dict[str, float], shown: tuple[str, ...] = ()) -> None:
        """What a step measured; the bar advances to it and has the metrics named in `shown`."""
        for name, value in metrics.items():
            if name.rpartition("/")[2] in STANDINGS:
                self.since_line[name] = [value, 1]
            elif math.isfinite(value):
                total, count = self.since_line.get(name, (0.0, 0))
                self.since_line[name] = [total + value, count + 1]
            else:
                self.since_line.setdefault(name, [0.0, 0])
        self.shown = shown
        if self.active:
            self.bar.set_postfix({name: f"{metrics[name]:.4g}" for name in shown}, refresh=False)
            self.bar.update(step - self.bar.n)

    def write_means(self, step: int, more: dict[str, float] | None = None) -> None:
        """One line of the means over the steps since the last such line, but for STANDINGS, and of `more`.

        NaN where no step had a finite number.
        """
        sums = self.since_line.items()
        means: dict[str, float] = {name: total / count if count else math.nan for name, (total, count) in sums}
        self.since_line.clear()
        self.write(step, means | (more or {}))
        if self.active and self.bar.disable:
            before, started = self.line
            self.line = (step, time.perf_counter())
            numbers = ", ".join(f"{name} {means[name]:.4g}" for name in self.shown)
            pace = (self.line[1] - started) / (step - before)
            self.say(f"step {step} of {self.total_steps}: {numbers}; {pace:.2g} s a step")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line, and send it to the trackers."""
        if not self.active:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **without_nan(metrics)}) + "\n")
        for tracker in self.trackers:
            tracker.log(metrics, step=step)

    def write_table(self, name: str, step: int, rows: list[dict]) -> None:
        """Append rows of equal keys to `{name}.jsonl`, and send them to the trackers that take tables."""
        if not self.active or not rows:
            return
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"step": step, **row}) + "\n" for row in rows)
        for tracker in self.trackers:
            if hasattr(tracker, "log_table"):
                tracker.log_table(name, columns=list(rows[0]), data=[list(row.values()) for row in rows], step=step)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)
            sys.stdout.flush()  # a file's lines would wait for each other

    def close(self) -> None:
        if self.active:
            self.bar.close()
            for tracker in self.trackers:
                tracker.finish()


def check_trackers(names: list[str]) -> None:
    """Refuse a tracker that accelerate does not know, or that is not installed.

    Raises:
        ConfigError: names which.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"report_to names {name!r}; it must be among accelerate's trackers: {known}.")
        if name not in installed:
            raise ConfigError(f"report_to names {name!r}, which is not installed: pip install {name}.")


def _whole_lines(path: Path) -> list[str]:
    # a run killed while it wrote leaves half a line
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _start_tracker(name: str, output_dir, settings: dict):
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it which process they are in
    tracker_class = LOGGER_TYPE_TO_CLASS[name]
    run_name = Path(output_dir).resolve().name
    tracker = (
        tracker_class(run_name, logging_dir=output_dir)
        if tracker_class.requires_logging_directory
        else tracker_class(run_name)
    )
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration({k: v for k, v in settings.items() if isinstance(v, int | float | str | bool)})
    return tracker
