"""A set that critics are held against: states, and the returns that followed them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modeling_dvpo.metrics.ranking import group_numbers
from modeling_dvpo.metrics.scores import position_bins

from ..algorithms.targets import dataset_returns
from ..data.reward_sets import LIKELIHOOD
from .arguments import NamedSet

LENGTH = "tokens"
LENGTH_BINS = 3


@dataclass(kw_only=True)
class EvaluationSet:
    """R responses, S states in the order of their responses, K returns a state.

    Attributes:
        named: name, source, kind of truth and domain.
        rows: (R,) dicts with `input_ids` and `completion_mask`, which is true at the tokens before which a state is.
        returns: (S,), the return that followed, or (S, K), returns of continuations.
        states: (R,) number of states of each response: all of them, or one.
        actions: (R,) action tokens of each response.
        steps: (S,) how many action tokens of its response each state has seen.
        rewards: (R,) sum of each response's rewards.
        prompts: (R,) equal for equal prompts.
        labels: subset column -> (R,) labels.
    """

    named: NamedSet
    rows: Sequence[dict]
    returns: Tensor
    states: Tensor
    actions: Tensor
    steps: Tensor
    rewards: Tensor
    prompts: list
    labels: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        self.labels = {LENGTH: length_labels(self.actions), **self.labels}

    @property
    def row_of_state(self) -> Tensor:
        """(S,) place of each state's response."""
        return torch.arange(len(self.states)).repeat_interleave(self.states)

    @property
    def has_several(self) -> bool:
        """Whether these are whole responses, several of them to one prompt."""
        return self.returns.dim() == 1 and len(set(self.prompts)) < len(self.prompts)

    def positions(self, bins: int) -> Tensor:
        """(S,) which of `bins` equal parts of its response each state is in; see `position_bins`."""
        first = self.actions.cumsum(0) - self.actions
        return position_bins(self.actions.tolist(), bins)[first[self.row_of_state] + self.steps]

    def unit_of_state(self) -> Tensor:
        """(S,) number of each state's prompt: states of one prompt are not independent."""
        return group_numbers(self.prompts)[self.row_of_state]

    def right(self, above: float | None) -> Tensor | None:
        """(R,) whether each response's reward is above this; by default above the midpoint of the two there are.

        None where there are more than two, and nobody said which is right; or all would be alike.
        """
        if above is None:
            distinct = self.rewards.unique()
            if len(distinct) != 2:
                return None
            above = distinct.mean().item()
        right = self.rewards > above
        return right if right.any() and not right.all() else None


def reward_set(named: NamedSet, rows, gamma: float, subset_column: str | None) -> EvaluationSet:
    """Of tokenised rows of a reward set: a state before every action token, and the return that followed it."""
    columns = rows.with_format("numpy")
    actions = torch.tensor([int(np.sum(mask)) for mask in columns["completion_mask"]])
    return EvaluationSet(
        named=named,
        rows=rows,
        returns=dataset_returns(rows, gamma),
        states=actions,
        actions=actions,
        steps=torch.cat([torch.arange(count) for count in actions.tolist()]),
        rewards=torch.tensor([float(np.sum(rewards)) for rewards in columns["rewards"]]),
        prompts=rows["prompt_id"][:],
        labels={subset_column: [str(label) for label in rows["subset"]]} if subset_column else {},
    )


def recorded_likelihood(data: EvaluationSet) -> Tensor | None:
    """(R,) what the set itself says of each response's log-probability; None where it does not, or not of all."""
    if LIKELIHOOD not in data.rows[0]:
        return None
    found = torch.tensor([row[LIKELIHOOD] for row in data.rows], dtype=torch.float64)
    return None if found.isnan().any() else found


def response_texts(rows: Sequence[dict], tokenizer) -> list[str]:
    """Each response as text, without special tokens."""
    actions = [[t for t, own in zip(row["input_ids"], row["completion_mask"], strict=True) if own] for row in rows]
    return tokenizer.batch_decode(actions, skip_special_tokens=True)


def length_labels(actions: Tensor) -> list[str]:
    """Thirds of the responses by length, as ranges of action tokens; fewer where lengths are few."""
    ordered = actions.sort().values
    upper = [ordered[len(ordered) * part // LENGTH_BINS - 1].item() for part in range(1, LENGTH_BINS + 1)]
    upper = sorted({edge for edge in upper if edge >= ordered[0]})
    place = torch.searchsorted(torch.tensor(upper), actions)
    names = {}
    for number in range(len(upper)):
        inside = actions[place == number]
        least, most = inside.min().item(), inside.max().item()
        names[number] = f"{least}-{most}" if least < most else f"{least}"
    return [names[number] for number in place.tolist()]
