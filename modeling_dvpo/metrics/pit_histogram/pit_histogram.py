"""Histogram of the probability integral transform and reliability curve, as a module of `evaluate`."""

import evaluate
import torch

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.calibration import (
    distance_from_uniform,
    pit_bounds,
    pit_distribution,
    pit_shares,
    pit_slope,
)

DESCRIPTION = """
Where in its predicted distribution each return falls: F(y), uniform on [0, 1] for a calibrated critic. High at both
ends: too narrow; high in the middle: too wide; rising: the predictions are too low. A discrete return that meets
several predicted quantiles is spread evenly over their probability; usually at random, here by the expected histogram
over that randomisation, which is exact and needs no random numbers. A scalar critic has no distribution to look in.
"""

ARGUMENTS = """\
    bins: of equal width; 10 by default.
    levels: of the reliability curve; (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95) by default.
    tolerance: a quantile within this distance of a return meets it. By default a tenth of the smallest gap between
        returns where they take at most 32 distinct values, and 0 otherwise.
"""

RETURNS = """
Returns:
    pit_histogram: the share of returns in each bin, each state counted once.
    pit_ks: largest distance of the distribution function from the uniform one (Kolmogorov-Smirnov); of order 1/√R
        even for a calibrated critic, R rows being a sample.
    reliability: for each level, which share of returns lies at or below the predicted quantile of that level.
    pit_histogram_constant, pit_ks_constant: of the constant baseline; constant_from: what its quantiles are from.
    tolerance: the one used; states: how many.
"""

CITATION = """@article{czado2009predictive,
    title={Predictive Model Assessment for Count Data},
    author={Czado, Claudia and Gneiting, Tilmann and Held, Leonhard},
    journal={Biometrics},
    volume={65},
    number={4},
    pages={1254--1261},
    year={2009}
}
"""


class PitHistogram(evaluate.Metric):
    def _info(self):
        shapes = {"states": ((1, 2), (0, 1)), "responses": ((2, 3), (0, 1, 2))}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=formats.INPUTS + formats.TRAINING_RETURNS + ARGUMENTS + RETURNS,
            features=formats.formats(*shapes[formats.row_kind(self.config_name)]),
        )

    def _compute(
        self,
        predictions,
        references,
        *,
        training_returns=None,
        bins=10,
        levels=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
        tolerance=None,
    ):
        if bins < 1 or any(not 0.0 < level < 1.0 for level in levels):
            raise ValueError(f"bins is {bins} and levels {list(levels)}: at least 1, and shares between 0 and 1.")
        read = states.read_states(predictions, references, formats.row_kind(self.config_name))
        read.require_distributions()
        tolerance = read.tolerance(tolerance)
        constant, source = baselines.constant_critic(read, training_returns)
        report: dict = {}
        for suffix, quantiles in (("", read.ensemble), ("_constant", constant)):
            slope = _slope(read, quantiles, tolerance)
            report[f"pit_histogram{suffix}"] = pit_shares(slope, len(quantiles), bins).tolist()
            report[f"pit_ks{suffix}"] = distance_from_uniform(slope, len(quantiles))
            if not suffix:
                observed = pit_distribution(slope, len(quantiles), torch.tensor(levels, dtype=torch.float64)).tolist()
                pairs = zip(levels, observed, strict=True)
                report["reliability"] = [{"level": level, "observed": share} for level, share in pairs]
        return {**report, "constant_from": source, "tolerance": tolerance, "states": len(constant)}


def _slope(read, quantiles, tolerance):
    """`pit_slope` of all states, each of which counts once, however many returns it has."""
    num_quantiles = quantiles.shape[-1]
    return sum(
        pit_slope(*pit_bounds(quantiles[places], returns, tolerance), num_quantiles) / returns.shape[1]
        for places, returns in read.returns
    )
