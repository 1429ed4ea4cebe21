"""Which rows a metric module takes, as the `evaluate` library wants to know it; everything in float64."""

from collections.abc import Sequence

import datasets

# What a row of a module is; the `config_name` of `evaluate.load`. A state's N heads of M quantiles and a response's T
# states of M quantiles look alike, so nothing but the caller can tell.
ROWS = ("states", "responses")


def row_kind(config_name: str, allowed: Sequence[str] = ROWS) -> str:
    """What `config_name` says a row is; the first of those allowed where it says nothing.

    Raises:
        ValueError: another name.
    """
    kind = allowed[0] if config_name == "default" else config_name
    if kind not in allowed:
        raise ValueError(f"A row of this metric may be one of {list(allowed)}, not {config_name!r}.")
    return kind


def formats(predictions: Sequence[int], references: Sequence[int] = ()) -> list[datasets.Features]:
    """Every combination of these numbers of dimensions of a row's predictions and of its references (if it has any).

    `evaluate` chooses by the first row; a number has no dimensions.
    """
    columns = [{"predictions": _numbers(deep)} for deep in predictions]
    if references:
        columns = [{**column, "references": _numbers(deep)} for column in columns for deep in references]
    return [datasets.Features(column) for column in columns]


def _numbers(dimensions: int):
    feature = datasets.Value("float64")
    for _ in range(dimensions):
        feature = datasets.List(feature)
    return feature


INPUTS = """
Load with config_name "states" (the default) where a row is one state, with "responses" where it is a whole response.

Args:
    predictions: predicted quantiles at the midpoint levels, in the reward's units. states: (M,) of a critic, or (N, M)
        of its N heads, whose mean over heads is scored. responses: (T, M) or (T, N, M), the T states of a response in
        order; T may differ from row to row.
    references: what was returned. states: a number, or K Monte-Carlo returns of the state, whose scores are averaged;
        K may differ. responses: one number, the return in all its states; (T,) of each state; or (T, K).
"""
TRAINING_RETURNS = """\
    training_returns: returns of the training set; their quantiles are the constant baseline. By default it is taken
        from the references themselves: the best constant in hindsight. `constant_from` in the result says which.
"""
SCALAR_VALUES = """\
    scalar_values: a scalar critic's values for all rows in the order in which they were added: a number for each
        state; for responses, T of them a row.
"""
DVPO = """@article{dvpo2025,
    title={DVPO: Distributional Value Modeling-based Policy Optimization for LLM Post-Training},
    journal={arXiv preprint arXiv:2512.03847},
    year={2025}
}
"""
