"""Where a run's numbers go: a JSONL file always, a progress bar, and experiment trackers on request."""

import json
from pathlib import Path

from modeling_dvpo.training.distributed import is_main
from tqdm.auto import tqdm


class RunLog:
    """Rank 0 writes `metrics.jsonl` (one object a line, key `step`), shows the bar and feeds the trackers.

    Args:
        output_dir: the run's directory.
        total_steps: length of the bar.
        start_step: steps done before; later lines of an earlier try are removed from the file.
        report_to: names of accelerate's trackers (trackio, wandb, tensorboard, ...).
        settings: what the trackers record as the run's configuration.
    """

    def __init__(self, output_dir, total_steps: int, start_step: int, report_to: list[str], settings: dict):
        self.active = is_main()
        if not self.active:
            return
        self.path = Path(output_dir) / "metrics.jsonl"
        done = [line for line in _lines(self.path) if json.loads(line)["step"] <= start_step]
        self.path.write_text("".join(line + "\n" for line in done))
        self.bar = tqdm(total=total_steps, initial=start_step, desc="train", dynamic_ncols=True)
        self.trackers = [_start_tracker(name, output_dir, settings) for name in report_to]

    def step(self, step: int, shown: dict[str, float]) -> None:
        """Advance the bar to `step` and show these numbers beside it."""
        if self.active:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=False)
            self.bar.update(step - self.bar.n)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line, and send it to the trackers."""
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for tracker in self.trackers:
            tracker.log(metrics, step=step)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)

    def close(self) -> None:
        if self.active:
            self.bar.close()
            for tracker in self.trackers:
                tracker.finish()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _start_tracker(name: str, output_dir, settings: dict):
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"report_to names {name!r}; accelerate has {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}.")
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
