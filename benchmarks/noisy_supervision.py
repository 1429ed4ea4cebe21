"""How well each method trains a policy when the rewards are wrong: a grid of methods, noises, seeds and tasks.

    python benchmarks/noisy_supervision.py                    the main grid, then tables and figure
    python benchmarks/noisy_supervision.py --quick            a few short runs, minutes on two cores
    python benchmarks/noisy_supervision.py --grid ablation    one term of the critic's loss after another
    python benchmarks/noisy_supervision.py --report           tables and figure of the runs there are

All methods of one seed start from the same imitation policy and see the same prompts and the same number of samples.
Training rewards are corrupted, evaluation rewards are not. Every finished run adds a line to the results file, and
runs that are in it are not made again: stop with Ctrl-C at any time and go on later.
"""

import argparse
import dataclasses
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from noisy_supervision_figure import CURVES, plot_learning_curves
from noisy_supervision_grid import GRIDS, METHODS, TASKS, Grid, Run
from noisy_supervision_report import final_scores, noises_of, report, write_between_markers
from noisy_supervision_runs import (
    ROOT,
    Workplace,
    append_result,
    in_parallel,
    last_lines,
    read_results,
    record_of,
    still_to_run,
)
from tqdm import tqdm

QUICK = ROOT / "outputs" / "noisy_supervision_quick"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        if not options.report:
            run_grid(chosen_grid(options), options.results, Workplace(options.work_dir), options.jobs)
        write_report(options.results, options.report_file, options.figure)
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"Stopped. Finished runs are in {options.results}; the same command goes on from there.")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="main")
    parser.add_argument("--quick", action="store_const", const="quick", dest="grid", help="the same as --grid quick")
    parser.add_argument("--methods", nargs="+", help=f"in place of the grid's: {', '.join(METHODS)}")
    parser.add_argument("--noises", nargs="+", help="as --reward_noise takes it: flip=0.2, 'flip=0.2 + gaussian=0.5'")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--tasks", nargs="+", help=", ".join(TASKS))
    parser.add_argument("--max_steps", type=int)
    parser.add_argument("--eval_steps", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, each on one core")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    parser.add_argument("--work_dir", type=Path, help="policies, prompts and the runs' own directories")
    parser.add_argument("--results", type=Path, help="a JSON line a finished run")
    parser.add_argument("--report_file", type=Path, help="its tables are rewritten, its other text stays")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    # runs of another length are another study: the quick grid's stay out of the documentation
    quick = options.grid == "quick"
    defaults = {
        "work_dir": QUICK if quick else ROOT / "outputs" / "noisy_supervision",
        "results": QUICK / "results.jsonl" if quick else ROOT / "docs" / "studies" / "noisy_supervision.jsonl",
        "report_file": QUICK / "report.md" if quick else ROOT / "docs" / "studies" / "noisy_supervision.md",
        "figure": QUICK / "figure.png" if quick else ROOT / "docs" / "figures" / "noisy-supervision.png",
    }
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def chosen_grid(options: argparse.Namespace) -> Grid:
    """The named grid with what the command line changes."""
    names = ("methods", "noises", "seeds", "tasks", "max_steps", "eval_steps")
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(GRIDS[options.grid], **changes)


def run_grid(grid: Grid, results: Path, workplace: Workplace, jobs: int) -> None:
    """Makes the runs that are not in the results; one that fails is recorded and the others go on.

    Raises:
        ValueError: the results or the work directory hold something of other settings, or a policy could not be
            trained.
    """
    pending = still_to_run(grid, read_results(results))
    print(f"{len(list(grid.runs()))} runs, {len(pending)} of them to make, {jobs} at a time")
    if unprepared := workplace.unprepared(pending, grid):
        prepare(unprepared, grid, workplace, jobs)
    settings = {run: grid.settings(run) for run in pending}
    ended = in_parallel(pending, lambda run: workplace.start(run, settings[run]), jobs)
    with closing(ended), tqdm(total=len(pending), desc="runs", unit="run") as progress:
        for run, exit_status, seconds in ended:
            record = record_of(run, settings[run], workplace, exit_status, seconds)
            append_result(results, record)
            if record["status"] == "ok":
                workplace.drop_checkpoints(run)
            progress.update()
            progress.write(f"{run}: {_outcome(record)}, {seconds:.0f} s")


def prepare(runs: list[Run], grid: Grid, workplace: Workplace, jobs: int) -> None:
    ended = in_parallel(runs, lambda run: workplace.prepare(run, grid.preparation_of(run.task)), jobs)
    with closing(ended):
        for run, exit_status, _ in tqdm(ended, total=len(runs), desc="policies", unit="policy"):
            if exit_status:
                log = workplace.preparation_log(run)
                raise ValueError(f"No policy for {run.task}, seed {run.seed}; {log} ends with\n{last_lines(log)}")


def _outcome(record: dict) -> str:
    if record["status"] != "ok":
        return f"failed ({record['error']})"
    accuracies = final_scores(record)
    return f"in domain {accuracies[TASKS[record['task']].train_domain]:.1%}, out of domain {accuracies['ood']:.1%}"


def write_report(results: Path, report_file: Path, figure: Path) -> None:
    """Tables and figures of all that is in the results file; a second task's figure has its name added.

    Raises:
        ValueError: there are no results yet.
    """
    records = read_results(results)
    if not records:
        raise ValueError(f"There are no results in {results}; leave --report out to make runs.")
    write_between_markers(report_file, report(records))
    print(f"Tables: {report_file}")
    for task in TASKS:
        if noises_of(records, task, CURVES):
            path = figure if task == "arithmetic" else figure.with_stem(f"{figure.stem}-{task}")
            print(f"Figure: {plot_learning_curves(records, task, path)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it ends its processes too
    main()
