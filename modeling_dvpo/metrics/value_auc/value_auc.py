"""Whether a critic's value tells right responses from wrong ones before they end, as a module of `evaluate`."""

import evaluate
import torch

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.scores import value_auc

DESCRIPTION = """
Does the value after 0, 25, 50, 75 or 100 % of a response, before its last token, predict success? The probability that
a successful response has the higher value of two (area under the ROC curve), ties counted half: 1 is perfect, ½ chance
and what any constant gets. Values of different prompts are compared: a critic that knows only how hard the prompt is
gets some of it right, which the value at 0 % shows.
"""

INPUTS = """
Args:
    predictions: of each response, (T, M) quantiles or (T, N, M) of N heads of its states in order, or (T,) their
        values; T may differ from row to row. The first state is that before the first token, the last the one before
        the last token: leave the state after it out, where no critic is trained.
    references: 1 for a response that succeeded, 0 for one that did not.
    percents: whole numbers from 0 to 100; (0, 25, 50, 75, 100) by default. The state taken is the last one that has
        read no more than that share of the tokens.
    scalar_values: a scalar critic's values, T of them for each response, in the order in which rows were added.

Returns:
    value_auc_0, ...: NaN where all responses succeeded or none did.
    value_auc_0_constant, ...: ½, whatever the constant.
    value_auc_0_scalar, ...: of the scalar critic, where scalar_values are given.
    rows, successes: how many.
"""

CITATION = """@article{hanley1982meaning,
    title={The Meaning and Use of the Area Under a Receiver Operating Characteristic ({ROC}) Curve},
    author={Hanley, James A. and McNeil, Barbara J.},
    journal={Radiology},
    volume={143},
    number={1},
    pages={29--36},
    year={1982}
}
"""


class ValueAuc(evaluate.Metric):
    def _info(self):
        formats.row_kind(self.config_name, ["responses"])
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=formats.formats((1, 2, 3), (0,)),
        )

    def _compute(self, predictions, references, *, percents=(0, 25, 50, 75, 100), scalar_values=None):
        read = states.read_states(predictions, None, "responses")
        flags = torch.tensor(references, dtype=torch.float64)
        values = read.ensemble.mean(-1)
        critics = {"": values, "_constant": torch.zeros_like(values)}
        if scalar_values is not None:
            critics["_scalar"] = baselines.scalar_critic(read, scalar_values, "responses")[:, 0]
        report = {}
        for name, of_critic in critics.items():
            for percent, area in value_auc(read.rows(of_critic), flags, percents).items():
                report[f"value_auc_{percent}{name}"] = area
        return {**report, "rows": len(flags), "successes": int(flags.sum())}
