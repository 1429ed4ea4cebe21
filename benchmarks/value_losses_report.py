"""Tables and figure of `value_losses.py`.

python benchmarks/value_losses_report.py docs/studies/value_losses/critics.jsonl --output docs/figures
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

from value_losses_methods import METHODS, REWARDS

# two-sided 95 % of Student's t, by degrees of freedom
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def cells(lines: list[dict]) -> dict[tuple, dict[int, dict]]:
    """(layers, rows, method, reward) -> line by seed."""
    found: dict[tuple, dict[int, dict]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "critic":
            *cell, seed = line["key"]
            found[tuple(cell)][seed] = line
    return found


def interval(numbers: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % t-interval; NaN of one number."""
    if len(numbers) < 2:
        return numbers[0], math.nan
    return statistics.mean(numbers), T[len(numbers) - 1] * statistics.stdev(numbers) / len(numbers) ** 0.5


def shown(numbers: list[float]) -> str:
    mean, half = interval(numbers)
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pairs_table(found, layers: int, rows: int) -> str:
    body = []
    for method in METHODS:
        some = [found.get((layers, rows, method, reward)) for reward in REWARDS]
        if any(some):
            body.append([method, *(shown([x["pairs"]["mean"] for x in one.values()]) if one else "" for one in some)])
    return table(["pairs in order", *REWARDS], body)


def exact_table(found, layers: int, rows: int) -> str:
    """All that was measured of the 0/1 reward."""
    sizes = ("2", "4", "8", "16")
    body = []
    for method in METHODS:
        if one := found.get((layers, rows, method, "exact")):
            lines = list(one.values())

            def mean(read, lines=lines):
                return f"{statistics.mean(map(read, lines)):.3f}"

            body.append(
                [method, *(mean(lambda line, size=size: line["best_of"][size]) for size in sizes)]
                + [mean(lambda line: line["explained_variance"]), mean(lambda line: line["explained_within"])]
                + [mean(lambda line: line["states"]["explained_variance"]), mean(lambda line: line["states"]["crps"])]
            )
    header = [*(f"best of {size}" for size in sizes), "expl. var.", "within a prompt", "of states", "CRPS of states"]
    return table(["0/1 reward", *header], body)


def readings_table(found, layers: int, rows: int) -> str:
    noisy = [reward for reward in REWARDS if reward not in ("exact", "graded")]
    body = []
    for reward in noisy:
        for method in METHODS:
            one = found.get((layers, rows, method, reward))
            if one and len(next(iter(one.values()))["pairs"]) > 1:
                names = next(iter(one.values()))["pairs"]
                means = [statistics.mean(line["pairs"][name] for line in one.values()) for name in names]
                body.append([f"{reward}, {method}", *(f"{mean:.3f}" for mean in means)])
    names = ["mean", "median", "without 10 % either side", "without 25 % either side"]
    return table(["pairs in order, read as", *names], body)


def draw(found, layers: int, rows: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = [method for method in METHODS if (layers, rows, method, "exact") in found]
    figure, axes = plt.subplots(1, len(REWARDS), figsize=(12, 0.32 * len(methods) + 1.2), sharey=True)
    for axis, reward in zip(axes, REWARDS, strict=True):
        for place, method in enumerate(reversed(methods)):
            scores = [line["pairs"]["mean"] for line in found[(layers, rows, method, reward)].values()]
            axis.plot(scores, [place] * len(scores), "o", color="#4477aa", alpha=0.6, markersize=4)
            axis.plot(statistics.mean(scores), place, "|", color="black", markersize=12)
        axis.axvline(0.5, color="#999999", linewidth=0.8, linestyle=":")
        axis.set(title=reward, xlim=(0.4, 1))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(methods)), reversed(methods))
    figure.supxlabel("pairs in order (a dot a seed; dotted: chance)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder of value_losses.png")
    options = parser.parse_args()
    found = cells([json.loads(line) for line in options.lines.read_text(encoding="utf-8").splitlines()])
    for layers, rows in sorted({cell[:2] for cell in found}, reverse=True):
        print(f"### {layers} layers, {rows:,} rows\n\n{pairs_table(found, layers, rows)}\n")
        print(f"{exact_table(found, layers, rows)}\n\n{readings_table(found, layers, rows)}\n")
    draw(found, *max(cell[:2] for cell in found), options.output / "value_losses.png")


if __name__ == "__main__":
    main()
