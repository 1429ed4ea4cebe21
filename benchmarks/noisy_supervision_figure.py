"""Learning curves: a row for each noise, in-domain and out-of-domain accuracy side by side, a line for each method."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from noisy_supervision_grid import COMPARISONS, METHODS, TASKS
from noisy_supervision_report import Results, bootstrap_interval, finished, noises_of, scores

CURVES = COMPARISONS["Methods"]
# Okabe and Ito's colours, apart for every kind of colour vision; a method keeps its own in every figure.
STYLES = {
    "dvpo": ("#0072B2", "-"),
    "dvpo_paper": ("#56B4E9", "--"),
    "ppo": ("#D55E00", "-"),
    "grpo": ("#009E73", "-"),
    "dr_grpo": ("#009E73", "--"),
    "reinforce_plus_plus": ("#CC79A7", "-"),
    "robust_bellman": ("#E69F00", "-"),
}


def learning_curve(records: list[dict[str, Any]], column: str) -> tuple[list[int], np.ndarray]:
    """Steps that all the runs evaluated at, and (steps, 3): mean over the runs, its interval's low and high end."""
    by_run = [
        {line["step"]: scores(line, record["task"])[column] for line in record["learning_curve"]} for record in records
    ]
    steps = sorted(set.intersection(*(set(run) for run in by_run)))
    intervals = [bootstrap_interval([run[step] for run in by_run]) for step in steps]
    return steps, np.array([(i.mean, i.low, i.high) for i in intervals])


def plot_learning_curves(results: Results, task: str, path: Path) -> Path:
    """Saves the figure as PNG.

    Raises:
        ValueError: the results hold no finished run of these methods.
    """
    noises = [
        noise
        for noise in noises_of(results, task, CURVES)
        if any(finished(results, task, noise, method) for method in CURVES)
    ]
    if not noises:
        raise ValueError(f"There is no finished run of task {task!r} to draw.")
    columns = {TASKS[task].train_domain: "in domain", "ood": "out of domain, mean of the domains"}
    # The Figure itself rather than pyplot: no display and no global state.
    figure = Figure(figsize=(9.0, 2.5 * len(noises) + 0.9), dpi=150, layout="constrained")
    grid = figure.subplots(len(noises), 2, squeeze=False, sharex=True, sharey="col")
    for row, noise in zip(grid, noises, strict=True):
        for axes, (column, title) in zip(row, columns.items(), strict=True):
            for method in CURVES:
                if records := list(finished(results, task, noise, method).values()):
                    _draw(axes, method, *learning_curve(records, column))
            axes.set_title(f"{noise}: {title}", loc="left", fontsize=10)
            axes.grid(axis="y", color="0.9", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("accuracy, %")
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    named: dict[str, Any] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    labels = [METHODS[method].label for method in CURVES if METHODS[method].label in named]
    figure.legend([named[label] for label in labels], labels, loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(axes: Axes, method: str, steps: list[int], curve: np.ndarray) -> None:
    colour, line = STYLES[method]
    mean, low, high = 100 * curve.T
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, lw=0)
    axes.plot(steps, mean, color=colour, ls=line, lw=1.8, label=METHODS[method].label)
