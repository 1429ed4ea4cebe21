"""Several completions of each row, the row read once, and each from random numbers of its own.

What is drawn for a completion hangs on its seed alone: not on the rows beside it, their order, or the process. (Where
rows are padded otherwise, probabilities differ by rounding, and so, very seldom, a token.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .sampling import Continuation, Sampler, Sampling, as_sampled


class Completion(NamedTuple):
    """What was written after a row.

    Attributes:
        ids: its tokens, an end token or stop string included.
        logprobs: log π(token), in nats, of each of them under the policy itself: before temperature, top_k, top_p and
            min_p.
        ended: whether it ended by itself, before the limit.
    """

    ids: list[int]
    logprobs: list[float]
    ended: bool


class SeededSampler:
    """Samples as `Sampler` does, but for where random numbers come from.

    Args:
        policy, tokenizer, sampling: as `Sampler` takes them; `sampling.greedy` is not looked at.

    Attributes:
        end_ids: what ends a completion.

    Raises:
        DataError: as `Sampler`.
    """

    def __init__(self, policy, tokenizer, sampling: Sampling):
        # each step's token is chosen by `OwnDraws`; what is left to `generate` is to take it
        self.sampling, self.sampler = sampling, Sampler(policy, tokenizer, replace(sampling, greedy=True))
        self.end_ids = self.sampler.end_ids

    def __call__(
        self, rows: Sequence[list[int]], seeds: Sequence[Sequence[int]], limit: int
    ) -> list[list[Completion]]:
        """Completions of rows that are written together, of at most `limit` tokens.

        Args:
            rows: tokens to go on from; each at least one.
            seeds: one for each completion of each row, as many of one row as of every other; not negative.

        Returns:
            The completions of each row, in the order of its seeds.
        """
        (count,) = {len(own) for own in seeds}
        with as_sampled(self.sampler.policy):
            some = Continuation(self.sampler, rows)
            some.repeat(count)
            draws = OwnDraws([seed for own in seeds for seed in own], limit, self.sampling, some.ids.device)
            written = some.write(limit, [draws])
        logprobs = draws.logprobs()
        completions = [
            Completion(ids, own[: len(ids)], ended) for (ids, ended), own in zip(written, logprobs, strict=True)
        ]
        return [completions[start : start + count] for start in range(0, len(completions), count)]


class OwnDraws(LogitsProcessor):
    """Leaves one token of each row's distribution: the one that the row's next random number falls on.

    The number u, uniform in [0, 1), chooses the first token at which the cumulated probability exceeds u. A row's
    numbers are `numpy.random.default_rng(seed).random()`, one a token.

    Args:
        seeds: of each row.
        steps: numbers of each row; later calls fail.
        sampling: what is done to the distribution before, by transformers' own warpers in `generate`'s order.
        device: of the scores.
    """

    def __init__(self, seeds: Sequence[int], steps: int, sampling: Sampling, device):
        numbers = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        self._numbers = torch.as_tensor(numbers, device=device)
        self._warpers: list[LogitsProcessor] = []
        if sampling.temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p is not None:
            self._warpers.append(MinPLogitsWarper(sampling.min_p))
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids, scores):
        """(B, V) scores -> the same shape, 0 at each row's token and -inf elsewhere."""
        warped = scores
        for warper in self._warpers:
            warped = warper(input_ids, warped)
        # float64, for the sum over a large vocabulary
        cumulated = warped.double().softmax(-1).cumsum(-1)
        number = self._numbers[:, len(self._logprobs), None] * cumulated[:, -1:]
        token = torch.searchsorted(cumulated, number, right=True).clamp(max=scores.shape[-1] - 1)
        self._logprobs.append(scores.float().log_softmax(-1).gather(-1, token)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter(-1, token, 0.0)

    def logprobs(self) -> list[list[float]]:
        """Of each row's tokens so far, and of what `generate` wrote behind its end."""
        return torch.stack(self._logprobs, 1).tolist()
