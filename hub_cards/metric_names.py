"""The critic's metrics as a card shows them; their keys are those of `CriticReport.compute()` and evaluation.json."""

from typing import NamedTuple


class Metric(NamedTuple):
    label: str
    better: str | None  # "higher", "lower", or None where neither is
    meaning: str


METRICS = {
    "explained_variance": Metric("explained variance", "higher", "share of the returns' variance that values explain"),
    "bias": Metric("bias", None, "mean of value − return; 0 is best"),
    "mae": Metric("mean absolute error", "lower", "mean of |value − return|"),
    "crps": Metric("CRPS", "lower", "error of the whole distribution; of a single number, its mean absolute error"),
    "pinball": Metric("pinball loss", "lower", "error of the quantiles, mean over levels"),
    "wasserstein_1": Metric("Wasserstein-1", "lower", "distance to the distribution of the true continuations"),
    "pit_ks": Metric("PIT distance", "lower", "largest gap between predicted and observed levels; 0 is calibrated"),
    "coverage_50": Metric("50 % interval covers", None, "share of returns inside; .5 is calibrated"),
    "coverage_80": Metric("80 % interval covers", None, "share of returns inside; .8 is calibrated"),
    "coverage_90": Metric("90 % interval covers", None, "share of returns inside; .9 is calibrated"),
    "crossing_rate": Metric("crossing rate", "lower", "share of neighbouring quantiles of a head in the wrong order"),
    "sd": Metric("predicted standard deviation", None, "mean over states"),
    "head_disagreement": Metric("head disagreement", None, "standard deviation over heads of their means"),
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
