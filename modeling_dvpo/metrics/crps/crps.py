"""Continuous ranked probability score of predicted return distributions, as a module of `evaluate`."""

import evaluate

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.scores import crps

DESCRIPTION = """
How far predicted distributions are from the returns: ∫ (F(x) − 1{y ≤ x})² dx of the M quantiles as equally weighted
atoms, exact for the distribution of these atoms; in the reward's units, lower is better. A scalar critic's is its mean
absolute error, or, where returns take two values, that of the distribution of two points whose mean it is. For one
return a state it stays above 0 even for a perfect critic: compare critics with each other.
"""

RETURNS = """
Returns:
    crps: mean over all states of all rows, each state counted once.
    crps_constant: of the constant baseline; constant_from: what its quantiles are taken from.
    crps_scalar: of the scalar critic, where scalar_values are given.
    states: how many.
"""

CITATION = """@article{gneiting2007strictly,
    title={Strictly Proper Scoring Rules, Prediction, and Estimation},
    author={Gneiting, Tilmann and Raftery, Adrian E.},
    journal={Journal of the American Statistical Association},
    volume={102},
    number={477},
    pages={359--378},
    year={2007}
}
"""


class Crps(evaluate.Metric):
    def _info(self):
        shapes = {"states": ((1, 2), (0, 1)), "responses": ((2, 3), (0, 1, 2))}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=formats.INPUTS + formats.TRAINING_RETURNS + formats.SCALAR_VALUES + RETURNS,
            features=formats.formats(*shapes[formats.row_kind(self.config_name)]),
        )

    def _compute(self, predictions, references, *, training_returns=None, scalar_values=None):
        kind = formats.row_kind(self.config_name)
        read = states.read_states(predictions, references, kind)
        scalar = None if scalar_values is None else baselines.scalar_critic(read, scalar_values, kind)
        return baselines.mean_scores("crps", crps, read, training_returns=training_returns, scalar=scalar)
