"""What a critic is worth as a judge: the reward of the response it picks among n, against other ways to pick."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from modeling_dvpo.inference.risk_measures import parse_risk_measure
from modeling_dvpo.metrics.ranking import TIE, group_numbers, in_steps, pairs_in_order
from modeling_dvpo.metrics.resampling import bootstrap_interval

from ..engine.distributed import sum_over_ranks
from .sets import EvaluationSet

# how a distribution is read as one number, by names of `parse_risk_measure`
READINGS = ("mean", "cvar=0.5", "cvar=0.1")
CHANCE, VOTE, BEST = "chance", "majority vote", "best there is"


class Readings:
    """What critics say of R whole responses: their distributions before the last token, read as one number.

    Args:
        num_rows: R.
        shapes: (N, M) of every critic by name.
        scale: of the returns, below a part of which readings are tied: see `ranking.TIE`.
    """

    def __init__(self, num_rows: int, shapes: dict[str, tuple[int, int]], scale: float):
        self.scale = scale
        self.scores = {
            f"{who}, {reading}": torch.zeros(num_rows, dtype=torch.float64)
            for who, (_, num_quantiles) in shapes.items()
            for reading in (READINGS if num_quantiles > 1 else READINGS[:1])
        }

    def add(self, rows: range, ends: Tensor, quantiles: dict[str, Tensor]) -> None:
        """Add neighbouring responses: places (r,) of their last states in quantiles (S, N, M), by critic."""
        for name, scores in self.scores.items():
            who, reading = name.split(", ")
            ensemble = quantiles[who][ends].double().mean(-2)
            steps = in_steps(parse_risk_measure(reading)(ensemble), self.scale)
            scores[rows.start : rows.stop] = steps * TIE * self.scale  # the same float where steps are equal

    def reduce(self) -> None:
        """Add up the ranks' parts; every rank must call it."""
        self.scores = {name: sum_over_ranks(scores) for name, scores in self.scores.items()}


def best_of_n(
    data: EvaluationSet, scores: dict[str, Tensor], answers: Sequence[Hashable | None] | None
) -> dict | None:
    """The reward of the response chosen among n = 1, 2, 4, ... to a prompt, and the pairs in order, by way to choose.

    Of a prompt's responses the first n, the next n and so on are chosen from, and averaged. All prompts have the same
    number N of responses: the lower median of the prompts that have several; of more, the first N count, and prompts
    with fewer are left out. Equal scores: the first is chosen. Intervals hold 95 % of bootstrap samples of prompts.

    Args:
        data: of whole responses.
        scores: by way to choose, (R,), the greater the better; "shortest" is added.
        answers: (R,) what each response says, None where nothing; for a majority vote, also one in which answers
            weigh what the critic's mean is above the lowest reward.

    Returns:
        None where no prompt has responses of unequal rewards; else `responses` (N), `prompts`, `left_out` (prompts),
        and `ways`: way -> {"reward": {n: [mean, low, high]}, "order": [share, low, high]}, `order` for scores only.
    """
    groups = same_sized_groups(group_numbers(data.prompts))
    if groups is None:
        return None
    rewards = data.rewards.double()[groups]
    if bool((rewards == rewards[:, :1]).all()):
        return None
    scores = {name: score.double()[groups] for name, score in {**scores, "shortest": -data.actions}.items()}
    sizes = [1 << power for power in range(groups.shape[1].bit_length())]
    prompts = torch.arange(len(groups)).repeat_interleave(groups.shape[1])
    blocks = {size: _blocks(rewards, size) for size in sizes}

    def picked(choose: Callable[[int], Tensor]) -> dict[str, list[float]]:
        """The curve of what is at the places (P, blocks) that `choose` gives in blocks of a size."""
        return _curve({n: own.gather(-1, choose(n)[..., None])[..., 0] for n, own in blocks.items()})

    ways: dict[str, dict] = {CHANCE: {"reward": _curve({n: own.mean(-1) for n, own in blocks.items()})}}
    for name, score in scores.items():
        ways[name] = {"reward": picked(partial(_highest, score))}
        pairs = pairs_in_order(score.flatten(), rewards.flatten(), prompts)
        ways[name]["order"] = [pairs.accuracy(), *bootstrap_interval(*pairs)]
    if answers is not None:
        given = [[answers[place] for place in row] for row in groups.tolist()]
        above = (scores["critic, mean"] - rewards.min()).clamp(min=0)
        for name, weights in ((VOTE, torch.ones_like(rewards)), (f"{VOTE}, weighted by critic", above)):
            ways[name] = {"reward": picked(partial(_votes, given, weights))}
    ways[BEST] = {"reward": _curve({n: own.amax(-1) for n, own in blocks.items()})}
    left_out = len(set(data.prompts)) - len(groups)
    return {"responses": groups.shape[1], "prompts": len(groups), "left_out": left_out, "ways": ways}


def same_sized_groups(prompts: Tensor) -> Tensor | None:
    """Places (P, N) of the first N responses to each prompt that has as many, N the lower median of the prompts that
    have several; None where none has.

    Args:
        prompts: (R,) number of each response's prompt.
    """
    order = prompts.argsort(stable=True)
    counts = prompts.bincount()
    several = counts[counts > 1].sort().values
    if not len(several):
        return None
    number = int(several[(len(several) - 1) // 2])
    starts = (counts.cumsum(0) - counts)[counts >= number]
    return order[starts[:, None] + torch.arange(number)]


def voted(answers: Sequence[Hashable | None], weights: Sequence[float]) -> int:
    """Place of the first response with the answer that has the most weight; no answer never wins against one."""
    totals: dict[Hashable, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    best = max(totals, key=lambda answer: totals[answer]) if totals else None
    return answers.index(best)


def _curve(rewards: dict[int, Tensor]) -> dict[str, list[float]]:
    """By n: mean over prompts, low and high, of (P, blocks) rewards."""
    per_prompt = {size: chosen.mean(-1) for size, chosen in rewards.items()}
    return {str(size): [own.mean().item(), *bootstrap_interval(own)] for size, own in per_prompt.items()}


def _blocks(table: Tensor, size: int) -> Tensor:
    """(P, N) -> (P, blocks, size): the first ones, the next ones and so on; what does not fill a block is left out."""
    return table[:, : table.shape[1] // size * size].unflatten(1, (-1, size))


def _highest(score: Tensor, size: int) -> Tensor:
    """(P, blocks) places in the blocks of the highest score."""
    return _blocks(score, size).argmax(-1)


def _votes(answers: list[list], weights: Tensor, size: int) -> Tensor:
    """(P, blocks) places in the blocks of what the vote chooses."""
    blocks = [range(start, start + size) for start in range(0, weights.shape[1] - size + 1, size)]
    return torch.tensor(
        [
            [voted([row[i] for i in block], [weight[i] for i in block]) for block in blocks]
            for row, weight in zip(answers, weights.tolist(), strict=True)
        ]
    )
