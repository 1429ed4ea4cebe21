"""Reward sets: from a file, a directory or a Hub name to tokenised rows ready for packing.

`load_reward_data` is the whole of it: read, tokenise, score where there are no rewards, check, split. What a row may
look like, and every error, is in `docs/reward_sets.md`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from modeling_dvpo.text_problems import RowProblem
from modeling_dvpo.training import reward_checks as checks
from modeling_dvpo.training.reward_checks import RewardDataError
from modeling_dvpo.training.reward_columns import row_reader
from modeling_dvpo.training.reward_files import read_rows
from modeling_dvpo.training.reward_rows import Row, RowTokenizer
from modeling_dvpo.training.reward_scoring import load_reward_function, score_rows
from modeling_dvpo.training.run_arguments import option

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RewardDataArguments:
    """Where the reward set is and how its columns are to be read."""

    dataset: str = field(
        metadata={"help": "A .jsonl/.json/.parquet/.csv file, a saved dataset, a folder of data files or a Hub name."}
    )
    dataset_config: str | None = option(None, "Configuration name of the dataset, where it has several.")
    dataset_split: str = option("train", "Split to train on; slices such as `train[:1000]` work.")
    eval_dataset: str | None = option(None, "Held-out set, in any of the forms of `dataset`.")
    eval_split: str | None = option(
        None, "Split to evaluate on: of `eval_dataset`, or of `dataset` where that is not given."
    )
    eval_fraction: float = option(0.0, "Share of the rows held out for evaluation, split by prompt; 0 for none.")
    prompt_column: str = option("prompt", "Prompt: text, or a list of chat messages.")
    completion_column: str = option("completion", "Completion: text, or a list of chat messages.")
    messages_column: str = option("messages", "Whole conversation; used where there is no completion column.")
    tools_column: str = option("tools", "Tools for the chat template, where the column exists.")
    reward_column: str = option("reward", "Reward: a number, or a list of numbers with `step_ends`.")
    step_ends_column: str = option("step_ends", "Ends of the steps, as character offsets into the completion.")
    token_rewards_column: str = option("token_rewards", "One reward per completion token, where the column exists.")
    chosen_column: str = option("chosen", "Preferred completion or conversation of a preference pair.")
    rejected_column: str = option("rejected", "Rejected completion or conversation of a preference pair.")
    chosen_score_column: str = option("chosen_score", "Score of the preferred completion.")
    rejected_score_column: str = option("rejected_score", "Score of the rejected completion.")
    truncated_column: str = option("truncated", "Whether the length limit cut the completion; it gets no end token.")
    subset_column: str | None = option(None, "Label (a domain, say) carried through to evaluation.")
    max_length: int | None = option(None, "Longest row in tokens; the model's context by default.")
    drop_long_rows: bool = option(False, "Drop rows longer than `max_length` instead of refusing the set.")
    append_eos: bool = option(True, "End text completions with the end token; chats are left to the template.")
    reward_funcs: list[str] = option(
        [], "Score the rows with these: `package.module:function` names, or directories or Hub names of reward models."
    )
    reward_weights: list[float] = option([], "Weight of each reward function; 1 by default.")
    reward_batch_size: int = option(64, "Rows a reward function is called with at a time.")
    num_workers: int | None = option(None, "Processes that tokenise; one by default.")

    def __post_init__(self):
        if not 0.0 <= self.eval_fraction < 1.0:
            raise RewardDataError(f"eval_fraction is {self.eval_fraction}; it is a share of the rows, 0 <= share < 1.")
        if self.eval_fraction and (self.eval_dataset or self.eval_split):
            raise RewardDataError("Give eval_fraction or a held-out set (eval_dataset, eval_split), not both.")
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise RewardDataError(
                f"{len(self.reward_weights)} reward_weights for {len(self.reward_funcs)} reward_funcs: one for each."
            )
        if self.max_length is not None and self.max_length < 2:
            raise RewardDataError(f"max_length is {self.max_length}; a row has a prompt token and an action token.")


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
