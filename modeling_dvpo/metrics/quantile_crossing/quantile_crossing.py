"""How often predicted quantiles cross, as a module of `evaluate`."""

import evaluate

from modeling_dvpo.metrics import formats, states
from modeling_dvpo.metrics.scores import crossing_rate

DESCRIPTION = """
Which share of adjacent predicted quantiles is out of order: 0 for a distribution, about a half for noise. Of each head
for itself, since the mean over heads hides crossings. A constant has none, and a scalar critic no quantiles to cross.
"""

INPUTS = """
Load with config_name "states" (the default) where a row is one state, with "responses" where it is a whole response.

Args:
    predictions: predicted quantiles in the order of their levels. states: (M,) of a critic, or (N, M) of its N heads.
        responses: (T, M) or (T, N, M), its T states; T may differ from row to row.

Returns:
    crossing_rate: over all pairs of all heads, states and rows.
    crossing_rate_constant: 0, of sorted quantiles.
    states: how many.
"""

CITATION = """@article{chernozhukov2010quantile,
    title={Quantile and Probability Curves Without Crossing},
    author={Chernozhukov, Victor and Fern{\\'a}ndez-Val, Iv{\\'a}n and Galichon, Alfred},
    journal={Econometrica},
    volume={78},
    number={3},
    pages={1093--1125},
    year={2010}
}
"""


class QuantileCrossing(evaluate.Metric):
    def _info(self):
        shapes = {"states": (1, 2), "responses": (2, 3)}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=formats.formats(shapes[formats.row_kind(self.config_name)]),
        )

    def _infer_feature_from_example(self, example):
        # evaluate's own message for rows that fit no format looks for references, which this metric has not
        try:
            return super()._infer_feature_from_example(example)
        except KeyError:
            raise ValueError(
                f"predictions don't match the expected format. Expected one of {self.features}, got "
                f"{str(example['predictions'])[:80]}."
            ) from None

    def _compute(self, predictions):
        read = states.read_states(predictions, None, formats.row_kind(self.config_name))
        read.require_distributions()
        return {
            "crossing_rate": crossing_rate(read.quantiles),
            "crossing_rate_constant": 0.0,
            "states": len(read.quantiles),
        }
