"""From rollouts to what is learnt from: rewards, rows every rank knows of, and micro-batches of this rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerState

from ..data.packing import RewardCollator
from ..engine.distributed import gather_lists
from ..errors import RewardDataError
from ..rewards.functions import call_reward_functions, combine_rewards
from ..rewards.logs import RewardLog, mean_metrics
from ..rewards.noise import corrupt
from .rollouts import Rollout

# float32 columns of a collated batch beside those of `RewardCollator`
TOKEN_COLUMNS = ("lengths", "advantages")


@dataclass(kw_only=True)
class Sample:
    """A scored rollout, small enough for every rank to hold all of a step's.

    Attributes:
        sample_id: number over the whole run, the same for any number of ranks.
        group: place of its prompt in the step; completions of one prompt share it.
        input_ids, completion_mask, truncated, num_turns: the rollout's.
        reward: what is trained on, noise included.
        rewards: by reward function, without noise; None where a function does not apply.
        prompt, completion: as text, for people to read.
        extra: what reward functions logged of it, for people to read.
        advantage: of the whole completion, where the algorithm has one.
    """

    sample_id: int
    group: int
    input_ids: list[int]
    completion_mask: list[bool]
    truncated: bool
    num_turns: int
    reward: float
    rewards: dict[str, float | None]
    prompt: str
    completion: str
    extra: dict[str, Any] = field(default_factory=dict)
    advantage: float = 0.0

    @property
    def num_actions(self) -> int:
        return sum(self.completion_mask)


class Scorer:
    """Reward functions, their weights and the noise on their sum.

    Args:
        functions: by name; see `rewards.functions`.
        weights: one per function; 1 by default.
        noises: corruptions of the sum, in turn; evaluation calls with none.

    Attributes:
        trainer_state: what the functions are told of how far the run is; whoever trains keeps it up to date.
    """

    def __init__(self, functions: dict, weights: Sequence[float], noises: Sequence):
        self.functions, self.weights, self.noises = functions, list(weights) or [1.0] * len(functions), noises
        self.trainer_state = TrainerState()
        self._metrics: list[tuple[str, float]] = []

    def take_metrics(self) -> dict[str, float]:
        """Means of what the functions logged since the last call, over all ranks; every rank must call it."""
        own, self._metrics = self._metrics, []
        return mean_metrics(gather_lists(own))

    def __call__(
        self, rollouts: Sequence[Rollout], groups: Sequence[int], sample_ids: Sequence[int], *, noise: bool = True
    ) -> list[Sample]:
        """Score a rank's rollouts; raises `RewardDataError` where a function answers wrongly or none answers."""
        if not rollouts:
            return []
        completions = [rollout.completion for rollout in rollouts]
        completion_ids = [rollout.completion_ids for rollout in rollouts]
        log = RewardLog(len(rollouts))
        parts = call_reward_functions(
            list(self.functions.values()),
            prompts=[rollout.prompt.prompt for rollout in rollouts],
            completions=completions,
            completion_ids=completion_ids,
            columns={
                name: [rollout.prompt.columns.get(name) for rollout in rollouts] for name in rollouts[0].prompt.columns
            },
            row_ids=sample_ids,
            trainer_state=self.trainer_state,
            log=log,
        )
        self._metrics += log.metrics
        totals = _all_scored(combine_rewards(parts, self.weights, sample_ids), sample_ids)
        if noise:
            totals = corrupt(
                totals,
                self.noises,
                completions=completions,
                completion_ids=completion_ids,
                group_ids=list(groups),
                sample_ids=list(sample_ids),
            )
        return [
            Sample(
                sample_id=sample_ids[i],
                group=groups[i],
                input_ids=rollout.input_ids,
                completion_mask=rollout.completion_mask,
                truncated=rollout.truncated,
                num_turns=rollout.num_turns,
                reward=totals[i],
                rewards=dict(zip(self.functions, (part[i] for part in parts), strict=True)),
                prompt=as_text(rollout.prompt.prompt),
                completion=as_text(rollout.completion),
                extra={name: values[i] for name, values in log.columns.items()},
            )
            for i, rollout in enumerate(rollouts)
        ]


def _all_scored(totals: Sequence[float | None], sample_ids) -> list[float]:
    missing = [sample for sample, total in zip(sample_ids, totals, strict=True) if total is None]
    if missing:
        raise RewardDataError(
            f"{len(missing)} of {len(totals)} completions were scored by no reward function (sample {missing[0]} "
            "first): add a function that covers them."
        )
    return [total for total in totals if total is not None]


def as_text(part: str | list) -> str:
    """Text as it is, a chat with one line a message."""
    return part if isinstance(part, str) else "\n".join(f"{m['role']}: {m.get('content')}" for m in part)


class SampleCollator:
    """Lays samples out as `RewardCollator` does, with two further columns, `(1, L)` or `(B, T)` float32:

        lengths     action tokens of the token's completion, at action tokens
        advantages  of the completion, at action tokens

    The reward stands on the last action token. With `drop_truncated_rewards` a truncated completion has none, since
    the critic's value after its last token takes the reward's place.
    """

    def __init__(self, collate: RewardCollator, *, drop_truncated_rewards: bool):
        self.collate, self.drop_truncated_rewards = collate, drop_truncated_rewards

    def __call__(self, samples: Sequence[Sample], *, filler: bool = False) -> dict[str, torch.Tensor]:
        return self.collate([self._row(sample) for sample in samples], filler=filler)

    def _row(self, sample: Sample) -> dict:
        mask = torch.tensor(sample.completion_mask)
        rewards = torch.zeros(len(mask))
        if not (self.drop_truncated_rewards and sample.truncated):
            rewards[mask.nonzero()[-1]] = sample.reward
        return {
            "input_ids": sample.input_ids,
            "completion_mask": mask,
            "rewards": rewards,
            "row_id": sample.sample_id,
            "truncated": sample.truncated,
            "lengths": mask * float(mask.sum()),
            "advantages": mask * sample.advantage,
        }


def outcome_returns(samples: Sequence[Sample], gamma: float) -> torch.Tensor:
    """The discounted return at every action token of every sample, from its outcome reward; (tokens,)."""
    parts = []
    for sample in samples:
        steps_left = torch.arange(sample.num_actions - 1, -1, -1, dtype=torch.float64)
        parts.append((sample.reward * gamma**steps_left).float())
    return torch.cat(parts)
