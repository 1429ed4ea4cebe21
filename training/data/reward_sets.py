"""Reward sets: from a file, a directory or a Hub name to tokenised rows ready for packing.

`load_reward_data` is the whole of it: read, tokenise, score where there are no rewards, check, split. What a row may
look like, and every error, is in `docs/reward_sets.md`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from modeling_dvpo.text.problems import RowProblem

from ..errors import RewardDataError
from ..rewards.functions import RewardFunction, call_reward_functions, combine_rewards, load_reward_function
from . import checks
from .arguments import RewardDataArguments
from .columns import row_reader
from .files import read_rows
from .rows import Row, RowTokenizer

logger = logging.getLogger(__name__)


FEATURES = {
    "input_ids": List(Value("int32")),
    "completion_mask": List(Value("bool")),
    "rewards": List(Value("float32")),
    "length": Value("int32"),
    "row_id": Value("int64"),
    "prompt_id": Value("string"),
    "truncated": Value("bool"),
}


def load_reward_data(
    args: RewardDataArguments, tokenizer, *, model_config=None, seed: int = 0
) -> tuple[Dataset, Dataset | None]:
    """Tokenised training rows and, where asked for, held-out rows.

    Args:
        args: what to read.
        tokenizer: the critic's.
        model_config: for its context length and vocabulary size; without it neither is checked, except for
            `args.max_length` and the tokenizer's own `model_max_length`.
        seed: of the split by prompt.

    Returns:
        `(train, eval)`, memory-mapped, with columns

        input_ids        tokens of the whole row
        completion_mask  true where the token is an action (token frame); never at token 0
        rewards          0 except at action tokens
        length           number of tokens
        row_id           number of the row in its source, from 0; the two rows of a preference pair share it
        prompt_id        equal for equal prompts
        truncated        the completion was cut by the length limit
        subset           label; only with `subset_column`

    Raises:
        RewardDataError: the set, or its tokenizer, cannot be trained on.
    """
    load = partial(_load, args=args, tokenizer=tokenizer, model_config=model_config)
    train = load(args.dataset, args.dataset_split)
    if args.eval_fraction:
        return split_by_prompt(train, args.eval_fraction, seed=seed)
    if not args.eval_dataset and not args.eval_split:
        return train, None
    held_out = load(args.eval_dataset or args.dataset, args.eval_split or args.dataset_split)
    seen = set(train["prompt_id"])
    shared = sum(prompt in seen for prompt in held_out["prompt_id"])
    if shared:
        logger.warning("%d of %d held-out rows have a prompt that is also trained on.", shared, len(held_out))
    return train, held_out


def split_by_prompt(rows: Dataset, fraction: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Hold out whole prompts, in random order, until `fraction` of the rows is reached."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(rows["prompt_id"]):
        places.setdefault(prompt, []).append(place)
    if len(places) < 2:
        raise RewardDataError(
            f"All {len(rows)} rows have the same prompt, and held-out rows must have prompts of their own: "
            "give an eval_dataset, or set eval_fraction=0."
        )
    prompts = list(places)
    random.Random(seed).shuffle(prompts)
    held_out: list[int] = []
    for prompt in prompts[:-1]:
        held_out += places[prompt]
        if len(held_out) >= fraction * len(rows):
            break
    kept = sorted(set(range(len(rows))) - set(held_out))
    return rows.select(kept), rows.select(sorted(held_out))


def context_length(args: RewardDataArguments, tokenizer, model_config=None) -> int | None:
    """Most tokens a row may have: `max_length`, the model's context, or the tokenizer's; None if nothing says."""
    known = [args.max_length] if args.max_length else []
    if model_config is not None:
        known += [getattr(model_config.get_text_config(), "max_position_embeddings", None)]
    if not any(known) and tokenizer.model_max_length < 1 << 30:
        known += [tokenizer.model_max_length]
    return min((length for length in known if length), default=None)


def _load(name: str, split: str, *, args: RewardDataArguments, tokenizer, model_config) -> Dataset:
    source = f"{name!r}"
    raw = read_rows(
        name,
        split,
        config=args.dataset_config,
        text_columns=(args.prompt_column, args.completion_column, args.chosen_column, args.rejected_column),
    )
    to_rows = row_reader(args, raw.column_names)
    scored = bool(args.reward_funcs)
    tokenise = partial(
        _tokenise,
        to_rows=to_rows,
        tokenizer=RowTokenizer(tokenizer, append_eos=args.append_eos),
        with_rewards=not scored,
        with_subset=args.subset_column is not None,
    )
    features = Features({**FEATURES, "problem": Value("string")})
    if args.subset_column is not None:
        features["subset"] = Value("string")
    rows = raw.map(
        tokenise,
        with_indices=True,
        batched=True,
        batch_size=100,
        remove_columns=raw.column_names,
        features=features,
        num_proc=args.num_workers,
        desc=f"Tokenising {name}",
    )
    checks.raise_for_problems(rows["problem"][:], rows["row_id"][:], source)
    rows = rows.remove_columns("problem")
    if model_config is not None:
        _check_vocabulary(rows, model_config.get_text_config().vocab_size)
    per_source = len(rows) // len(raw)
    kept = _fitting(rows, context_length(args, tokenizer, model_config), args.drop_long_rows, source)
    if len(kept) < len(rows):
        rows = rows.select(kept)
    if scored:
        rows = _score(rows, lambda place: to_rows(raw[int(kept[place]) // per_source])[kept[place] % per_source], args)
    totals = (float(rewards.sum()) for rewards in rows.with_format("numpy")["rewards"])
    checks.warn_if_constant(totals, source)
    return rows


def _tokenise(
    batch: dict[str, list], indices: list[int], *, to_rows, tokenizer, with_rewards: bool, with_subset: bool
):
    out: dict[str, list] = {name: [] for name in [*FEATURES, "problem"]}
    if with_subset:
        out["subset"] = []
    for place, row_id in enumerate(indices):
        for row in to_rows({name: values[place] for name, values in batch.items()}):
            try:
                tokens, rewards = tokenizer(row, with_rewards=with_rewards)
                found = (tokens.input_ids, tokens.actions, rewards, row.prompt_id(), "")
            except RowProblem as problem:
                found = ([], [], [], "", problem.note())
            ids, actions, rewards, prompt_id, note = found
            facts = (ids, actions, rewards, len(ids), row_id, prompt_id, row.truncated, note)
            for name, value in zip([*FEATURES, "problem"], facts, strict=True):
                out[name].append(value)
            if with_subset:
                out["subset"].append(row.subset)
    return out


def _check_vocabulary(rows: Dataset, vocab_size: int) -> None:
    # By the ids that occur, not the tokenizer's size: some tokenizers have ids that only a larger sibling model uses.
    for batch in rows.with_format("numpy", columns=["input_ids", "row_id"]).iter(batch_size=1000):
        for ids, row in zip(batch["input_ids"], batch["row_id"], strict=True):
            checks.require_vocabulary(int(ids.max()), int(row), vocab_size)


def _fitting(rows: Dataset, limit: int | None, drop: bool, source: str) -> np.ndarray:
    """Places of the rows that fit the context."""
    lengths = np.asarray(rows.with_format("numpy")["length"][:])
    fits = np.full(len(rows), True) if limit is None else lengths <= limit
    long = int((~fits).sum())
    if long and (not drop or long == len(rows)):
        which = checks.list_rows([rows[int(place)]["row_id"] for place in np.flatnonzero(~fits)[:6]])
        advice = "raise max_length" if drop else "set drop_long_rows=true to leave them out, or raise max_length"
        raise RewardDataError(
            f"{long} of {len(rows)} rows of {source} are longer than the context of {limit} tokens ({which}; the "
            f"longest has {lengths.max()}): {advice} if the model allows it."
        )
    if long:
        logger.warning("Dropped %d of %d rows of %s: longer than %d tokens.", long, len(rows), source, limit)
    return np.flatnonzero(fits)


def _score(rows: Dataset, source_row: Callable[[int], Row], args: RewardDataArguments) -> Dataset:
    """Rewards from the reward functions, on the last action tokens; source rows are read again, not held in memory."""
    functions = [load_reward_function(name) for name in args.reward_funcs]
    scores: list[float | None] = []
    for start in range(0, len(rows), args.reward_batch_size):
        batch = rows[start : start + args.reward_batch_size]
        completion_ids = [
            [token for token, action in zip(ids, actions, strict=True) if action]
            for ids, actions in zip(batch["input_ids"], batch["completion_mask"], strict=True)
        ]
        sources = [source_row(start + place) for place in range(len(completion_ids))]
        scores += score_rows(sources, completion_ids, functions, weights=args.reward_weights, row_ids=batch["row_id"])
    notes = [
        "unscored: all returned None"
        if score is None
        else f"return of -100: a score of {score:g}"
        if np.float32(score) == checks.IGNORED_RETURN
        else ""
        for score in scores
    ]
    checks.raise_for_problems(notes, rows["row_id"][:], f"{args.dataset!r}")
    return rows.map(partial(_put_score, scores=scores), with_indices=True, desc="Placing rewards")


def _put_score(row: dict[str, Any], place: int, *, scores: list[float]) -> dict[str, Any]:
    # Every row ends with its last action token: what a chat template writes after it is cut off.
    return {"rewards": [0.0] * (row["length"] - 1) + [scores[place]]}


def score_rows(
    rows: Sequence[Row],
    completion_ids: Sequence[list[int]],
    functions: Sequence[RewardFunction],
    *,
    weights: Sequence[float] = (),
    row_ids: Sequence[int] | None = None,
) -> list[float | None]:
    """Weighted sum of the reward functions over rows of a reward set.

    Args:
        rows: one batch; each function is called once.
        completion_ids: token ids of each row's actions.
        functions: called with TRL's signature.
        weights: one per function, 1 by default.
        row_ids: numbers to report rows by.

    Returns:
        One finite number per row; a function that answers None is left out of the sum, and where all do, it is None.

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
    return combine_rewards(scores, weights, range(len(rows)) if row_ids is None else row_ids)


def _as_given(part):
    """Messages without the empty keys that Arrow adds; text as it is."""
    if isinstance(part, str):
        return part
    return [{key: value for key, value in message.items() if value is not None} for message in part]
