"""Explained variance of returns by a critic's mean, as a module of `evaluate`."""

import evaluate
import torch

from modeling_dvpo.metrics import baselines, formats, states
from modeling_dvpo.metrics.ranking import group_numbers
from modeling_dvpo.metrics.scores import explained_variance, explained_variance_by_position
from modeling_dvpo.metrics.variance_split import variance_split

DESCRIPTION = """
How much of the variation of returns a critic's mean explains: 1 − Var(return − value) / Var(return) over all states of
all rows at once, which is not the mean of per-batch figures. 1 is perfect, 0 what any constant gets, negative worse. A
constant offset is not an error here. With responses as rows, also by how far into the response a state is; with
groups, also of the groups' means and of what is left, which is what a critic knows beyond how hard a prompt is.
"""

ARGUMENTS = """\
    predictions may also be the values themselves: a number a state, (T,) a response.
    bins: equal parts of a response; 10 by default. Responses only.
    groups: a text or number for each row in the order in which rows were added: which prompt it answers.
"""

RETURNS = """
Returns:
    explained_variance: NaN where the returns do not vary.
    explained_variance_constant: 0, whatever the constant.
    explained_variance_scalar: of the scalar critic, where scalar_values are given.
    by_position: with responses, for each part: from, to, states (how many), explained_variance and
        explained_variance_scalar, within the part alone. A response's first state is at 0, its last at 1.
    explained_variance_between: with groups, of the means over a group's states; NaN where they do not vary.
    explained_variance_within: with groups, of what is left of returns and values without these means; 0 for any
        function of the group; NaN where returns do not vary within any group.
    variance_within: with groups, the share s of the returns' variance that is within groups; explained_variance is
        (1 − s) · explained_variance_between + s · explained_variance_within. The other two also with _scalar.
    states: how many.
"""

CITATION = formats.DVPO


class ExplainedVariance(evaluate.Metric):
    def _info(self):
        shapes = {"states": ((0, 1, 2), (0, 1)), "responses": ((1, 2, 3), (0, 1, 2))}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=formats.INPUTS + ARGUMENTS + formats.SCALAR_VALUES + RETURNS,
            features=formats.formats(*shapes[formats.row_kind(self.config_name)]),
        )

    def _compute(self, predictions, references, *, scalar_values=None, bins=10, groups=None):
        kind = formats.row_kind(self.config_name)
        read = states.read_states(predictions, references, kind)
        returns = read.mean_returns
        critics = {"": read.ensemble.mean(-1), "_constant": torch.zeros_like(returns)}
        if scalar_values is not None:
            critics["_scalar"] = baselines.scalar_critic(read, scalar_values, kind)[:, 0]
        report = {f"explained_variance{name}": explained_variance(values, returns) for name, values in critics.items()}
        del critics["_constant"]
        if groups is not None:
            if len(groups) != len(read.lengths):
                raise ValueError(f"groups has {len(groups)} rows and predictions {len(read.lengths)}: give as many.")
            numbers = group_numbers(groups).repeat_interleave(torch.tensor(read.lengths))
            for name, values in critics.items():
                split = variance_split(values, returns, numbers)
                share = split.pop("variance_within")
                report |= {f"{part}{name}": figure for part, figure in split.items()} | {"variance_within": share}
        if kind == "responses":
            report["by_position"] = _by_position(read, critics, returns, bins)
        return {**report, "states": len(returns)}


def _by_position(read, critics, returns, bins):
    tables = {
        name: explained_variance_by_position(read.rows(values), read.rows(returns), bins)
        for name, values in critics.items()
    }
    for name, table in tables.items():
        for part, of_critic in zip(tables[""], table, strict=True):
            part[f"explained_variance{name}"] = of_critic["explained_variance"]
    return tables[""]
