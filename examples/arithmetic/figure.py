"""What the critic expects while a response is written, beside what then happened in many continuations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PREDICTED, OBSERVED = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion: apart for every kind of colour vision
BANDS = {90: "#D9E8F3", 80: "#AFCFE6", 50: "#78AED6"}
"""Central interval in per cent -> its tint. Opaque, so that the legend shows the colours one sees."""


@dataclass(frozen=True)
class Fan:
    """One response: T actions, each seen from the state before it."""

    title: str
    tokens: Sequence[str]
    """T, the last of them usually the end token."""
    quantiles: np.ndarray
    """(T, M): predicted return from the state before each token."""
    returns: np.ndarray
    """(T, K): sampled returns from the same states."""

    def __post_init__(self):
        num_tokens = len(self.tokens)
        if len(self.quantiles) != num_tokens or len(self.returns) != num_tokens:
            raise ValueError(
                f"A fan needs one row of quantiles and of returns a token, got {num_tokens} tokens, quantiles "
                f"{np.shape(self.quantiles)} and returns {np.shape(self.returns)}."
            )


def plot_fans(fans: Sequence[Fan], path: str | Path, *, ylabel: str = "return", title: str | None = None) -> Path:
    """Draws one row a response and saves the figure as PNG."""
    longest = max(len(fan.tokens) for fan in fans)
    # The Figure itself rather than pyplot: no display and no global state.
    figure = Figure(figsize=(max(7.0, 0.36 * longest + 1.5), 2.5 * len(fans) + 0.9), dpi=150, layout="constrained")
    rows = figure.subplots(len(fans), 1, squeeze=False)[:, 0]
    everything = [values for fan in fans for values in (fan.quantiles, fan.returns)]
    low, high = min(map(np.min, everything)), max(map(np.max, everything))
    margin = 0.06 * (high - low or 1.0)
    for axes, fan in zip(rows, fans, strict=True):
        _draw(axes, fan)
        axes.set(ylim=(low - margin, high + margin), xlim=(-0.6, longest - 0.4), ylabel=ylabel)
    rows[-1].set_xlabel("next token (the prediction is made before it is seen)")
    handles, labels = rows[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    labels = ["critic, mean", *sorted(label for label in labels if "central" in label)]
    labels += ["Monte Carlo, mean", "Monte Carlo, 10–90 %"]
    figure.legend(
        [named[label] for label in labels], labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    if title:
        figure.suptitle(title, fontsize=12)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(axes: Axes, fan: Fan) -> None:
    steps = np.arange(len(fan.tokens))
    left, right = steps - 0.12, steps + 0.2
    for percent, tint in BANDS.items():
        lower, upper = np.percentile(fan.quantiles, [50 - percent / 2, 50 + percent / 2], axis=1)
        axes.bar(steps, upper - lower, 0.92, bottom=lower, color=tint, label=f"critic, central {percent} %")
    axes.plot(
        left,
        fan.quantiles.mean(axis=1),
        color=PREDICTED,
        lw=1.2,
        marker="o",
        ms=4,
        mec="white",
        mew=0.6,
        label="critic, mean",
    )
    mean = fan.returns.mean(axis=1)
    lower, upper = np.percentile(fan.returns, [10, 90], axis=1)
    axes.vlines(right, lower, upper, color=OBSERVED, lw=1.4, label="Monte Carlo, 10–90 %")
    axes.plot(
        right, mean, color=OBSERVED, ls="none", marker="D", ms=4.5, mec="white", mew=0.6, label="Monte Carlo, mean"
    )
    axes.set_xticks(steps, fan.tokens, family="monospace", fontsize=9)
    axes.set_title(fan.title, loc="left", fontsize=10, family="monospace")
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
