"""Coverage of central prediction intervals, as a module of `evaluate`."""

import evaluate

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.calibration import pit_bounds, share_inside, wilson_interval

DESCRIPTION = """
Which share of returns lies in the central interval that ought to hold 50, 80 or 90 % of them: calibrated is the mass
itself, less is overconfident, more is too cautious. Returns are often discrete, and then a return meets several
predicted quantiles; it counts with the part of their probability that is inside, so that a calibrated critic covers
what it should. Read it beside CRPS: a constant can be calibrated, too. A scalar critic has no intervals.
"""

ARGUMENTS = """\
    masses: of the intervals, each between 0 and 1; (0.5, 0.8, 0.9) by default.
    tolerance: a quantile within this distance of a return meets it. By default a tenth of the smallest gap between
        returns where they take at most 32 distinct values, and 0 otherwise.
    confidence: of the binomial intervals; 0.95 by default.
"""

RETURNS = """
Returns:
    coverage_50, coverage_80, ...: the share over all states of all rows, each state counted once.
    coverage_50_interval, ...: Wilson's interval [low, high] for it. It counts rows, not states or returns, since what
        follows one prompt or response is not independent.
    coverage_50_constant, ...: of the constant baseline; constant_from: what its quantiles are taken from.
    tolerance: the one used; rows, states: how many.
"""

CITATION = """@article{wilson1927probable,
    title={Probable Inference, the Law of Succession, and Statistical Inference},
    author={Wilson, Edwin B.},
    journal={Journal of the American Statistical Association},
    volume={22},
    number={158},
    pages={209--212},
    year={1927}
}
"""


class IntervalCoverage(evaluate.Metric):
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
        masses=(0.5, 0.8, 0.9),
        tolerance=None,
        confidence=0.95,
    ):
        if any(not 0.0 < mass < 1.0 for mass in masses):
            raise ValueError(f"masses are {list(masses)}; they are shares between 0 and 1.")
        read = states.read_states(predictions, references, formats.row_kind(self.config_name))
        read.require_distributions()
        tolerance = read.tolerance(tolerance)
        constant, source = baselines.constant_critic(read, training_returns)
        rows = len(read.lengths)
        report = {}
        for mass in masses:
            name = f"coverage_{round(100 * mass, 6):g}"
            report[name] = _coverage(read, read.ensemble, mass, tolerance)
            report[f"{name}_interval"] = list(wilson_interval(report[name] * rows, rows, confidence))
            report[f"{name}_constant"] = _coverage(read, constant, mass, tolerance)
        return {**report, "constant_from": source, "tolerance": tolerance, "rows": rows, "states": len(constant)}


def _coverage(read, quantiles, mass, tolerance):
    def inside(quantiles, returns):
        return share_inside(*pit_bounds(quantiles, returns, tolerance), mass, quantiles.shape[-1]).mean(-1)

    return read.each(inside, quantiles).mean().item()
