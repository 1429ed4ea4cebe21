"""How far a critic's heads disagree, and whether that flags answers, as a module of `evaluate`."""

import evaluate
import torch

from modeling_dvpo.metrics import formats, states
from modeling_dvpo.metrics.scores import auc, head_disagreement

DESCRIPTION = """
How far the heads' means lie apart in a state (standard deviation over heads, in the reward's units), and whether that
tells flagged rows, such as wrong answers or prompts of another domain, from the others: the probability that a flagged
row has the larger disagreement (area under the ROC curve), ties counted half; ½ is chance. A constant and a scalar
critic have nothing that disagrees.
"""

INPUTS = """
Load with config_name "states" (the default) where a row is one state, with "responses" where it is a whole response.

Args:
    predictions: predicted quantiles of N heads. states: (N, M). responses: (T, N, M), its T states; T may differ from
        row to row, and a response's disagreement is the mean over its states.
    references: 1 for a flagged row, 0 for another.

Returns:
    head_disagreement: mean over all states of all rows.
    head_disagreement_flagged, head_disagreement_unflagged: mean over these rows; NaN where there are none.
    disagreement_auc: NaN where all rows are flagged or none is.
    head_disagreement_constant, disagreement_auc_constant: 0 and ½, of heads that agree.
    rows, states: how many.
"""

CITATION = """@inproceedings{lakshminarayanan2017simple,
    title={Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles},
    author={Lakshminarayanan, Balaji and Pritzel, Alexander and Blundell, Charles},
    booktitle={Advances in Neural Information Processing Systems},
    volume={30},
    year={2017}
}
"""


class EnsembleDisagreement(evaluate.Metric):
    def _info(self):
        deep = {"states": 2, "responses": 3}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=formats.formats((deep[formats.row_kind(self.config_name)],), (0,)),
        )

    def _compute(self, predictions, references):
        read = states.read_states(predictions, None, formats.row_kind(self.config_name))
        if read.quantiles.shape[1] < 2:
            raise ValueError("predictions have one head, which has nothing to disagree with; 2 at least are needed.")
        flags = torch.tensor(references, dtype=torch.float64)
        of_states = head_disagreement(read.quantiles)
        of_rows = torch.stack([row.mean() for row in read.rows(of_states)])
        return {
            "head_disagreement": of_states.mean().item(),
            "head_disagreement_flagged": of_rows[flags == 1].mean().item(),
            "head_disagreement_unflagged": of_rows[flags == 0].mean().item(),
            "head_disagreement_constant": 0.0,
            "disagreement_auc": auc(of_rows, flags),
            "disagreement_auc_constant": auc(torch.zeros_like(of_rows), flags),
            "rows": len(flags),
            "states": len(of_states),
        }
