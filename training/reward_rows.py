"""From one row of a reward set to tokens, action mask and rewards.

Frames: `completion_mask` and `rewards` are in the token frame, true or non-zero at the token that *is* the action. The
shift to the state before it happens where the critic is read, not here.

Prompt and completion of a text row are tokenised apart, because the policy that sampled the completion had the
prompt's tokens fixed. A chat is rendered once and cut at the assistant's turns, and the pieces are tokenised apart for
the same reason.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeling_dvpo.training.reward_checks import (
    IGNORED_RETURN,
    RowProblem,
    finite_number,
    require_chat_template,
    require_end_token,
)
from modeling_dvpo.training.reward_turns import Messages, Spans, assistant_spans


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
            prompt = json.dumps([_plain(message) for message in prompt], sort_keys=True, default=str)
        return hashlib.sha256(prompt.encode()).hexdigest()[:16]


@dataclass
class Tokens:
    """Tokens of a row; `starts[i]` is where action token i (counted over actions) begins in the completion's text."""

    input_ids: list[int]
    actions: list[bool]
    text: str | None = None
    starts: list[int] | None = None
    end_appended: bool = False


class RowTokenizer:
    """Tokenises rows and puts their rewards on action tokens.

    Args:
        tokenizer: a transformers tokenizer; step ends need a fast one, which knows character offsets.
        append_eos: end a text completion with the end token, unless it has one or the row is truncated.
    """

    def __init__(self, tokenizer, *, append_eos: bool = True):
        self.tokenizer, self.append_eos = tokenizer, append_eos

    def __call__(self, row: Row, *, with_rewards: bool = True) -> tuple[Tokens, list[float]]:
        """Tokens and rewards, one per token; raises `RowProblem`."""
        tokens = self._chat(row) if row.is_chat() else self._text(row)
        if tokens.actions[0]:
            raise RowProblem("nothing before the first action", "an empty prompt")
        rewards = np.zeros(len(tokens.input_ids), dtype=np.float32)
        if with_rewards:
            where = np.flatnonzero(tokens.actions)
            for action, reward in place_rewards(row, tokens):
                rewards[where[action]] += reward
            refuse_ignored_return(rewards, tokens.actions)
        return tokens, rewards.tolist()

    def _text(self, row: Row) -> Tokens:
        completion = row.completion
        if completion is None or completion == "":
            raise RowProblem("empty completion", repr(completion))
        if not isinstance(completion, str):
            raise RowProblem("not text", f"a text prompt with a {type(completion).__name__} as completion")
        if self.append_eos:
            require_end_token(self.tokenizer)
        before = prompt_ids(self.tokenizer, row.prompt or "")
        ids, starts = self._encode(completion)
        if not ids:
            raise RowProblem("empty completion", f"{completion!r:.60} has no tokens")
        append = self.append_eos and not row.truncated and ids[-1] != self.tokenizer.eos_token_id
        if append:
            ids = [*ids, self.tokenizer.eos_token_id]
        actions = [False] * len(before) + [True] * len(ids)
        return Tokens(before + ids, actions, completion, starts, append)

    def _encode(self, text: str) -> tuple[list[int], list[int] | None]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(text, add_special_tokens=False).input_ids, None
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded.input_ids, [start for start, _ in encoded.offset_mapping]

    def _chat(self, row: Row) -> Tokens:
        require_chat_template(self.tokenizer)
        if row.messages is not None:
            plain_messages(row.messages)
        prompt, completion = row.split()
        if isinstance(prompt, str):
            raise RowProblem("not text", "a text prompt with chat messages as completion")
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}] if completion else []
        prompt, completion = plain_messages(prompt), plain_messages(completion)
        turns = [message for message in completion if message["role"] == "assistant"]
        if completion and not turns:
            raise RowProblem("no assistant turn", f"roles {', '.join(m['role'] for m in completion)}")
        if not any(message.get("content") or message.get("tool_calls") for message in turns):
            if row.messages is not None and not turns:
                raise RowProblem("no assistant turn", f"roles {', '.join(m['role'] for m in prompt) or 'none'}")
            raise RowProblem("empty completion", "no assistant turn with content")
        conversation = prompt + completion
        tokens = self._cut(
            *assistant_spans(self.tokenizer, conversation, len(prompt), tools=row.tools, truncated=row.truncated)
        )
        if not tokens.actions or not tokens.actions[-1]:
            raise RowProblem("empty completion", "the chat template writes nothing for the last assistant turn")
        if tokens.starts is not None:
            self._into_content(tokens, turns)
        return tokens

    def _cut(self, text: str, spans: Spans) -> Tokens:
        """Tokens of the text up to the end of its last turn, each piece tokenised apart.

        What a template writes after the last turn ("\\n", say) is neither state nor action.
        """
        ids: list[int] = []
        actions: list[bool] = []
        starts: list[int] | None = []
        position = 0
        for start, end in spans:
            between, _ = self._encode(text[position:start])
            turn, offsets = self._encode(text[start:end])
            ids += between + turn
            actions += [False] * len(between) + [True] * len(turn)
            starts = None if offsets is None or starts is None else starts + [start + offset for offset in offsets]
            position = end
        return Tokens(ids, actions, text, starts)

    @staticmethod
    def _into_content(tokens: Tokens, turns: Messages) -> None:
        """Count starts from the content of the only assistant turn; with several, step ends have no meaning."""
        content = turns[0].get("content")
        place = tokens.text.rfind(content) if len(turns) == 1 and isinstance(content, str) else -1
        if place < 0:
            tokens.text = tokens.starts = None
        else:
            tokens.text, tokens.starts = content, [start - place for start in tokens.starts]


def prompt_ids(tokenizer, text: str) -> list[int]:
    """Tokens of a text prompt with what this tokenizer puts in front, and without an end token it may put behind."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    bos = tokenizer.bos_token_id
    if bos is None or plain[:1] == [bos]:
        return plain
    by_habit = tokenizer(text).input_ids[:1] == [bos]
    return [bos, *plain] if by_habit or not plain else plain


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


def plain_messages(messages: Any) -> Messages:
    """The messages without the empty keys that Arrow adds; raises `RowProblem` where they are no messages."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") for m in messages):
        raise RowProblem("not text", f"{messages!r:.60} is not a list of messages")
    return [_plain(message) for message in messages]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    # Arrow gives every message the keys of all of them; templates test for keys, so those without a value must go.
    return {key: value for key, value in message.items() if value is not None}
