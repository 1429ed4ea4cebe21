"""Completions written by transformers' own `generate`, from the policy's distribution and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

from ..text.problems import require_end_token
from .prefix_reader import evaluating


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        max_new_tokens: most tokens of a completion, its end token included.
        temperature: above 0.
        top_k: number of tokens sampled from; 0, the default, for all of them (transformers' own default is 50).
        top_p: share of the probability sampled from; 1 for all.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"{self}: needed are max_new_tokens >= 1, temperature > 0, top_k >= 0 and top_p in (0, 1]."
            )


class Continuation:
    """Rows that a policy goes on writing, some tokens at a time, as if it wrote them at once.

    Args:
        policy: a causal LM, or a PEFT model around one; call inside `as_sampled(policy)`.
        prompts: token ids of each row's prompt; they are padded on the left.
        end_ids: what ends a completion.
        sampling: `max_new_tokens` of it is the caller's affair.
        processors: change the policy's distribution before temperature, top_k and top_p do.
    """

    def __init__(
        self,
        policy,
        prompts: Sequence[list[int]],
        *,
        end_ids: list[int],
        sampling: Sampling,
        processors: Sequence[LogitsProcessor] = (),
    ):
        self.policy, self.end_ids, self.processors = policy, end_ids, list(processors)
        # padding is masked, and what stands behind a row's end is cut off: any id will do
        self.ids, self.mask = padded_left(prompts, end_ids[0], policy.device)
        self.settings = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "eos_token_id": end_ids,
            "pad_token_id": end_ids[0],
            "return_dict_in_generate": True,
        }
        self._cache = None

    def write(self, count: int) -> list[list[int]]:
        """At most `count` new tokens of each row, none behind its end token."""
        width = self.ids.shape[1]
        written = self.policy.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            generation_config=GenerationConfig(max_new_tokens=count, **self.settings),
            logits_processor=self.processors,
            **({} if self._cache is None else {"past_key_values": self._cache}),
        )
        cache = getattr(written, "past_key_values", None)
        # of any other kind it is not known whether rows can be picked from it: `generate` then reads the row again
        self._cache = cache if type(cache) is DynamicCache else None
        self.ids = written.sequences
        new = self.ids[:, width:]
        self.mask = torch.cat([self.mask, torch.ones_like(new)], 1)
        return [self._until_end(row) for row in new.tolist()]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; none of them may have ended."""
        rows = torch.as_tensor(rows, device=self.ids.device)
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)

    def _until_end(self, ids: list[int]) -> list[int]:
        end = next((place + 1 for place, token in enumerate(ids) if token in self.end_ids), len(ids))
        return ids[:end]


def padded_left(rows: Sequence[list[int]], pad_id: int, device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, T) each."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def known_end_ids(policy, tokenizer) -> list[int]:
    """Every id that ends a completion: those of the checkpoint's generation config, and the tokenizer's end token."""
    known = policy.generation_config.eos_token_id
    known = [] if known is None else [known] if isinstance(known, int) else list(known)
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys(known + own))


def end_token_ids(policy, tokenizer) -> list[int]:
    """`known_end_ids`, of which there must be one; raises `DataError`."""
    ids = known_end_ids(policy, tokenizer)
    if not ids:
        require_end_token(tokenizer)
    return ids


@contextmanager
def as_sampled(policy, *, seed: int | None = None) -> Iterator[None]:
    """The policy as samples need it: in eval mode and without the sampling settings of its checkpoint (`generate`
    fills in those for whatever a caller leaves open: a repetition penalty, say, and the samples are no longer the
    policy's). Both are restored; so are the random generators, where there is a seed.
    """
    model = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    own = model.generation_config
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=seed is not None), evaluating(policy):
        if seed is not None:
            torch.manual_seed(seed)
        model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            model.generation_config = own
