"""Completions judged while they are being written: what is hopeless is dropped, and its tokens are never paid for.

The policy writes some tokens of all candidates, the critic reads them (each token once, from a KV cache of its own),
the worst candidates of each prompt are dropped, and so on until the others have ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..text.batches import padded_tokens
from .prefix_reader import PrefixReader
from .risk_measures import RiskMeasure
from .sampling import Continuation, Written


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """When candidates are dropped, and how many.

    Attributes:
        every: tokens between two looks.
        share: of a prompt's candidates that are left, the worst this much are dropped at each look. One that has
            ended is still a candidate, and counts.
        keep: fewest candidates of a prompt that are left.
    """

    every: int = 32
    share: float = 0.5
    keep: int = 1

    def __post_init__(self):
        if self.every < 1 or self.keep < 1 or not 0 <= self.share < 1:
            raise ValueError(f"{self}: every and keep must be at least 1, and share in [0, 1).")


@dataclass
class Draft:
    """A candidate as far as it was written; `state` (N, M) is what it is judged by."""

    prompt: int
    ids: list[int] = field(default_factory=list)
    state: Any = None  # a tensor, once the critic has read it
    ended: bool = False
    dropped: bool = False

    @property
    def pruned(self) -> bool:
        """Dropped before it had ended."""
        return self.dropped and not self.ended


def write_and_prune(
    continuation: Continuation,
    reader: PrefixReader,
    prompts: Sequence[list[int]],
    n: int,
    *,
    measure: RiskMeasure,
    pruning: Pruning,
    max_new_tokens: int,
) -> list[Draft]:
    """n drafts of each prompt, in the prompts' order.

    Args:
        continuation: of n rows of each prompt.
        reader: of the critic, fresh.
        measure: (..., M) -> (...), higher is better.
    """
    drafts = [Draft(prompt) for prompt in range(len(prompts)) for _ in range(n)]
    before = reader.read(*padded_tokens(prompts, side="left"))[:, -1].cpu()
    reader.select([draft.prompt for draft in drafts])
    for draft in drafts:
        draft.state = before[draft.prompt]
    live, left = drafts, max_new_tokens
    while live and left > 0:
        new = continuation.write(min(pruning.every, left))
        left -= pruning.every
        _read(reader, live, new, last=left <= 0)
        if left > 0:
            _drop_worst(drafts, measure, pruning)
        places = [place for place, draft in enumerate(live) if not draft.ended and not draft.dropped]
        live = [live[place] for place in places]
        if live:
            continuation.select(places)
            reader.select(places)
    return drafts


def _read(reader: PrefixReader, live: list[Draft], new: list[Written], *, last: bool) -> None:
    ids, mask = padded_tokens([written.ids for written in new])
    for draft, written, outputs in zip(live, new, reader.read(ids, mask).cpu(), strict=True):
        draft.ids += written.ids
        draft.ended = written.ended
        states = torch.cat([draft.state[None], outputs[: len(written.ids)]])
        # a draft that goes on is in the state before its next token; of a whole one, as ScoredCompletion.last_state
        draft.state = states[-2 if draft.ended or last else -1]


def _drop_worst(drafts: list[Draft], measure: RiskMeasure, pruning: Pruning) -> None:
    by_prompt: dict[int, list[Draft]] = {}
    for draft in drafts:
        if not draft.dropped:
            by_prompt.setdefault(draft.prompt, []).append(draft)
    for candidates in by_prompt.values():
        scores = measure(torch.stack([draft.state for draft in candidates]).mean(-2))
        # 1e-9: 0.3 of ten is three, though 10 · (1 - 0.3) is a little more than seven in binary
        kept = max(pruning.keep, math.ceil(len(candidates) * (1 - pruning.share) - 1e-9))
        for place in scores.argsort(descending=True, stable=True)[kept:].tolist():
            candidates[place].dropped = True


def tokens_saved(drafts: Sequence[Draft]) -> float:
    """How many tokens the dropped candidates of one prompt would still have had, were each as long as the others are
    on average: an estimate, since they were never written."""
    complete = [len(draft.ids) for draft in drafts if not draft.pruned]
    mean = sum(complete) / len(complete)
    return sum(max(0.0, mean - len(draft.ids)) for draft in drafts if draft.pruned)
