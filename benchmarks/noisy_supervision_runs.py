"""Training runs as processes, and the line that each leaves in the results file."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from noisy_supervision_grid import METHODS, TASKS, Grid, Run
from noisy_supervision_prepare import is_prepared

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "training" / "train_dvpo.py"
CURVE_POINTS = 20
LOG_LINES = 20

Job = TypeVar("Job", bound=Hashable)


def in_parallel(
    jobs: Iterable[Job], start: Callable[[Job], subprocess.Popen], at_a_time: int
) -> Iterator[tuple[Job, int, float]]:
    """Starts each job's process, `at_a_time` together; yields (job, exit status, seconds) as they end.

    Closing the iterator, or an exception such as Ctrl-C while it waits, ends the processes that still run.
    """
    waiting, running = deque(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                job = waiting.popleft()
                running[job] = start(job), time.perf_counter()
            for job, (process, started) in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    yield job, process.returncode, time.perf_counter() - started
            time.sleep(0.05)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def start_process(command: list, log: Path) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
        )


@dataclass(frozen=True)
class Workplace:
    """Where prepared policies, prompts and the runs' own directories are."""

    directory: Path
    trainer: Path = TRAINER

    def data(self, run: Run) -> Path:
        return self.directory / run.task / f"seed-{run.seed}"

    def output(self, run: Run) -> Path:
        return self.data(run) / "runs" / re.sub(r"[^\w.=-]+", "_", run.noise) / run.method

    def log(self, run: Run) -> Path:
        return self.output(run).with_name(f"{run.method}.log")

    def start(self, run: Run, settings: dict[str, Any]) -> subprocess.Popen:
        """A fresh process of the trainer; what an earlier attempt left is removed."""
        shutil.rmtree(self.output(run), ignore_errors=True)
        flags = self.flags(run, settings)
        return start_process([sys.executable, self.trainer, *as_arguments(flags)], self.log(run))

    def flags(self, run: Run, settings: dict[str, Any]) -> dict[str, Any]:
        """The run's flags of `train_dvpo.py`, and which files it reads and writes."""
        data = self.data(run)
        return {
            **settings["flags"],
            "model_name_or_path": data / "policy",
            "dataset": data / "train.jsonl",
            "eval_dataset": [data / f"{domain}.jsonl" for domain in TASKS[run.task].domains],
            "output_dir": self.output(run),
        }

    def drop_checkpoints(self, run: Run) -> None:
        """Most of a run's size; the trained policy stays."""
        shutil.rmtree(self.output(run) / "checkpoints", ignore_errors=True)

    def prepare(self, run: Run, preparation: dict[str, Any]) -> subprocess.Popen:
        data = self.data(run)
        script = Path(__file__).with_name("noisy_supervision_prepare.py")
        command = [sys.executable, script, "--task", run.task, "--seed", run.seed, "--directory", data]
        command += ["--preparation", json.dumps(preparation)]
        return start_process(command, self.preparation_log(run))

    def preparation_log(self, run: Run) -> Path:
        return self.data(run).with_suffix(".log")

    def unprepared(self, runs: Iterable[Run], grid: Grid) -> list[Run]:
        """One run for each task and seed whose policy and prompts are still to be made."""
        first: dict[tuple[str, int], Run] = {}
        for run in runs:
            first.setdefault((run.task, run.seed), run)
        return [run for run in first.values() if not is_prepared(self.data(run), grid.preparation_of(run.task))]


def as_arguments(flags: dict[str, Any]) -> list[str]:
    """`{"a": 1, "b": [2, 3], "c": {"d": 0}}` as `--a 1 --b 2 3 --c {"d": 0}`."""
    arguments = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    return arguments


def last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:])


# --- the results file -------------------------------------------------------------------------------------------


def read_results(path: Path) -> dict[Run, dict[str, Any]]:
    """The last line of each identity: a run that failed and then succeeded has two.

    Raises:
        ValueError: a line that is not a record; says which.
    """
    records = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            run = Run(**{name: record[name] for name in ("method", "noise", "seed", "task")})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a run's record ({error!r}); delete that line.") from error
        records[run] = record
    return records


def append_result(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def still_to_run(grid: Grid, results: dict[Run, dict[str, Any]]) -> list[Run]:
    """The grid's runs that are not among the results; those that failed are tried again.

    Raises:
        ValueError: a run of the same name was made with other settings; says which differ.
    """
    pending = []
    for run in grid.runs():
        if run in results:
            # through JSON, so that a tuple equals the list it was saved as
            wanted, found = json.loads(json.dumps(grid.settings(run))), results[run]["settings"]
            if wanted != found:
                raise ValueError(
                    f"The results hold a run ({run}) with other settings: {_differences(found, wanted)}. Give the "
                    "same settings, or other --results and --work_dir."
                )
        if run not in results or results[run]["status"] != "ok":
            pending.append(run)
    return pending


def _differences(found: dict[str, dict], wanted: dict[str, dict]) -> str:
    parts = []
    for group in sorted(found.keys() | wanted.keys()):
        old, new = found.get(group, {}), wanted.get(group, {})
        parts += [
            f"{name} was {old.get(name, 'not given')}, is now {new.get(name, 'not given')}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
    return "; ".join(parts)


# --- what a run leaves -----------------------------------------------------------------------------------------


def record_of(run: Run, settings: dict, workplace: Workplace, exit_status: int, seconds: float) -> dict[str, Any]:
    """A run's line: identity, settings, versions, and its curves, or the end of its log if it failed."""
    record = {
        **asdict(run),
        "algorithm": METHODS[run.method].algorithm,
        "status": "ok",
        "settings": settings,
        "versions": versions(),
        "wall_seconds": round(seconds, 1),
    }
    try:
        if exit_status:
            raise ValueError(f"exit status {exit_status}")
        return record | summary(read_metrics(workplace.output(run)), run, settings)
    except ValueError as error:
        return record | {"status": "failed", "error": str(error), "log": last_lines(workplace.log(run))}


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    path = output_dir / "metrics.jsonl"
    if not path.is_file():
        raise ValueError("the trainer left no metrics.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summary(lines: list[dict[str, Any]], run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """Curves and final figures out of the trainer's metrics.

    Raises:
        ValueError: no training lines, or a domain's accuracy is missing at the start or at the end.
    """
    task, flags = TASKS[run.task], settings["flags"]
    curve = _learning_curve(lines, task.reward)
    for step in (0, flags["max_steps"]):
        missing = [domain for domain in task.domains if domain not in curve.get(step, {})]
        if missing:
            raise ValueError(f"no accuracy of {', '.join(missing)} at step {step} in the metrics")
    training = [line for line in lines if "reward" in line]
    if not training:
        raise ValueError("no line with a training reward in the metrics")
    return {
        "samples": int(training[-1]["samples"]),
        "learning_curve": [{"step": step, **accuracies} for step, accuracies in sorted(curve.items())],
        "final": curve[flags["max_steps"]],
        "training_curve": _training_curve(training, f"reward/{task.reward}"),
        "training_end": _means(training[-max(1, len(training) // 10) :]),
        "seconds_per_step": _rounded(statistics.median(line["seconds"] for line in training)),
    }


def _learning_curve(lines: list[dict[str, Any]], reward: str) -> dict[int, dict[str, float]]:
    """Step -> domain -> accuracy."""
    curve: dict[int, dict[str, float]] = {}
    for line in lines:
        for key, value in line.items():
            if found := re.fullmatch(rf"eval/([^/]+)/{re.escape(reward)}", key):
                curve.setdefault(line["step"], {})[found[1]] = _rounded(value)
    return curve


def _training_curve(training: list[dict[str, Any]], clean: str) -> list[dict[str, float]]:
    """What was trained on and what was true, each the mean of one of at most `CURVE_POINTS` stretches."""
    count = min(CURVE_POINTS, len(training))
    bounds = [len(training) * i // count for i in range(count + 1)]
    return [
        {
            "step": training[end - 1]["step"],
            "reward": _means(training[start:end])["reward"],
            "clean_reward": _means(training[start:end])[clean],
        }
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]


def _means(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of every training metric over the lines that have it."""
    values: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.items():
            if isinstance(value, int | float) and key != "step" and not key.startswith("eval/"):
                values.setdefault(key, []).append(value)
    return {key: _rounded(statistics.fmean(found)) for key, found in values.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def versions() -> dict[str, str]:
    names = ("modeling-dvpo", "torch", "transformers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
