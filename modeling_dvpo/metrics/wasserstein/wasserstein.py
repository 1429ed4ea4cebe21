"""Wasserstein-1 distance to Monte-Carlo return distributions, as a module of `evaluate`."""

import evaluate

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.scores import wasserstein_1

DESCRIPTION = """
How far a predicted distribution is from the returns of K continuations of its state: ∫ |F⁻¹(u) − G⁻¹(u)| du, exact for
any M and K, in the reward's units; lower is better. K samples of a perfectly known distribution are themselves some
way from it, of order 1/√K: compare critics at the same K. A scalar critic predicts no distribution and has no figure.
"""

RETURNS = """
Returns:
    wasserstein_1: mean over all states of all rows, each state counted once.
    wasserstein_1_constant: of the constant baseline; constant_from: what its quantiles are taken from.
    states: how many.
"""

CITATION = """@article{vallender1974calculation,
    title={Calculation of the {W}asserstein Distance Between Probability Distributions on the Line},
    author={Vallender, S. S.},
    journal={Theory of Probability and Its Applications},
    volume={18},
    number={4},
    pages={784--786},
    year={1974}
}
"""


class Wasserstein(evaluate.Metric):
    def _info(self):
        shapes = {"states": ((1, 2), (1,)), "responses": ((2, 3), (2,))}
        inputs = formats.INPUTS.replace("a number, or K Monte-Carlo", "K ≥ 2 Monte-Carlo")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=inputs + formats.TRAINING_RETURNS + RETURNS,
            features=formats.formats(*shapes[formats.row_kind(self.config_name)]),
        )

    def _compute(self, predictions, references, *, training_returns=None):
        read = states.read_states(predictions, references, formats.row_kind(self.config_name))
        if read.returns[0][1].shape[1] < 2:  # the smallest K comes first
            raise ValueError(
                "A state has one return, and a distance to a distribution needs several: give K Monte-Carlo returns "
                "of each state, or use crps, which one return suffices for."
            )
        return baselines.mean_scores("wasserstein_1", wasserstein_1, read, training_returns=training_returns)
