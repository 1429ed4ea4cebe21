"""Ways to choose one of n completions, how often they choose a right one, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 2000


@dataclass
class Choices:
    """n completions of each prompt; P prompts.

    Attributes:
        right: (P, n) 1 or 0.
        answers: P lists of n; None where a completion states none.
        scores: of each way to score, (P, n).
        tokens: written for a prompt, on average.
    """

    right: Tensor
    answers: list[list[Hashable | None]]
    scores: dict[str, Tensor]
    tokens: float

    def accuracy(self, way: str, size: int) -> Tensor:
        """(P,) how often this way is right among `size` completions: the first ones, the next ones and so on."""
        blocks = [range(start, start + size) for start in range(0, self.right.shape[1] - size + 1, size)]
        pick = self._picker(way)
        return torch.stack([pick(list(block)) for block in blocks]).mean(0)

    def ways(self) -> list[str]:
        voted = [f"vote weighted by {name}" for name in self.scores if name.endswith("mean")]
        return ["random", *self.scores, "majority vote", *voted, "oracle"]

    def pairs_in_order(self, name: str) -> float | None:
        """Of a right and a wrong completion of one prompt, how often this score is higher for the right one.

        The area under the ROC curve within prompts: all that a choice among completions of one prompt can rest on.
        None where no prompt has both.
        """
        above = self.scores[name][:, :, None] - self.scores[name][:, None, :]
        pairs = (self.right[:, :, None] == 1) & (self.right[:, None, :] == 0)
        if not pairs.any():
            return None
        return (above[pairs].sign().double().mean().item() + 1) / 2

    def _picker(self, way: str) -> Callable[[list[int]], Tensor]:
        if way == "random":
            return lambda block: self.right[:, block].mean(1)
        if way == "oracle":
            return lambda block: self.right[:, block].amax(1)
        if way == "majority vote":
            return lambda block: self._voted(block, torch.ones_like(self.right))
        if way.startswith("vote weighted by "):
            return lambda block: self._voted(block, self.scores[way.removeprefix("vote weighted by ")])
        scores = self.scores[way]
        return lambda block: self.right[:, block].gather(1, scores[:, block].argmax(1, keepdim=True))[:, 0]

    def _voted(self, block: list[int], weights: Tensor) -> Tensor:
        rows = zip(self.answers, weights.tolist(), self.right.tolist(), strict=True)
        chosen = [
            (voted([answers[i] for i in block], [weight[i] for i in block]), right) for answers, weight, right in rows
        ]
        return torch.tensor([right[block[place]] for place, right in chosen])


def voted(answers: Sequence[Hashable | None], weights: Sequence[float]) -> int:
    """Place of the first completion with the answer that has the most weight; no answer never wins against one."""
    totals: Counter = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] += weight
    best = max(totals, key=totals.__getitem__) if totals else None
    return answers.index(best)


def interval(per_prompt: Tensor, seed: int = 0) -> dict[str, float]:
    """Mean over prompts, and what holds 95 % of the means of resampled prompts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(per_prompt), (RESAMPLES, len(per_prompt)), generator=generator)
    low, high = per_prompt.double()[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"mean": per_prompt.double().mean().item(), "low": low, "high": high}


def percent(measured: dict[str, float]) -> str:
    return f"{100 * measured['mean']:.1f} ({100 * measured['low']:.1f}–{100 * measured['high']:.1f})"


def signed(measured: dict[str, float]) -> str:
    return f"{100 * measured['mean']:+.1f} ({100 * measured['low']:+.1f} to {100 * measured['high']:+.1f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
