"""Whether a critic puts the better of two completions in front, as a module of `evaluate`."""

import datasets
import evaluate
import torch

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.ranking import pairs_in_order
from modeling_dvpo.metrics.resampling import bootstrap_interval

DESCRIPTION = """
Of two completions of one prompt, or two continuations of one state, does the better one have the higher value? The
share of pairs (i, j) of one group with (reference_i − reference_j)(value_i − value_j) > 0: 1 is perfect, ½ chance and
what any constant gets. Pairs with equal references are left out, equal values count half. Values of different prompts
are never compared, so that nothing is gained by knowing how hard a prompt is; all pairs count alike. With references
of 0 and 1 it is the area under the ROC curve within prompts.
"""

INPUTS = """
Load with config_name "states" (the default) where a row is one state, with "responses" where it is a whole response.

Args:
    predictions: states: the value, a number, or (M,) quantiles or (N, M) of N heads. responses: (T,), (T, M) or
        (T, N, M) of a response's states in order, of which the last is taken: the one before the last token.
    references: a number a row: what was returned, or a better estimate of the true value.
    groups: a text or whole number a row; rows of one group are compared: completions of one prompt.
    confidence: of the interval; 0.95 by default.
    scalar_values: a scalar critic's values for all rows in the order in which they were added: a number for each
        state; for responses, T of them a row.

Returns:
    ranking_accuracy: NaN where there are no pairs.
    ranking_accuracy_interval: what holds 95 % of bootstrap samples of the groups, [low, high].
    ranking_accuracy_constant: ½, whatever the constant.
    ranking_accuracy_scalar: of the scalar critic, where scalar_values are given.
    pairs, groups, rows: how many; of groups those that have a pair.
"""

CITATION = """@article{kazemnejad2024vineppo,
    title={{VinePPO}: Refining Credit Assignment in {RL} Training of {LLM}s},
    author={Kazemnejad, Amirhossein and Aghajohari, Milad and Portelance, Eva and Sordoni, Alessandro and Reddy, Siva
        and Courville, Aaron and Le Roux, Nicolas},
    journal={arXiv preprint arXiv:2410.01679},
    year={2024}
}
"""


class RankingAccuracy(evaluate.Metric):
    def _info(self):
        shapes = {"states": ((0, 1, 2), (0,)), "responses": ((1, 2, 3), (0,))}
        rows = formats.formats(*shapes[formats.row_kind(self.config_name)])
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[datasets.Features({**row, "groups": datasets.Value("string")}) for row in rows],
        )

    def _compute(self, predictions, references, groups, *, confidence=0.95, scalar_values=None):
        kind = formats.row_kind(self.config_name)
        read = states.read_states(predictions, None, kind)
        truths = torch.from_numpy(states.read_row(references, 0, "references", "responses", (0,)))
        # by their names: the interval's resamples, too, do not depend on the order of rows
        place = {group: number for number, group in enumerate(sorted(set(groups)))}
        numbers = torch.tensor([place[group] for group in groups])
        ends = torch.tensor(read.lengths).cumsum(0) - 1
        values = read.ensemble.mean(-1)[ends]
        critics = {"": values, "_constant": torch.zeros_like(values)}
        if scalar_values is not None:
            critics["_scalar"] = baselines.scalar_critic(read, scalar_values, kind)[ends, 0]
        found = {name: pairs_in_order(of_critic, truths, numbers) for name, of_critic in critics.items()}
        report: dict = {f"ranking_accuracy{name}": pairs.accuracy() for name, pairs in found.items()}
        report["ranking_accuracy_interval"] = list(bootstrap_interval(*found[""], confidence=confidence))
        pairs = found[""].pairs
        return {**report, "pairs": int(pairs.sum()), "groups": int((pairs > 0).sum()), "rows": len(values)}
