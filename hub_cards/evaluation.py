"""`evaluation.json`, what `evaluate_critic.py` measured, the figures beside it, and how a card shows each metric."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modeling_dvpo.digests import other_files

from .errors import CardError
from .origins import Origin, origin_of, read_object

FILE = "evaluation.json"
FORMAT = 1


class Metric(NamedTuple):
    """A metric as a card shows it."""

    label: str
    better: str | None  # "higher", "lower", or None where neither is
    meaning: str


# keys: those of `CriticReport.compute()` and evaluation.json
METRICS = {
    "explained_variance": Metric("explained variance", "higher", "share of the returns' variance that values explain"),
    "explained_variance_between": Metric(
        "explained variance between prompts", "higher", "of the prompts' mean returns: does it know how hard they are?"
    ),
    "explained_variance_within": Metric(
        "explained variance within a prompt",
        "higher",
        "of what is left: which responses are better, and where they turn",
    ),
    "variance_within": Metric("share of variance within prompts", None, "of the returns; the rest is between prompts"),
    "ranking_accuracy": Metric(
        "pairs in order", "higher", "of two responses to a prompt, is the better one's last value higher? .5 is chance"
    ),
    "bias": Metric("bias", None, "mean of value − return; 0 is best"),
    "mae": Metric("mean absolute error", "lower", "mean of |value − return|"),
    "crps": Metric(
        "CRPS", "lower", "error of the whole distribution; a single number of a two-valued reward says how often"
    ),
    "pinball": Metric("pinball loss", "lower", "error of the quantiles, mean over levels"),
    "wasserstein_1": Metric("Wasserstein-1", "lower", "distance to the distribution of the true continuations"),
    "pit_ks": Metric("PIT distance", "lower", "largest gap between predicted and observed levels; 0 is calibrated"),
    "coverage_50": Metric("50 % interval covers", None, "share of returns inside; .5 is calibrated"),
    "coverage_80": Metric("80 % interval covers", None, "share of returns inside; .8 is calibrated"),
    "coverage_90": Metric("90 % interval covers", None, "share of returns inside; .9 is calibrated"),
    "crossing_rate": Metric("crossing rate", "lower", "share of neighbouring quantiles of a head in the wrong order"),
    "sd": Metric("predicted standard deviation", None, "mean over states"),
    "head_disagreement": Metric("head disagreement", None, "standard deviation over heads of their means"),
    "value_auc_0": Metric(
        "AUC of the prompt alone", "higher", "what the value of the prompt gets: no response is read"
    ),
    **{
        f"value_auc_{percent}": Metric(
            f"AUC after {percent} %",
            "higher",
            f"does the value after {percent} % of a response tell right from wrong?",
        )
        for percent in (25, 50, 75, 100)
    },
}

COVERAGES = (50, 80, 90)


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """What was measured on one set; a metric that was not is in none of these.

    Attributes:
        metrics: "critic", "constant" or "scalar" -> metric -> number.
        intervals: "critic" or "scalar" -> metric -> its 95 % interval, over prompts.
        coverage_interval: "50", "80", "90" -> the 95 % interval of the coverage, counted by prompts.
        subsets: "column=value" -> {"rows", "metrics"}.
        loss_terms: term -> its size on this set, unweighted.
    """

    name: str
    domain: str | None
    dataset: Origin | None
    rows: int | None
    prompts: int | None
    states: int | None
    truth: str | None
    continuations: int | None
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, list[float]]]
    coverage_interval: dict[str, list[float]]
    subsets: dict[str, dict]
    loss_terms: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A whole evaluation.json.

    Attributes:
        figures: those that lie beside it, by what they show.
        constant_from: whose returns the constant baseline has; None: each set's own.
    """

    sets: list[EvaluatedSet]
    figures: dict[str, Path]
    constant_from: Origin | None
    file: Path


def read_evaluation(path, directory) -> Evaluation:
    """Read the file, or the one in the directory, at `path`.

    Args:
        directory: of the critic that the card is for.

    Raises:
        CardError: it cannot be read, is of another format, or measured other weights than lie in `directory`.
    """
    file, content = _load(path)
    _check_weights(content.get("critic_files") or {}, Path(directory), file)
    return Evaluation(
        sets=[_read_set(one, directory) for one in content.get("sets") or []],
        figures=_figures(content, file),
        constant_from=origin_of(content.get("constant_from"), directory),
        file=file,
    )


def card_files(evaluation) -> list[Path]:
    """The files that a card made with this evaluation refers to by their bare names: push them beside it.

    Args:
        evaluation: path of evaluation.json or of its directory.
    """
    file, content = _load(evaluation)
    return [file, *_figures(content, file).values()]


def finite(numbers: dict | None) -> dict[str, float]:
    """Without what was undefined: null in the file, or not a number."""
    return {
        name: value
        for name, value in (numbers or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _load(path) -> tuple[Path, dict]:
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CardError(f"There is no {file}: give the {FILE} that evaluate_critic.py wrote, or its directory.")
    content = read_object(file)
    if content.get("format") != FORMAT:
        raise CardError(f"{file} has format {content.get('format')!r}, and this version reads format {FORMAT}.")
    return file, content


def _check_weights(measured: dict, directory: Path, file: Path) -> None:
    """Whether the evaluation is of these very weights; one without digests is taken at its word."""
    if changed := other_files(measured, directory):
        raise CardError(
            f"{file} measured other weights than those in {directory}: {', '.join(changed)} differ or are missing. "
            "Evaluate this critic, or leave the evaluation out."
        )


def _read_set(one: dict, near: Path) -> EvaluatedSet:
    metrics = {who: finite(numbers) for who, numbers in (one.get("metrics") or {}).items()}
    subsets = {
        name: {"rows": subset.get("rows"), "metrics": finite((subset.get("metrics") or {}).get("critic"))}
        if "critic" in (subset.get("metrics") or {})
        else {"rows": subset.get("rows"), "metrics": finite(subset.get("metrics"))}
        for name, subset in (one.get("subsets") or {}).items()
    }
    return EvaluatedSet(
        name=str(one.get("name") or "held out"),
        domain=one.get("domain"),
        dataset=origin_of(one.get("dataset"), near),
        rows=one.get("rows"),
        prompts=one.get("prompts"),
        states=one.get("states"),
        truth=one.get("truth"),
        continuations=one.get("continuations"),
        metrics={who: numbers for who, numbers in metrics.items() if numbers},
        intervals=one.get("intervals") or {},
        coverage_interval=one.get("coverage_interval") or {},
        subsets={name: subset for name, subset in subsets.items() if subset["metrics"]},
        loss_terms=finite(one.get("loss_terms")),
    )


def _figures(content: dict, file: Path) -> dict[str, Path]:
    figures = {}
    for shows, name in (content.get("figures") or {}).items():
        if Path(name).name != name:
            raise CardError(f"{file} names the figure {name!r}; it must lie beside {FILE}, under its bare name.")
        if (file.parent / name).is_file():
            figures[shows] = file.parent / name
    return figures
