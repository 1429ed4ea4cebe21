"""Rewards for a reward set that comes without: its rows are given to reward functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datasets import Dataset

from modeling_dvpo.ranks import rank, world_size
from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import plain_message

from ..engine.distributed import gather_lists, share_of
from ..rewards.functions import RewardFunction, call_reward_functions, combine_rewards, load_reward_function
from .arguments import RewardDataArguments
from .rows import Row


def score_set(tokens: Dataset, source_row: Callable[[int], Row], args: RewardDataArguments) -> list[float | None]:
    """What `args.reward_funcs` say of every row, as `score_rows` has it; every rank must call it, and gets the same.

    Each row is scored once, by one rank: a judge may answer differently when asked again, and costs. Batches are the
    same ones for any number of ranks.

    Args:
        tokens: the tokenised set.
        source_row: from the place of a row in `tokens` to the row.
        args: which functions, their weights, and how many rows they are called with at a time.
    """
    functions = [load_reward_function(name) for name in args.reward_funcs]
    scores: list[float | None] = []
    starts = range(0, len(tokens), args.reward_batch_size)
    for start in (starts[place] for place in share_of(starts, rank(), world_size())):
        batch = tokens[start : start + args.reward_batch_size]
        completion_ids = [
            [token for token, action in zip(ids, actions, strict=True) if action]
            for ids, actions in zip(batch["input_ids"], batch["completion_mask"], strict=True)
        ]
        rows = [source_row(start + place) for place in range(len(completion_ids))]
        scores += score_rows(rows, completion_ids, functions, weights=args.reward_weights, row_ids=batch["row_id"])
    return gather_lists(scores)


def score_rows(
    rows: Sequence[Row],
    completion_ids: Sequence[list[int]],
    functions: Sequence[RewardFunction],
    *,
    weights: Sequence[float],
    row_ids: Sequence[int],
) -> list[float | None]:
    """Weighted sum of the reward functions over rows of a reward set.

    Args:
        rows: one batch; each function is called once.
        completion_ids: token ids of each row's actions.
        functions: called with TRL's signature.
        weights: one per function; none means 1 for each.
        row_ids: numbers to report rows by.

    Returns:
        One finite number per row; a function that answers None is left out of the sum, and where all do, it is None.
        What functions log besides is thrown away: there is no step yet.

    Raises:
        RewardFunctionError, RewardDataError: as `call_reward_functions` and `combine_rewards` do.
    """
    parts = [row.split() for row in rows]
    prompts = [_as_given(prompt) for prompt, _ in parts]
    completions = [
        [{"role": "assistant", "content": completion}]
        if row.is_chat() and isinstance(completion, str)
        else _as_given(completion)
        for row, (_, completion) in zip(rows, parts, strict=True)
    ]
    scores = call_reward_functions(
        functions,
        prompts=prompts,
        completions=completions,
        completion_ids=completion_ids,
        columns={name: [row.extra.get(name) for row in rows] for name in rows[0].extra},
        row_ids=row_ids,
    )
    return combine_rewards(scores, weights, row_ids)


def _as_given(part: str | Messages) -> str | Messages:
    return part if isinstance(part, str) else [plain_message(message) for message in part]
