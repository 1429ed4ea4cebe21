"""What a critic knows within prompts, where a set has several completions of them: batch by batch, rank by rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ranking import Pairs, in_steps, pairs_in_order
from .resampling import bootstrap_interval
from .variance_split import VarianceSplit

# What a report has, in words.
PROMPT_MEANINGS = {
    "ranking_accuracy": "of pairs of completions of one prompt with unequal returns, share that mean Z before the "
    "last token orders as the returns from there are; ties half; ½ is chance",
    "explained_variance_between": "explained variance of the means over a prompt's states: how hard prompts are",
    "explained_variance_within": "explained variance of what is left: which completions of a prompt are better, and "
    "where they turn; 0 for any function of the prompt",
    "variance_within": "share s of Var(G) that is within prompts; explained_variance = (1 − s) between + s within",
}


class PromptReport:
    """Adds up how a critic orders R completions of P prompts, and its explained variance between and within prompts.

    Args:
        prompts: (R,) number of each completion's prompt, 0..P − 1.
        centre: about the mean of the returns.
        scale: the returns' scale; values nearer than `ranking.TIE` of it are tied.
    """

    def __init__(self, prompts: Tensor, *, centre: float, scale: float):
        self.prompts, self.scale = prompts, scale
        self.last = torch.zeros(2, len(prompts), dtype=torch.float64)
        self.split = VarianceSplit(int(prompts.max()) + 1, centre)

    def add(self, rows: Tensor, lengths: Tensor, values: Tensor, returns: Tensor) -> None:
        """Add whole completions.

        Args:
            rows: (r,) places of the completions in `prompts`.
            lengths: (r,) states of each, at least one.
            values: (S,) predicted means of their states, completion by completion, in order; S is Σ lengths.
            returns: (S,) what followed, or (S, K) continuations.
        """
        values, returns = values.detach().double().cpu(), returns.detach().double().cpu()
        returns = returns.mean(-1) if returns.dim() == 2 else returns
        self.split.add(values, returns, self.prompts[rows].repeat_interleave(lengths))
        ends = lengths.cumsum(0) - 1
        self.last[:, rows] = torch.stack([values[ends], returns[ends]])

    def reduce(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add up the ranks' parts, in place; each completion must have been added on one rank only."""
        self.last = sum_over_ranks(self.last)
        self.split.reduce(sum_over_ranks)

    def pairs(self) -> Pairs:
        """By prompt; see `ranking_accuracy`."""
        values, truths = self.last
        return pairs_in_order(in_steps(values, self.scale), truths, self.prompts)

    def compute(self) -> dict[str, float]:
        """The metrics that `PROMPT_MEANINGS` names; nothing where no prompt has completions of unequal returns."""
        pairs = self.pairs()
        return {"ranking_accuracy": pairs.accuracy(), **self.split.compute()} if pairs.pairs.any() else {}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """What holds 95 % of bootstrap samples of prompts, of the two metrics that are ratios of sums over prompts."""
        error, true = self.split.within()
        return {
            "ranking_accuracy": bootstrap_interval(*self.pairs()),
            "explained_variance_within": bootstrap_interval(true - error, true),
        }
