"""From one row of a reward set to tokens, action mask and rewards.

Frames: `completion_mask` and `rewards` are in the token frame, true or non-zero at the token that *is* the action. The
shift to the state before it happens where the critic is read, not here.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import (
    CompletionTokenizer,
    Tokens,
    plain_message,
    plain_messages,
)
from modeling_dvpo.text.problems import RowProblem

from .checks import IGNORED_RETURN, finite_number


@dataclass(kw_only=True)
class Row:
    """A row under our own names, whatever the columns were called.

    Either `prompt` and `completion`, or `messages`, a whole conversation. `extra` holds the columns that reward
    functions receive by name.
    """

    prompt: str | Messages | None = None
    completion: str | Messages | None = None
    messages: Messages | None = None
    reward: Any = None
    step_ends: list[int] | None = None
    token_rewards: list[float] | None = None
    truncated: bool = False
    subset: str | None = None
    tools: list | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def is_chat(self) -> bool:
        return self.messages is not None or not isinstance(self.prompt, str | None)

    def split(self) -> tuple[str | Messages, str | Messages]:
        """Prompt and completion; a conversation is split before its first assistant turn."""
        if self.messages is None:
            return self.prompt or "", self.completion or ""
        first = next((i for i, message in enumerate(self.messages) if message.get("role") == "assistant"), None)
        if first is None:
            return self.messages, []
        return self.messages[:first], self.messages[first:]

    def prompt_id(self) -> str:
        """Equal for equal prompts: what keeps a prompt on one side of a train/eval split."""
        prompt = self.split()[0]
        if not isinstance(prompt, str):
            prompt = json.dumps([plain_message(message) for message in prompt], sort_keys=True, default=str)
        return hashlib.sha256(prompt.encode()).hexdigest()[:16]


class RowTokenizer:
    """Tokenises rows and puts their rewards on action tokens.

    Args:
        tokenizer: a transformers tokenizer; step ends need a fast one, which knows character offsets.
        append_eos: end a text completion with the end token, unless it has one or the row is truncated.
    """

    def __init__(self, tokenizer, *, append_eos: bool = True):
        self.tokenize = CompletionTokenizer(tokenizer, append_eos=append_eos)

    def __call__(self, row: Row, *, with_rewards: bool = True) -> tuple[Tokens, list[float]]:
        """Tokens and rewards, one per token; raises `RowProblem`."""
        prompt, completion = self._split(row)
        tokens = self.tokenize(prompt, completion, tools=row.tools, truncated=row.truncated)
        rewards = np.zeros(len(tokens.input_ids), dtype=np.float32)
        if with_rewards:
            where = np.flatnonzero(tokens.actions)
            for action, reward in place_rewards(row, tokens):
                rewards[where[action]] += reward
            refuse_ignored_return(rewards, tokens.actions)
        return tokens, rewards.tolist()

    @staticmethod
    def _split(row: Row) -> tuple[str | Messages, Any]:
        if row.messages is None:
            return ("" if row.prompt is None else row.prompt), row.completion
        messages = plain_messages(row.messages)
        if all(message["role"] != "assistant" for message in messages):
            raise RowProblem("no assistant turn", f"roles {', '.join(m['role'] for m in messages) or 'none'}")
        return row.split()


def place_rewards(row: Row, tokens: Tokens) -> list[tuple[int, float]]:
    """Pairs of (action token, reward), action tokens counted from 0.

    - A number belongs to the last action token.
    - A list with `step_ends` (character offsets into the completion, exclusive ends, the last one its length): each
      reward belongs to the token that covers its step's last character, the last one to the last action token, so that
      one step is the same as a number. Steps that end in the same token add up.
    - `token_rewards`: one reward per action token.
    """
    count = sum(tokens.actions)
    if row.token_rewards is not None:
        rewards = [finite_number(reward) for reward in row.token_rewards]
        if len(rewards) != count and not (tokens.end_appended and len(rewards) == count - 1):
            raise RowProblem("token rewards", f"{len(rewards)} rewards for {count} tokens")
        return list(enumerate(rewards))
    if not isinstance(row.reward, list | tuple):
        if row.step_ends:
            raise RowProblem("step ends", f"step ends with a single reward, {row.reward!r:.60}")
        return [(count - 1, finite_number(row.reward))]
    if row.step_ends is None:
        raise RowProblem("step ends", "a list of rewards without step ends")
    if tokens.starts is None:
        raise RowProblem("step ends", "they need a fast tokenizer and exactly one assistant turn of plain text")
    rewards, ends = [finite_number(reward) for reward in row.reward], list(row.step_ends)
    if not ends or len(rewards) != len(ends):
        raise RowProblem("step ends", f"{len(rewards)} rewards and {len(ends)} step ends")
    if not all(isinstance(end, int) for end in ends) or any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        raise RowProblem("step ends", f"{ends!r:.60} is not increasing from above 0")
    if ends[-1] != len(tokens.text):
        raise RowProblem("step ends", f"the last is {ends[-1]}, the completion has {len(tokens.text)} characters")
    places = [max(bisect_right(tokens.starts, end - 1) - 1, 0) for end in ends[:-1]] + [count - 1]
    return list(zip(places, rewards, strict=True))


def refuse_ignored_return(rewards: np.ndarray, actions: list[bool]) -> None:
    """Undiscounted returns only; a discounted one that hits the number is the training script's to find."""
    returns = np.cumsum(rewards[::-1], dtype=np.float64)[::-1].astype(np.float32)
    if np.any(returns[np.asarray(actions)] == IGNORED_RETURN):
        raise RowProblem("return of -100", "an undiscounted return of -100")
