"""The tables of a critic's card, as rows of what the facts hold; an empty table is not printed."""

from typing import NamedTuple

from modeling_dvpo.critic.losses import TERMS

from .evaluation import COVERAGES, METRICS, EvaluatedSet, Metric
from .facts import CriticFacts
from .runs import Table, evaluations, logged_loss_terms, updates

WHO = {"critic": "this critic", "constant": "constant", "scalar": "scalar critic"}
SUBSET_METRICS = ("explained_variance", "ranking_accuracy", "crps", "coverage_80")
# what figures show, and in which part of the card; one that this version does not know is shown with the results
CAPTIONS = {
    "by_position": ("results", "what the value knows, by share of the response read"),
    "explained_variance": ("results", "explained variance, by set and predictor"),
    "best_of_n": ("results", "mean reward of the response chosen among n, by who chooses"),
    "reliability": ("calibration", "observed against predicted levels"),
    "pit": ("calibration", "histogram of the levels at which returns fell: flat is calibrated"),
    "coverage": ("calibration", "share of returns inside central intervals"),
    "loss_terms": ("loss", "weighted terms of the loss"),
}
# what a critic that learnt beside its policy logs at every step
ONLINE_COLUMNS = {
    "critic/loss": "loss",
    "critic/explained_variance": METRICS["explained_variance"].label,
    "critic/crps": METRICS["crps"].label,
    "critic/coverage_80": METRICS["coverage_80"].label,
    "reward": "mean reward",
}
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


class Scores(NamedTuple):
    """Metrics by who made the prediction, each with its interval; what was not measured is None."""

    columns: list[str]
    rows: list[tuple[Metric, str, list[tuple[float | None, list[float] | None]]]]


def scores(metrics: dict[str, dict[str, float]], intervals: dict[str, dict[str, list[float]]]) -> Scores:
    """A set's metrics, one row each: label, arrow to the better side, numbers of `columns`."""
    who = [name for name in WHO if name in metrics]
    rows = [
        (
            metric,
            ARROWS[metric.better],
            [(metrics[name].get(key), intervals.get(name, {}).get(key)) for name in who],
        )
        for key, metric in METRICS.items()
        if any(key in metrics[name] for name in who)
    ]
    return Scores([WHO[name] for name in who], rows)


def held_out_scores(held_out: dict[str, float]) -> Scores:
    """`scores` of what training kept, where an interval's ends are numbers of their own."""
    ends = [held_out[end] for end in ("ranking_accuracy_low", "ranking_accuracy_high") if end in held_out]
    return scores({"critic": held_out}, {"critic": {"ranking_accuracy": ends}} if len(ends) == 2 else {})


def calibration(sets: list[EvaluatedSet]) -> list[tuple[int, list[tuple[float | None, list[float] | None]]]]:
    """Rows: interval in percent, then of each set the share of returns inside and its 95 % interval."""
    return [
        (
            percent,
            [
                (one.metrics.get("critic", {}).get(f"coverage_{percent}"), one.coverage_interval.get(str(percent)))
                for one in sets
            ],
        )
        for percent in COVERAGES
        if any(f"coverage_{percent}" in one.metrics.get("critic", {}) for one in sets)
    ]


def subsets(one: EvaluatedSet) -> tuple[list[str], list[tuple[str, int | None, list[float | None]]]]:
    """Headings, and rows: "column=value", number of rows, metrics."""
    keys = [key for key in SUBSET_METRICS if any(key in part["metrics"] for part in one.subsets.values())]
    rows = [
        (name, part["rows"], [part["metrics"].get(key) for key in keys])
        for name, part in one.subsets.items()
        if any(key in part["metrics"] for key in keys)
    ]
    return [METRICS[key].label for key in keys], rows


def figures(facts: CriticFacts, part: str) -> list[tuple[str, str]]:
    """(caption, file name) of the figures that belong to this part of the card."""
    found = facts.evaluation.figures if facts.evaluation else {}
    described = {name: CAPTIONS.get(name, ("results", name.replace("_", " "))) for name in found}
    return [(caption, found[name].name) for name, (where, caption) in described.items() if where == part]


def loss_terms(facts: CriticFacts) -> tuple[str | None, list[tuple[str, float, float | None]]]:
    """Where the sizes were measured, and rows: term, weight, size; terms that were off are left out.

    Sizes are of the evaluation's first set that has them, else means over the last logged training steps.
    """
    measured: dict[str, float] = {}
    where = None
    # an evaluation's terms are of quantiles
    for one in facts.evaluation.sets if facts.evaluation and not facts.has_atoms else []:
        if one.loss_terms and not measured:
            measured, where = one.loss_terms, f"on the set “{one.name}”"
    if not measured and facts.history:
        measured = logged_loss_terms(facts.history, "critic/" if facts.online else "")
        where = "mean over the last ten logged training steps"
    # of a scalar critic only these two exist
    exist = TERMS if facts.num_quantiles > 1 else ("quantile", "consistency")
    weights = {"cross_entropy": 1.0} if facts.has_atoms else {term: facts.loss.get(term) for term in exist}
    rows = [(term, weight, measured.get(term)) for term, weight in weights.items() if weight]
    return where if any(size is not None for *_, size in rows) else None, rows


def training(facts: CriticFacts) -> Table | None:
    """The run by step: held-out metrics where there are some, else what single steps logged."""
    if not facts.history:
        return None
    if facts.online:
        return updates(facts.history, ONLINE_COLUMNS, facts.step)
    return evaluations(facts.history, facts.step)
