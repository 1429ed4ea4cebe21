"""Completions written by transformers' own `generate`, from the policy's distribution and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation import StopStringCriteria

from ..text.batches import batches_by_length, padded_tokens
from ..text.problems import DataError
from ..text.turn_ends import end_ids, generation_end_ids, turn_end
from .prefix_reader import evaluating

NEVER = torch.iinfo(torch.long).max


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        temperature: above 0.
        top_k: number of tokens sampled from; 0, the default, for all of them (transformers' own default is 50).
        top_p: share of the probability sampled from; 1 for all.
        min_p: least probability of a sampled token, as a share of the likeliest one's.
        greedy: take the likeliest token, whatever the others say.
        stop_strings: texts that end a completion as an end token does; they stay in it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    greedy: bool = False
    stop_strings: Sequence[str] = ()

    def __post_init__(self):
        if self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= (self.min_p or 0) <= 1:
            raise ValueError(f"{self}: needed are temperature > 0, top_k >= 0, top_p in (0, 1] and min_p in [0, 1].")


class Written(NamedTuple):
    """New tokens of a row, its end token or stop string included, and whether it ended by one of these."""

    ids: list[int]
    ended: bool


class Sampler:
    """Goes on writing rows of tokens. Draws are from torch's global generator, on the policy's device.

    Args:
        policy: a causal LM, or a PEFT model around one, with the generation config of its checkpoint (so not inside
            `as_sampled`).
        tokenizer: the policy's; it needs no pad token.
        sampling: settings.

    Attributes:
        end_ids: what ends a completion; see `text.turn_ends.end_ids`.

    Raises:
        DataError: nothing could end a completion but its length.
    """

    def __init__(self, policy, tokenizer, sampling: Sampling):
        self.policy, self.end_ids = policy, end_ids(tokenizer, policy)
        _warn_of_unknown_ends(policy, tokenizer)
        stops = list(sampling.stop_strings)
        if not self.end_ids and not stops:
            raise DataError(
                "Neither the model nor the tokenizer has an end token, so that no completion could end before its "
                "length limit: set `tokenizer.eos_token`, or give stop_strings."
            )
        self.stop_strings = StopStringCriteria(tokenizer, stops) if stops else None
        # padding is masked, and what stands behind a row's end is cut off: any id will do
        self.pad_id = self.end_ids[0] if self.end_ids else 0
        drawn = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        self.settings = {
            "do_sample": not sampling.greedy,
            **({} if sampling.greedy else drawn),
            "eos_token_id": self.end_ids or None,
            "pad_token_id": self.pad_id,
            "use_cache": True,
            "return_dict_in_generate": True,
        }

    def __call__(
        self, rows: Sequence[list[int]], limits: Sequence[int], *, batch_size: int, progress: bool = False
    ) -> list[Written]:
        """What is written after each row, in their order: at most its limit of new tokens.

        Rows of like length are written together, `batch_size` at a time.
        """
        written: dict[int, Written] = {}
        batches = batches_by_length([len(row) for row in rows], max_rows=batch_size)
        with as_sampled(self.policy), tqdm(total=len(rows), desc="completions", disable=not progress) as bar:
            for batch in reversed(batches):  # longest first: a lack of memory shows at once
                new = Continuation(self, [rows[i] for i in batch]).write(max(limits[i] for i in batch))
                for i, (ids, ended) in zip(batch, new, strict=True):
                    written[i] = Written(ids[: limits[i]], ended and len(ids) <= limits[i])
                bar.update(len(batch))
        return [written[i] for i in range(len(rows))]


class Continuation:
    """Rows that go on being written, some tokens at a time, as if they were written at once.

    Args:
        sampler: of the policy; call inside `as_sampled(policy)`.
        rows: tokens to go on from.

    Attributes:
        ids, mask: (B, T) of the rows so far, padded on the left.
    """

    def __init__(self, sampler: Sampler, rows: Sequence[list[int]]):
        self.sampler = sampler
        self.ids, self.mask = padded_tokens(rows, pad_id=sampler.pad_id, side="left", device=sampler.policy.device)
        self._first = self.ids.shape[1]
        self._cache: DynamicCache | None = None

    def write(self, count: int, processors: Sequence[LogitsProcessor] = ()) -> list[Written]:
        """At most `count` new tokens of each row; `processors` change the policy's distribution before temperature,
        top_k, top_p and min_p do."""
        sampler, width = self.sampler, self.ids.shape[1]
        stop = _StopStrings(sampler.stop_strings, self.ids, self._first) if sampler.stop_strings else None
        self.ids = self._generate(
            self.ids,
            GenerationConfig(max_new_tokens=count, **sampler.settings),
            logits_processor=list(processors),
            stopping_criteria=[stop] if stop else [],
            **({} if self._cache is None else {"past_key_values": self._cache}),
        )
        new = self.ids[:, width:]
        self.mask = torch.cat([self.mask, torch.ones_like(new)], 1)
        stopped = stop.lengths.tolist() if stop else [NEVER] * len(new)
        return [self._cut(*row) for row in zip(new.tolist(), stopped, strict=True)]

    def _generate(self, ids: Tensor, config: GenerationConfig, **options) -> Tensor:
        """`ids` and what `generate` writes after them, (B, T'); keeps the cache, which lacks the last of these."""
        written = self.sampler.policy.generate(
            input_ids=ids,
            attention_mask=self.mask[:, : ids.shape[1]],
            generation_config=config,
            synced_gpus=False,  # every rank has the whole weights: none waits for the others
            **options,
        )
        cache = getattr(written, "past_key_values", None)
        # of any other kind it is not known whether rows can be picked from it: `generate` then reads the row again
        self._cache = cache if type(cache) is DynamicCache else None
        return written.sequences

    def repeat(self, count: int) -> None:
        """Go on with `count` of each row, next to each other; the row is read once for all of them."""
        if count == 1:
            return
        if self._cache is None and self.ids.shape[1] > 1:
            # for the cache; the token is thrown away, and so nothing ends here
            settings = self.sampler.settings | {"eos_token_id": None, "pad_token_id": None}
            self._generate(self.ids[:, :-1], GenerationConfig(max_new_tokens=1, **settings))
        self.select([row for row in range(len(self.ids)) for _ in range(count)])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order, which may come several times; none of them may have ended."""
        places = torch.as_tensor(rows, device=self.ids.device)
        self.ids, self.mask = self.ids[places], self.mask[places]
        if self._cache is not None:
            self._cache.reorder_cache(places)  # type: ignore[arg-type]  # annotated with a legacy class

    def _cut(self, ids: list[int], stopped: int) -> Written:
        ended = next((place + 1 for place, token in enumerate(ids) if token in self.sampler.end_ids), NEVER)
        length = min(ended, stopped)
        return Written(ids[:length], length <= len(ids))


class _StopStrings(StoppingCriteria):
    """Stops rows at their stop strings, looked for behind the prompt only, and notes after how many new tokens.

    The note is needed because what `generate` writes behind a stopped row cannot be told from the policy's own tokens.
    """

    def __init__(self, criterion: StopStringCriteria, ids: Tensor, first: int):
        self.criterion, self.first, self.width = criterion, first, ids.shape[1]
        self.lengths = torch.full((len(ids),), NEVER, device=ids.device)

    def __call__(self, input_ids: Tensor, scores, **kwargs) -> Tensor:
        done = self.criterion(input_ids[:, self.first :], scores)
        self.lengths = self.lengths.minimum(torch.where(done, input_ids.shape[1] - self.width, NEVER))
        return done


def _warn_of_unknown_ends(policy, tokenizer) -> None:
    """Samples here end where the chat template's turns do; those of others, who ask the checkpoint, would not."""
    known = generation_end_ids(policy)
    missing = [text for text in turn_end(tokenizer).texts() if tokenizer.convert_tokens_to_ids(text) not in known]
    if missing:
        ids = sorted({*known, *tokenizer.convert_tokens_to_ids(missing)})
        warnings.warn(
            f"The chat template ends a turn with {' or '.join(missing)}, which is no end token of the policy's "
            f"generation config (it has {known or 'none'}). Here completions end there; a policy that is served "
            f"with that config would go on: set `policy.generation_config.eos_token_id = {ids}`.",
            stacklevel=3,
        )


@contextmanager
def seeded(device: torch.device, seed: int | None) -> Iterator[None]:
    """Torch's generators start from this seed inside, and go on as they were outside; None changes nothing."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def as_sampled(policy, *, seed: int | None = None) -> Iterator[None]:
    """The policy as samples need it: in eval mode and without the sampling settings of its checkpoint (`generate`
    fills in those for whatever a caller leaves open: a repetition penalty, say, and the samples are no longer the
    policy's). Both are restored; so are the random generators, where there is a seed.
    """
    model = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    own = model.generation_config
    with seeded(policy.device, seed), evaluating(policy):
        model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            model.generation_config = own
