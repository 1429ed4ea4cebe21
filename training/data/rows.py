"""From one source row to a `Row`, its tokens, action mask and rewards.

Frames: `completion_mask` and `rewards` are in the token frame, true or non-zero at the token that *is* the action. The
shift to the state before it happens where the critic is read, not here.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from modeling_dvpo.returns import IGNORED_LABEL
from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import CompletionTokenizer, Tokens, plain_message, plain_messages
from modeling_dvpo.text.problems import RowProblem

from ..errors import RewardDataError
from ..rewards.bounds import LARGEST_REWARD
from .arguments import RewardDataArguments
from .reading import require_column
from .sampled_tokens import sampled_tokens


@dataclass(kw_only=True)
class Row:
    """A row under our own names, whatever the columns were called.

    Either `prompt` and `completion`, or `messages`, a whole conversation. `prompt_ids` and `completion_ids` are their
    tokens, where the policy's own are known. `extra` holds the columns that reward
    functions receive by name.
    """

    prompt: str | Messages | None = None
    completion: str | Messages | None = None
    messages: Messages | None = None
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
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
            return ("" if self.prompt is None else self.prompt), ("" if self.completion is None else self.completion)
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


def row_reader(args: RewardDataArguments, columns: list[str]) -> Callable[[dict[str, Any]], list[Row]]:
    """How a source row becomes one `Row`, or two for a preference pair; refuses a set without the columns it needs."""
    require = partial(require_column, columns=columns)
    if args.subset_column is not None:
        require(args.subset_column, argument="subset_column", why="the label to carry through to evaluation")
    completion = args.completion_column in columns
    pairs = args.chosen_column in columns and args.rejected_column in columns and not completion
    if pairs:
        if not args.reward_funcs:
            for column in ("chosen_score_column", "rejected_score_column"):
                require(getattr(args, column), argument=column, why="a preference pair needs a score on each side")
        return partial(_read_pair, args=args)
    if not completion and args.messages_column not in columns:
        why = f"there is neither it nor {args.messages_column!r}, the column of whole conversations"
        require(args.completion_column, argument="completion_column", why=why)
    if completion:
        require(args.prompt_column, argument="prompt_column", why="what the completions answer")
    if not args.reward_funcs and args.token_rewards_column not in columns:
        why = "what the critic learns to predict; rows without rewards can be scored with reward_funcs"
        require(args.reward_column, argument="reward_column", why=why)
    return partial(_read_row, args=args)


def _read_row(source: dict[str, Any], *, args: RewardDataArguments) -> list[Row]:
    is_messages = args.completion_column not in source
    return [
        Row(
            prompt=None if is_messages else source[args.prompt_column],
            completion=None if is_messages else source[args.completion_column],
            messages=source[args.messages_column] if is_messages else None,
            prompt_ids=source.get(args.prompt_ids_column),
            completion_ids=source.get(args.completion_ids_column),
            reward=source.get(args.reward_column),
            step_ends=source.get(args.step_ends_column),
            token_rewards=source.get(args.token_rewards_column),
            **_shared(source, args),
        )
    ]


def _read_pair(source: dict[str, Any], *, args: RewardDataArguments) -> list[Row]:
    prompt, rows = source.get(args.prompt_column), []
    for side in ("chosen", "rejected"):
        answer = source[getattr(args, f"{side}_column")]
        # A list that does not begin with the assistant holds its prompt itself.
        whole = isinstance(answer, list) and bool(answer) and answer[0].get("role") != "assistant"
        if not whole and args.prompt_column not in source:
            # As text with the prompt inside, all of it would count as the policy's.
            require_column(args.prompt_column, source, argument="prompt_column", why="what both sides answer")
        rows.append(
            Row(
                prompt=None if whole else prompt,
                completion=None if whole else answer,
                messages=answer if whole else None,
                reward=source.get(getattr(args, f"{side}_score_column")),
                **_shared(source, args),
            )
        )
    return rows


def _shared(source: dict[str, Any], args: RewardDataArguments) -> dict[str, Any]:
    taken = {args.prompt_column, args.completion_column, args.chosen_column, args.rejected_column}
    taken |= {args.prompt_ids_column, args.completion_ids_column}
    subset = source.get(args.subset_column) if args.subset_column else None
    truncated = source.get(args.truncated_column)
    if isinstance(truncated, str):
        raise RewardDataError(
            f"Column {args.truncated_column!r} holds text ({truncated!r:.40}), and it must say true or false: convert "
            "it, or name another with `truncated_column`."
        )
    return {
        "truncated": bool(truncated),
        "subset": None if subset is None else str(subset),
        "tools": source.get(args.tools_column) or None,
        "extra": {name: value for name, value in source.items() if name not in taken},
    }


def row_tokens(
    row: Row, tokenize: CompletionTokenizer, *, vocab_size: int | None = None, with_rewards: bool = True
) -> tuple[Tokens, list[float]]:
    """Tokens, and one reward for each of them, which is 0 except at action tokens; raises `RowProblem`.

    Args:
        row: with the policy's own tokens, which are taken as they are, or without.
        tokenize: makes tokens of its texts otherwise.
        vocab_size: the model's, where it is known.
        with_rewards: place the row's rewards.
    """
    if row.messages is not None:
        roles = [message["role"] for message in plain_messages(row.messages)]
        if "assistant" not in roles:
            raise RowProblem("no assistant turn", f"roles {', '.join(roles) or 'none'}")
    prompt, completion = row.split()
    if row.prompt_ids is None and row.completion_ids is None:
        tokens = tokenize(prompt, completion, tools=row.tools, truncated=row.truncated)
    else:
        tokens = sampled_tokens(tokenize.tokenizer, row.prompt_ids, row.completion_ids, completion, vocab_size)
    rewards = np.zeros(len(tokens.input_ids))
    if with_rewards:
        where = np.flatnonzero(tokens.actions)
        for action, reward in _placed(row, tokens):
            rewards[where[action]] += reward
        _refuse_returns(rewards, tokens.actions)
    return tokens, rewards.astype(np.float32).tolist()


def _placed(row: Row, tokens: Tokens) -> list[tuple[int, float]]:
    """Pairs of (action token, reward), action tokens counted from 0.

    - A number belongs to the last action token.
    - A list with `step_ends` (character offsets into the completion, exclusive ends, the last one its length): each
      reward belongs to the token that covers its step's last character, the last one to the last action token, so that
      one step is the same as a number. Steps that end in the same token add up.
    - `token_rewards`: one reward per action token.
    """
    count = sum(tokens.actions)
    if row.token_rewards is not None:
        rewards = [_finite(reward) for reward in row.token_rewards]
        if len(rewards) != count and not (tokens.end_appended and len(rewards) == count - 1):
            raise RowProblem("token rewards", f"{len(rewards)} rewards for {count} tokens")
        return list(enumerate(rewards))
    if not isinstance(row.reward, list | tuple):
        if row.step_ends:
            raise RowProblem("step ends", f"step ends with a single reward, {row.reward!r:.60}")
        return [(count - 1, _finite(row.reward))]
    if row.step_ends is None:
        raise RowProblem("step ends", "a list of rewards without step ends")
    if row.completion_ids is not None:
        raise RowProblem("step ends", "completion_ids besides: their rewards are token_rewards, one a token")
    if tokens.text is None or tokens.starts is None:
        raise RowProblem("step ends", "they need a fast tokenizer and exactly one assistant turn of plain text")
    rewards, ends = [_finite(reward) for reward in row.reward], list(row.step_ends)
    if not ends or len(rewards) != len(ends):
        raise RowProblem("step ends", f"{len(rewards)} rewards and {len(ends)} step ends")
    if not all(isinstance(end, int) for end in ends) or any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        raise RowProblem("step ends", f"{ends!r:.60} is not increasing from above 0")
    if ends[-1] != len(tokens.text):
        raise RowProblem("step ends", f"the last is {ends[-1]}, the completion has {len(tokens.text)} characters")
    places = [max(bisect_right(tokens.starts, end - 1) - 1, 0) for end in ends[:-1]] + [count - 1]
    return list(zip(places, rewards, strict=True))


def _finite(value: Any) -> float:
    """A reward as a float; a bool counts as 0 or 1, everything else that is not a finite number is a `RowProblem`."""
    if value is None:
        raise RowProblem("no reward", "None")
    if not isinstance(value, (int, float)):
        raise RowProblem("reward is not a number", f"{value!r:.60}, a {type(value).__name__}")
    if not math.isfinite(value):
        raise RowProblem("reward is not finite", repr(value))
    return float(value)


def _refuse_returns(rewards: np.ndarray, actions: list[bool]) -> None:
    """Undiscounted returns only; a discounted one that hits the number is the training script's to find."""
    returns = np.cumsum(rewards[::-1])[::-1]
    if problem := return_problem(returns[np.asarray(actions)]):
        raise problem


def return_problem(returns: Any) -> RowProblem | None:
    """What is wrong with these returns, numbers or an array of them, of float64."""
    returns = np.atleast_1d(np.asarray(returns, dtype=np.float64))
    largest = returns[np.abs(returns).argmax()]
    if abs(largest) > LARGEST_REWARD:
        return RowProblem("too large", f"{largest:g}")
    if np.any(returns.astype(np.float32) == IGNORED_LABEL):
        return RowProblem("return of -100", "an undiscounted return of -100")
    return None
