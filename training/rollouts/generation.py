"""Batched sampling by transformers' own `generate`, from the policy's own distribution and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation import StopStringCriteria

from modeling_dvpo.inference.sampling import as_sampled, known_end_ids

from ..errors import ConfigError, RolloutError
from ..run.arguments import (
    option,
    require_at_least_one,
    require_between,
    require_positive,
)


@dataclass(kw_only=True)
class RolloutArguments:
    """How completions are sampled from the policy."""

    num_generations: int = option(1, "Completions of each prompt: the size of a group.")
    max_completion_length: int = option(
        256, "Most tokens after the prompt: all turns of the policy and of the environment together."
    )
    temperature: float = option(1.0, "Sampling temperature.")
    top_p: float = option(1.0, "Share of the probability that is sampled from; 1 for all.")
    top_k: int = option(0, "Number of tokens that are sampled from; 0 for all.")
    min_p: float | None = option(None, "Least probability of a sampled token, as a share of the likeliest one's.")
    stop_strings: list[str] = option([], "Texts that end a completion as an end token does; they stay in it.")
    generation_batch_size: int = option(64, "Rows generated together.")
    max_turns: int = option(8, "Most turns of the policy in a conversation with an environment.")

    def __post_init__(self):
        require_at_least_one(self, "num_generations", "max_completion_length", "generation_batch_size", "max_turns")
        require_positive(self, "temperature", "top_p")
        require_between(self, 0, 1, "top_p", *(["min_p"] if self.min_p is not None else []))
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it is a number of tokens, or 0 for all of them.")
        if "" in self.stop_strings:
            raise ConfigError("stop_strings has an empty text, which would end every completion: remove it.")


class Generator:
    """Continues rows of tokens.

    Args:
        policy: a causal LM, or a PEFT model around one.
        tokenizer: the policy's.
        args: sampling settings.
        greedy: take the likeliest token instead of sampling.

    Raises:
        RolloutError: nothing could end a completion but its length.
    """

    def __init__(self, policy, tokenizer, args: RolloutArguments, *, greedy: bool = False):
        self.policy, self.batch_size = policy, args.generation_batch_size
        self.end_ids = known_end_ids(policy, tokenizer)
        if not self.end_ids and not args.stop_strings:
            raise RolloutError(
                "Neither the model nor the tokenizer has an end token, so that no completion could end before its "
                "length limit: set `tokenizer.eos_token`, or give stop_strings."
            )
        self.stop_strings = StopStringCriteria(tokenizer, args.stop_strings) if args.stop_strings else None
        # Padding is masked, and nothing reads what stands behind a row's end: any id will do.
        self.pad_id = self.end_ids[0] if self.end_ids else 0
        sampling = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "min_p": args.min_p}
        self.settings = {
            "do_sample": not greedy,
            **({} if greedy else sampling),
            "eos_token_id": self.end_ids or None,
            "pad_token_id": self.pad_id,
            "use_cache": True,
        }

    def __call__(
        self, rows: Sequence[list[int]], limits: Sequence[int], *, progress: bool = False
    ) -> list[tuple[list[int], bool]]:
        """New tokens of each row, its end token included, and whether it ended before its limit of new tokens.

        Rows of like length are generated together; the answers are in the order of `rows`.
        """
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        completed: dict[int, tuple[list[int], bool]] = {}
        with as_sampled(self.policy), tqdm(total=len(rows), desc="rollouts", disable=not progress) as bar:
            for batch in reversed(batches):  # longest first: a lack of memory shows at once
                generated = self._generate([rows[i] for i in batch], [limits[i] for i in batch])
                completed.update(zip(batch, generated, strict=True))
                bar.update(len(batch))
        return [completed[row] for row in range(len(rows))]

    def _generate(self, rows: list[list[int]], limits: list[int]) -> list[tuple[list[int], bool]]:
        width = max(map(len, rows))
        padding = [width - len(row) for row in rows]
        ids = torch.tensor([[self.pad_id] * pad + row for pad, row in zip(padding, rows, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        stop = _StopStrings(self.stop_strings, width) if self.stop_strings else None
        generated = self.policy.generate(
            input_ids=ids.to(self.policy.device),
            attention_mask=mask.to(self.policy.device),
            generation_config=GenerationConfig(max_new_tokens=max(limits), **self.settings),
            stopping_criteria=[stop] if stop else None,
            synced_gpus=False,  # every rank has the whole weights: none waits for the others
        )[:, width:].tolist()
        stopped = stop.lengths.tolist() if stop else [max(limits) + 1] * len(generated)
        return [self._cut(*row) for row in zip(generated, stopped, limits, strict=True)]

    def _cut(self, ids: list[int], stopped: int, limit: int) -> tuple[list[int], bool]:
        ended = next((place + 1 for place, token in enumerate(ids) if token in self.end_ids), len(ids) + 1)
        length = min(ended, stopped, len(ids), limit)
        return ids[:length], length in (ended, stopped)


class _StopStrings(StoppingCriteria):
    """Stops rows at their stop strings, looked for behind the prompt only, and notes after how many new tokens.

    The note is needed because what `generate` writes behind a stopped row cannot be told from the policy's own tokens.
    """

    def __init__(self, criterion: StopStringCriteria, prompt_width: int):
        self.criterion, self.prompt_width, self.lengths = criterion, prompt_width, None

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        new = input_ids[:, self.prompt_width :]
        never = torch.iinfo(torch.long).max
        done = self.criterion(new, scores)
        if self.lengths is None:
            self.lengths = torch.full((len(new),), never, device=new.device)
        self.lengths = torch.where(done & (self.lengths == never), new.shape[1], self.lengths)
        return done
