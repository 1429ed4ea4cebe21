"""Prompts: from any data set TRL users know (prompt-only; text or conversational) to token ids, and their order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import plain_messages, prompt_ids
from modeling_dvpo.text.problems import RowProblem, require_chat_template

from ..errors import ConfigError, RewardDataError
from .arguments import PromptArguments
from .checks import list_rows, require_column, require_vocabulary
from .files import read_rows

logger = logging.getLogger(__name__)

# What reward functions and environments are given beside the columns.
RESERVED = ("prompts", "completions", "completion_ids")

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
    "chat template": ("are refused by the chat template", "Change them, or set `tokenizer.chat_template`."),
}


@dataclass
class Prompt:
    """What the policy answers.

    `index` is the number of the row in its source, from 0; `prompt` what reward functions get, text or messages;
    `input_ids` its tokens, with the template's generation prompt for chats; `columns` the row's other columns.
    """

    index: int
    prompt: str | Messages
    input_ids: list[int]
    columns: dict[str, Any]


class Prompts(Sequence):
    """Prompts as they are asked for, from memory-mapped rows: neither texts nor tokens are held in memory."""

    def __init__(self, rows: Dataset, tokens: Dataset, column: str, args: PromptArguments):
        self.rows, self.tokens, self.column, self.args = rows, tokens, column, args

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> Prompt:
        tokens = self.tokens[int(place)]
        row = self.rows[tokens["index"]]
        prompt = as_prompt(row.pop(self.column), self.args)
        return Prompt(tokens["index"], prompt, tokens["input_ids"], row)


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
    source = f"{name!r}"
    rows = read_rows(name, split, config=config, text_columns=(args.prompt_column,))
    column = args.prompt_column
    if column == "prompt" and column not in rows.column_names and "messages" in rows.column_names:
        column = "messages"
    require_column(column, rows.column_names, argument="prompt_column", why="what the policy answers")
    reserved = [other for other in rows.column_names if other in RESERVED and other != column]
    if reserved:
        raise RewardDataError(
            f"{source} has a column {reserved[0]!r}, and reward functions get the policy's own under that name: "
            "rename or remove the column."
        )
    first = rows[0][column]
    if args.chat or args.system_prompt is not None or not isinstance(first, str | None):
        require_chat_template(tokenizer)
    limit = prompt_limit(args, model_config, max_completion_length)
    tokens = rows.map(
        partial(_tokenise, column=column, args=args, tokenizer=tokenizer),
        with_indices=True,
        batched=True,
        batch_size=100,
        remove_columns=rows.column_names,
        features=Features(
            {"input_ids": List(Value("int32")), "index": Value("int64"), "largest": Value("int64")}
            | {"length": Value("int32"), "problem": Value("string")}
        ),
        desc=f"Tokenising {name}",
    )
    _raise_for_problems(tokens["problem"][:], source)
    if model_config is not None:
        largest = np.asarray(tokens["largest"][:])
        row = int(largest.argmax())
        require_vocabulary(int(largest[row]), row, model_config.get_text_config().vocab_size)
    tokens = _fitting(tokens.remove_columns(["problem", "largest"]), limit, args, max_completion_length, source)
    return Prompts(rows, tokens, column, args)


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


def prompt_limit(args: PromptArguments, model_config, max_completion_length: int) -> int | None:
    """Most tokens a prompt may have: `max_prompt_length` or what a completion leaves of the context; None if free."""
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None) if model_config else None
    if not context:
        return args.max_prompt_length
    if max_completion_length >= context:
        raise ConfigError(
            f"max_completion_length is {max_completion_length}, and the model's context has {context} tokens for "
            "prompt and completion together: lower it."
        )
    return min(args.max_prompt_length or context, context - max_completion_length)


def _tokenise(batch: dict[str, list], indices: list[int], *, column: str, args: PromptArguments, tokenizer):
    tools = batch.get(args.tools_column) or [None] * len(indices)
    out: dict[str, list] = {"input_ids": [], "index": indices, "largest": [], "length": [], "problem": []}
    for value, own_tools in zip(batch[column], tools, strict=True):
        try:
            ids, problem = _input_ids(as_prompt(value, args), own_tools, tokenizer), ""
        except RowProblem as found:
            ids, problem = [], found.note()
        for name, fact in zip(
            ("input_ids", "largest", "length", "problem"), (ids, max(ids, default=0), len(ids), problem), strict=True
        ):
            out[name].append(fact)
    return out


def _input_ids(prompt: str | Messages, tools: list | None, tokenizer) -> list[int]:
    if isinstance(prompt, str):
        ids = prompt_ids(tokenizer, prompt)
    else:
        require_chat_template(tokenizer)
        try:
            text = tokenizer.apply_chat_template(
                prompt, tools=tools or None, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # whatever the template raises
            raise RowProblem("chat template", f"{type(error).__name__}: {error}"[:200]) from error
        ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise RowProblem("empty", f"{prompt!r:.60} has no tokens")
    return ids


def _raise_for_problems(notes: Sequence[str], source: str) -> None:
    bad = [(row, *note.split(": ", 1)) for row, note in enumerate(notes) if note]
    if not bad:
        return
    kind, found = bad[0][1:]
    rows = [row for row, other, _ in bad if other == kind]
    what, advice = PROBLEMS[kind]
    others = len(bad) - len(rows)
    more = f" Other problems in prompts beside these: {others}." if others else ""
    raise RewardDataError(
        f"{len(rows)} of {len(notes)} prompts of {source} {what} ({list_rows(rows)}; the first: {found}). "
        f"{advice}{more}"
    )


def _fitting(tokens: Dataset, limit: int | None, args: PromptArguments, completion: int, source: str) -> Dataset:
    lengths = np.asarray(tokens["length"][:])
    long = np.flatnonzero(lengths > limit) if limit is not None else []
    if not len(long):
        return tokens
    why = (
        f"longer than max_prompt_length={limit} tokens"
        if limit == args.max_prompt_length
        else f"longer than the {limit} tokens that max_completion_length={completion} leaves of the model's context"
    )
    if not args.drop_long_prompts or len(long) == len(tokens):
        drop = "" if args.drop_long_prompts else "set drop_long_prompts=true to leave them out, or "
        lower = "raise max_prompt_length" if limit == args.max_prompt_length else "lower max_completion_length"
        raise RewardDataError(
            f"{len(long)} of {len(tokens)} prompts of {source} are {why} ({list_rows(long[:6].tolist())}; the longest "
            f"has {lengths.max()}): {drop}{lower}."
        )
    logger.warning("Dropped %d of %d prompts of %s: %s.", len(long), len(tokens), source, why)
    return tokens.select(np.flatnonzero(lengths <= limit))


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
