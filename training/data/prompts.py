"""Prompts: from any data set TRL users know (prompt-only; text or conversational) to token ids, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import plain_messages, prompt_tokens
from modeling_dvpo.text.problems import RowProblem

from ..errors import ConfigError, RewardDataError
from .arguments import PromptArguments, template_arguments
from .reading import Limit, context_of, fitting, read_rows, require_column, tokenised

# What reward functions and environments are given beside the columns.
RESERVED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")

# kind -> (what is wrong with the prompts, what to do)
PROBLEMS = {
    "empty": ("are empty", "The policy needs at least one token to begin from; remove these rows."),
    "not text": (
        "are neither text nor chat messages",
        'A prompt is text, or a list of messages, each a dict with "role" and "content".',
    ),
    "assistant": (
        "end with an assistant message",
        "A prompt ends where the policy's turn begins; cut off the last message (and keep it in a column of its own "
        "if a reward function needs it).",
    ),
    "chat template": (
        "are refused by the chat template",
        "Change them, pass what it needs with chat_template_kwargs, or set `tokenizer.chat_template`.",
    ),
}


@dataclass
class Prompt:
    """What the policy answers.

    `index` is the number of the row in its source, from 0; `prompt` what reward functions get, text or messages;
    `input_ids` its tokens, with the template's generation prompt for chats; `columns` the row's other columns;
    `chat_template_kwargs` what the template was given besides, and is given again for later turns.
    """

    index: int
    prompt: str | Messages
    input_ids: list[int]
    columns: dict[str, Any]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


class Prompts(Sequence):
    """Prompts as they are asked for, from memory-mapped rows: neither texts nor tokens are held in memory."""

    def __init__(self, rows: Dataset, tokens: Dataset, column: str, args: PromptArguments):
        self.rows, self.tokens, self.column, self.args = rows, tokens, column, args
        self.kwargs = template_arguments(args.chat_template_kwargs)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> Prompt:  # type: ignore[override]  # one at a time: no slices
        tokens = self.tokens[int(place)]
        row = self.rows[tokens["row_id"]]
        prompt = as_prompt(row.pop(self.column), self.args)
        return Prompt(tokens["row_id"], prompt, tokens["input_ids"], row, self.kwargs)


def load_prompts(
    name: str,
    split: str,
    args: PromptArguments,
    tokenizer,
    *,
    config: str | None = None,
    model_config=None,
    max_completion_length: int,
) -> Prompts:
    """The prompts of a data set, tokenised once, all checked.

    Args:
        name: file, directory or Hub name.
        split: which split, or slice of one.
        args: how to read it.
        tokenizer: the policy's.
        config: configuration name of a Hub set.
        model_config: for its context length and vocabulary size; without it neither is checked.
        max_completion_length: tokens a rollout may add, which have to fit the model's context too.

    Raises:
        ConfigError: the model's context has no room for a completion of this length.
        RewardDataError: the set, or its tokenizer, cannot be rolled out on.
    """
    prompts_of = f"prompts of {name!r}"
    rows = read_rows(name, split, config=config, text_columns=(args.prompt_column,))
    column = args.prompt_column
    if column == "prompt" and column not in rows.column_names and "messages" in rows.column_names:
        column = "messages"
    require_column(column, rows.column_names, argument="prompt_column", why="what the policy answers")
    reserved = [other for other in rows.column_names if other in RESERVED and other != column]
    if reserved:
        raise RewardDataError(
            f"{name!r} has a column {reserved[0]!r}, and reward functions get the policy's own under that name: "
            "rename or remove the column."
        )
    limit = _limit(args, model_config, max_completion_length)
    tokens = tokenised(
        rows,
        partial(_columns, column=column, args=args, tokenizer=tokenizer),
        {},
        rows_of=prompts_of,
        problems=PROBLEMS,
        model_config=model_config,
    )
    kept = fitting(tokens, limit, rows_of=prompts_of, drop=args.drop_long_prompts, drop_argument="drop_long_prompts")
    return Prompts(rows, tokens.select(kept), column, args)


def as_prompt(value: Any, args: PromptArguments) -> str | Messages:
    """A cell of the prompt column as the text or the chat that the arguments ask for; raises `RowProblem`."""
    if not isinstance(value, str | list):
        raise RowProblem("empty" if value is None else "not text", f"{value!r:.60}")
    if not value:
        raise RowProblem("empty", repr(value))
    if isinstance(value, str):
        if not args.chat and args.system_prompt is None:
            return value
        value = [{"role": "user", "content": value}]
    messages = plain_messages(value)
    if messages[-1]["role"] == "assistant":
        raise RowProblem("assistant", f"{messages[-1].get('content')!r:.60}")
    if args.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": args.system_prompt}, *messages]
    return messages


def _limit(args: PromptArguments, model_config, max_completion_length: int) -> Limit | None:
    """`max_prompt_length` or what a completion leaves of the context; None if nothing says."""
    context, most = context_of(model_config), args.max_prompt_length
    if context and max_completion_length >= context:
        raise ConfigError(
            f"max_completion_length is {max_completion_length}, and the model's context has {context} tokens for "
            "prompt and completion together: lower it."
        )
    left = context - max_completion_length if context else None
    if most and (left is None or most <= left):
        return Limit(most, f"longer than max_prompt_length={most} tokens", "raise max_prompt_length")
    if left is None:
        return None
    room = f"the {left} tokens that max_completion_length={max_completion_length} leaves of the model's context"
    return Limit(left, f"longer than {room}", "lower max_completion_length")


def _columns(row: dict[str, Any], *, column: str, args: PromptArguments, tokenizer) -> dict[str, list[int]]:
    prompt, tools = as_prompt(row[column], args), row.get(args.tools_column)
    kwargs = template_arguments(args.chat_template_kwargs)
    return {"input_ids": prompt_tokens(tokenizer, prompt, tools, chat_template_kwargs=kwargs)}


class PromptSampler:
    """Which prompts each iteration rolls out: every epoch a fresh shuffle, a pure function of the iteration's number.

    Nothing to save: a resumed run asks for a later step. A step may take the end of one epoch and the start of the
    next, so that every step has the same number of prompts.
    """

    def __init__(self, num_prompts: int, *, prompts_per_step: int, seed: int):
        if not 1 <= prompts_per_step <= num_prompts:
            raise ConfigError(
                f"A step takes {prompts_per_step} prompts and the set has {num_prompts}: a step needs at least one, "
                "and at most what there is; lower the number of prompts a step, or give more prompts."
            )
        self.num_prompts, self.prompts_per_step, self.seed = num_prompts, prompts_per_step, seed

    def step(self, step: int) -> list[int]:
        """Places of the prompts of this iteration, counted from 0."""
        first = step * self.prompts_per_step
        epoch, start = divmod(first, self.num_prompts)
        places = self._epoch(epoch)[start : start + self.prompts_per_step]
        missing = self.prompts_per_step - len(places)
        return places + self._epoch(epoch + 1)[:missing] if missing else places

    def _epoch(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_prompts).tolist()
