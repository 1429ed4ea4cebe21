"""Pinball loss of predicted quantiles, as a module of `evaluate`."""

import evaluate

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.scores import pinball_loss

DESCRIPTION = """
How far each predicted quantile is from its place: the mean over levels of ρ_τ(y − q), ρ_τ(u) = u (τ − 1{u < 0}), which
is lowest where q is the τ-quantile of the returns; in the reward's units, lower is better. Each quantile is taken at
its own level, so crossings cost; without crossings it is half the CRPS. A scalar critic's is half its mean absolute
error, or, where returns take two values, that of the distribution of two points whose mean it is.
"""

RETURNS = """
Returns:
    pinball: mean over all states of all rows, each state counted once.
    pinball_constant: of the constant baseline; constant_from: what its quantiles are taken from.
    pinball_scalar: of the scalar critic, where scalar_values are given.
    states: how many.
"""

CITATION = """@article{koenker1978regression,
    title={Regression Quantiles},
    author={Koenker, Roger and Bassett, Gilbert},
    journal={Econometrica},
    volume={46},
    number={1},
    pages={33--50},
    year={1978}
}
"""


class Pinball(evaluate.Metric):
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
        return baselines.mean_scores("pinball", pinball_loss, read, training_returns=training_returns, scalar=scalar)
