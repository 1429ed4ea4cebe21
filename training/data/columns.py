"""How the columns of a source row become a `Row`: names mapped, a preference pair made into two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import RewardDataError
from .checks import require_column
from .rows import Row

if TYPE_CHECKING:
    from .arguments import RewardDataArguments


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
