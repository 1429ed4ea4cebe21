"""The figures of an evaluation, one panel a set, so that domains stand side by side on equal axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .document import DOMAINS

# Okabe and Ito's blue, vermilion and bluish green: apart for every kind of colour vision; shapes keep them apart in
# grey.
BLUE, VERMILION, GREEN, IDEAL = "#0072B2", "#D55E00", "#009E73", "0.25"
COVERAGES = {"50": (GREEN, "s"), "80": (BLUE, "o"), "90": (VERMILION, "D")}
MOST_COLUMNS = 3
LEAST_EXPLAINED = -1  # what lies below is drawn there, as a triangle: how much worse than a constant matters little


class Drawing(NamedTuple):
    """One figure: what draws a set's panel, which sets have something to draw, inches of a panel, shared axes."""

    panel: Callable[..., None]
    has: Callable[[dict], object]
    size: tuple[float, float]
    share: dict


def draw(evaluation: dict, folder: Path) -> dict[str, str]:
    """Write every figure there is something for; file names by figure."""
    sets, weights = evaluation["sets"], evaluation["loss_weights"]
    most_groups = max(1 + len(one["subsets"]) for one in sets)
    drawings = {
        "reliability": Drawing(_reliability, lambda one: "reliability" in one, (3.6, 3.7), {}),
        "pit": Drawing(_pit, lambda one: "pit_histogram" in one, (3.6, 3.1), {"sharey": True}),
        "by_position": Drawing(_values, _has_right_and_wrong, (4.2, 3.1), {"sharey": True}),
        "explained_variance": Drawing(_explained, lambda one: True, (4.2, 3.1), {"sharey": True}),
        "best_of_n": Drawing(_best_of_n, lambda one: "best_of_n" in one, (4.2, 3.1), {}),
        "coverage": Drawing(_coverage, lambda one: one["coverage_interval"], (4.6, 1.1 + 0.32 * most_groups), {}),
        "loss_terms": Drawing(
            lambda axes, one: _terms(axes, one, weights), lambda one: one["loss_terms"], (4.2, 3.1), {"sharex": True}
        ),
    }
    files = {}
    for name, drawing in drawings.items():
        shown = [one for one in sets if drawing.has(one)]
        if shown:
            files[name] = f"{name}.png"
            _figure(shown, drawing).savefig(Path(folder) / files[name])
    return files


def _figure(sets: list[dict], drawing: Drawing):
    from matplotlib.figure import Figure  # not pyplot: no display and no global state

    rows = -(-len(sets) // MOST_COLUMNS)
    columns = -(-len(sets) // rows)
    width, height = drawing.size
    figure = Figure(figsize=(width * columns, height * rows + 0.5), dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **drawing.share).flat)
    for axes, one in zip(panels, sets, strict=False):
        drawing.panel(axes, one)
        truth = f"{one['continuations']} continuations" if one["truth"] == "monte_carlo" else "one return a state"
        axes.set_title(f"{one['name']} ({DOMAINS[one['domain']]})\n{one['rows']:,} responses, {truth}", fontsize=9)
        axes.tick_params(labelleft=True, labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.7)
        axes.set_axisbelow(True)
    for axes in panels[len(sets) :]:
        axes.set_visible(False)
    # the same thing in several panels stands in the legend once
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        # three to a panel's width
        legend: dict[str, Any] = {
            "loc": "outside lower center",
            "ncols": min(len(named), 3 * columns),
            "frameon": False,
            "fontsize": 9,
        }
        figure.legend(named.values(), named.keys(), **legend)
    return figure


def _reliability(axes, one: dict) -> None:
    axes.plot([0, 1], [0, 1], color=IDEAL, ls="--", lw=1, label="calibrated")
    levels, observed = zip(*((point["level"], point["observed"]) for point in one["reliability"]), strict=True)
    axes.plot(levels, observed, color=BLUE, marker="o", ms=4, lw=1.3, label="critic")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="quantile level", ylabel="share of returns below it")


def _pit(axes, one: dict) -> None:
    shares = one["pit_histogram"]
    edges = [place / len(shares) for place in range(len(shares))]
    axes.bar(edges, shares, 1 / len(shares), align="edge", color="#78AED6", edgecolor="white", label="critic")
    axes.axhline(1 / len(shares), color=IDEAL, ls="--", lw=1.2, label="calibrated")
    axes.set(xlim=(0, 1), xlabel="PIT of the return", ylabel="share of returns")


def _has_right_and_wrong(one: dict) -> bool:
    return any("value_right" in row or "value_wrong" in row for row in one["by_position"])


def _values(axes, one: dict) -> None:
    for name, colour, marker in (("right", BLUE, "o"), ("wrong", VERMILION, "D")):
        _line(axes, one, f"value_{name}", color=colour, marker=marker, label=f"responses that end {name}")
    axes.set(xlim=(0, 1), xlabel="position in the response", ylabel="mean value (units of reward)")


def _explained(axes, one: dict) -> None:
    axes.axhline(0, color=IDEAL, ls="--", lw=1, label="constant")
    styles: dict[str, dict[str, Any]] = {
        "explained_variance": {"color": BLUE, "marker": "o", "label": "critic", "ms": 6},
        "scalar_explained_variance": {"color": VERMILION, "marker": "D", "ls": ":", "label": "scalar critic", "ms": 4},
    }
    for name, style in styles.items():
        rows = [row for row in one["by_position"] if name in row]
        seen = [row if row[name] >= LEAST_EXPLAINED else {**row, name: float("nan")} for row in rows]
        _line(axes, {"by_position": seen}, name, **style)
        below = [(row["from"] + row["to"]) / 2 for row in rows if row[name] < LEAST_EXPLAINED]
        if below:
            axes.plot(
                below,
                [LEAST_EXPLAINED] * len(below),
                ls="none",
                marker="v",
                ms=2 * style["ms"] - 2,
                color=style["color"],
            )
    axes.set(xlim=(0, 1), xlabel="position in the response", ylabel=f"explained variance (▼ below {LEAST_EXPLAINED})")


def _line(axes, one: dict, name: str, **style) -> None:
    rows = [row for row in one["by_position"] if name in row]
    if not rows:
        return
    middles = [(row["from"] + row["to"]) / 2 for row in rows]
    axes.plot(middles, [row[name] for row in rows], **{"ms": 4, "lw": 1.3, **style})


# what the critic's picks are held against, and what it is: as few lines as tell the story
PICKED = {
    "chance": {"color": IDEAL, "ls": "--", "label": "chance"},
    "shortest": {"color": "#E69F00", "marker": "v", "label": "shortest"},
    "likelihood": {"color": GREEN, "marker": "s", "label": "likelihood"},
    "majority vote": {"color": "#CC79A7", "marker": "^", "label": "majority vote"},
    "scalar, mean": {"color": VERMILION, "marker": "D", "ls": ":", "label": "scalar critic"},
    "critic, mean": {"color": BLUE, "marker": "o", "label": "critic"},
    "best there is": {"color": "0.6", "ls": ":", "label": "best there is"},
}


def _best_of_n(axes, one: dict) -> None:
    ways = one["best_of_n"]["ways"]
    for way, style in PICKED.items():
        if way not in ways:
            continue
        sizes = [int(size) for size in ways[way]["reward"]]
        means, low, high = zip(*ways[way]["reward"].values(), strict=True)
        axes.plot(sizes, means, **{"ms": 4, "lw": 1.3, **style})
        if way == "critic, mean":
            axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, sizes)
    axes.set(xlabel="n responses to choose from", ylabel="mean reward of the chosen")


def _coverage(axes, one: dict) -> None:
    groups = {"all": one, **one["subsets"]}
    places = range(len(groups) - 1, -1, -1)
    for number, (percent, (colour, marker)) in enumerate(COVERAGES.items()):
        axes.axvline(int(percent) / 100, color=colour, ls="--", lw=1)
        shares = [group["metrics"]["critic"][f"coverage_{percent}"] for group in groups.values()]
        ends = [group["coverage_interval"][percent] for group in groups.values()]
        errors = [
            [max(share - low, 0) for share, (low, _) in zip(shares, ends, strict=True)],
            [max(high - share, 0) for share, (_, high) in zip(shares, ends, strict=True)],
        ]
        heights = [place + 0.2 * (1 - number) for place in places]
        label = f"{percent} % interval"
        axes.errorbar(shares, heights, xerr=errors, color=colour, marker=marker, ls="none", ms=4, lw=1.3, label=label)
    axes.set_yticks(list(places), list(groups), fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share of returns inside (95 % interval)")


def _terms(axes, one: dict, weights: dict) -> None:
    sizes = {name: weights[name] * size for name, size in one["loss_terms"].items()}
    positive = [size for size in sizes.values() if size > 0]
    if not positive:
        return
    places = range(len(sizes) - 1, -1, -1)
    for place, size in zip(places, sizes.values(), strict=True):
        if size > 0:
            axes.plot(size, place, color=BLUE, marker="o", ms=6)
        # zero has no place on a logarithmic axis
        axes.annotate(f"{size:.2g}", (size or min(positive), place), (7, 0), textcoords="offset points", va="center")
    axes.set_yticks(list(places), list(sizes))
    low, high = axes.get_xlim() if axes.get_xscale() == "log" else (min(positive), max(positive))
    axes.set_xscale("log")
    axes.set_xlim(min(low, min(positive) / 2), max(high, 20 * max(positive)))
    axes.set(ylim=(-0.6, len(sizes) - 0.4), xlabel="weight × term (normalised units)")
