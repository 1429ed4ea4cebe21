"""Reward sets: from a file, a directory or a Hub name to tokenised rows ready for packing.

`load_reward_data` is the whole of it: read, tokenise, score where there are no rewards, check, split. What a row may
look like, and every error, is in `docs/reward_sets.md`.
"""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset, List, Value

from modeling_dvpo.text.completion_tokens import CompletionTokenizer

from ..engine.distributed import main_process_first
from ..errors import RewardDataError
from .arguments import RewardDataArguments, template_arguments
from .reading import Limit, context_of, fitting, raise_for_problems, read_rows, tokenised
from .row_scores import score_set
from .rows import Row, return_problem, row_reader, row_tokens

logger = logging.getLogger(__name__)

# beside those of `reading.FEATURES`
COLUMNS = {
    "completion_mask": List(Value("bool")),
    "rewards": List(Value("float32")),
    "prompt_id": Value("string"),
    "truncated": Value("bool"),
}
# log-probability of the row's action tokens under the policy that wrote them, where the set says it
LIKELIHOOD = "log_likelihood"

# kind -> (what is wrong with the rows, what is needed and what to do)
PROBLEMS = {
    "empty completion": (
        "have an empty completion",
        "Every row needs at least one token that the policy emitted; remove these rows.",
    ),
    "not text": (
        "have a prompt or completion of the wrong kind",
        "A row is text + text, chat messages + text, chat messages + chat messages, or one list of chat messages; a "
        'message is a dict with "role" and "content".',
    ),
    "no reward": ("have no reward", "Score them, remove them, or name `reward_funcs` that score the whole set."),
    "reward is not a number": (
        "have a reward that is not a number",
        "A reward is an int, a float or a bool (counted as 0 or 1); convert the column.",
    ),
    "reward is not finite": (
        "have a reward that is NaN or infinite",
        "One of them would spoil every weight of the critic; remove these rows or bound the reward.",
    ),
    "step ends": (
        "have step ends that do not match",
        "`reward` and `step_ends` are lists of equal length; step ends are character offsets into the completion, "
        "increasing, and the last is the length of the completion.",
    ),
    "token rewards": (
        "have token rewards that do not match",
        "A row needs one reward for each token of its completion, as this tokenizer cuts it (an appended end token "
        "may be left out and then has reward 0).",
    ),
    "nothing before the first action": (
        "start with an action token",
        "The value of an action is read at the token before it, so a row needs a prompt of at least one token; give a "
        "prompt or a tokenizer with a BOS token.",
    ),
    "no assistant turn": (
        "have no assistant turn to learn from",
        'Only messages with role "assistant" are actions; check the roles.',
    ),
    "chat template": (
        "are refused by the chat template",
        "Change these rows, pass what it needs with chat_template_kwargs, or set `tokenizer.chat_template`.",
    ),
    "earlier turn": (
        "have an assistant turn that the chat template rewrites once other turns follow, so that no text holds both "
        "what the policy wrote then and what it read later",
        "Give each assistant turn as a row of its own (prompt messages + completion), or keep the turns as they are "
        "by a template argument (chat_template_kwargs).",
    ),
    "last turn": (
        "have reasoning or tool calls that the chat template does not write as the policy did",
        'Give all that the policy wrote in its last turn, as it wrote it, as the message\'s "content", or pass the '
        "template the argument that keeps it (chat_template_kwargs).",
    ),
    "sampled tokens": (
        "have prompt_ids and completion_ids that are no tokens of this model",
        "Both are lists of token ids, not empty, as the policy read and sampled them. Remove these rows, or name "
        "other columns (prompt_ids_column, completion_ids_column), and the texts are tokenised.",
    ),
    "other text": (
        "have completion_ids that do not spell their completion",
        "They must be this tokenizer's, and of this completion. Use the policy's own tokenizer, or name other columns "
        "(prompt_ids_column, completion_ids_column), and the texts are tokenised.",
    ),
    "unscored": (
        "were scored by no reward function",
        "Every row needs a reward: add a function that covers them, or remove them.",
    ),
    "too large": (
        "have a reward, or rewards that sum to one, beyond 1e18",
        "Numbers are float32, and squares of returns are summed: bound the reward or rescale it.",
    ),
    "return of -100": (
        "have a return of exactly -100, which means 'no target' in `labels`",
        "Shift or rescale the reward a little.",
    ),
}


def load_reward_data(
    args: RewardDataArguments, tokenizer, *, model_config=None, seed: int = 0
) -> tuple[Dataset, Dataset | None]:
    """Tokenised training rows and, where asked for, held-out rows; every rank must call it, and gets the same.

    Rank 0 reads and tokenises first, and the others find its caches. Reward functions are asked once about each row,
    every rank about a share.

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
        log_likelihood   sum of the row's `logprobs_column`; only where the set has one

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


def _limit(args: RewardDataArguments, tokenizer, model_config) -> Limit | None:
    """`max_length`, the model's context, or the tokenizer's; None if nothing says."""
    known = [length for length in (args.max_length, context_of(model_config)) if length]
    if not known and tokenizer.model_max_length < 1 << 30:
        known = [tokenizer.model_max_length]
    if not known:
        return None
    tokens = min(known)
    return Limit(tokens, f"longer than the context of {tokens} tokens", "raise max_length if the model allows it")


def _load(name: str, split: str, *, args: RewardDataArguments, tokenizer, model_config) -> Dataset:
    rows_of = f"rows of {name!r}"
    with main_process_first():
        rows, source_row = _read(name, split, args, tokenizer, model_config, rows_of)
    if args.reward_funcs:
        scores = score_set(rows, source_row, args)
        raise_for_problems(list(map(_score_problem, scores)), rows["row_id"][:], rows_of, PROBLEMS)
        with main_process_first():
            rows = rows.map(partial(_put_score, scores=scores), with_indices=True, desc="Placing rewards")
    _warn_if_constant((float(rewards.sum()) for rewards in rows.with_format("numpy")["rewards"]), rows_of)
    return rows


def _read(
    name: str, split: str, args: RewardDataArguments, tokenizer, model_config, rows_of: str
) -> tuple[Dataset, Callable[[int], Row]]:
    """Tokenised rows, without rewards where functions are to give them, and from a row's place to what it was."""
    text_columns = (args.prompt_column, args.completion_column, args.chosen_column, args.rejected_column)
    numbers = (args.reward_column, args.chosen_score_column, args.rejected_score_column, args.truncated_column)
    raw = read_rows(name, split, config=args.dataset_config, text_columns=text_columns, number_columns=numbers)
    to_rows = row_reader(args, raw.column_names)
    features = COLUMNS | ({"subset": Value("string")} if args.subset_column is not None else {})
    logprobs = args.logprobs_column if args.logprobs_column in raw.column_names else None
    if logprobs:
        features[LIKELIHOOD] = Value("float64")
    rows = tokenised(
        raw,
        partial(
            _columns,
            tokenize=CompletionTokenizer(
                tokenizer,
                append_eos=args.append_eos,
                chat_template_kwargs=template_arguments(args.chat_template_kwargs),
            ),
            vocab_size=model_config.get_text_config().vocab_size if model_config else None,
            with_rewards=not args.reward_funcs,
            with_subset=args.subset_column is not None,
            logprobs=logprobs,
        ),
        features,
        parts=to_rows,
        rows_of=rows_of,
        problems=PROBLEMS,
        model_config=model_config,
        num_proc=args.num_workers,
    )
    parts = len(rows) // len(raw)
    limit = _limit(args, tokenizer, model_config)
    kept = fitting(rows, limit, rows_of=rows_of, drop=args.drop_long_rows, drop_argument="drop_long_rows")
    if len(kept) < len(rows):
        rows = rows.select(kept)
    # Source rows are read again, not held in memory.
    return rows, lambda place: to_rows(raw[int(kept[place]) // parts])[kept[place] % parts]


def _columns(
    row: Row,
    *,
    tokenize: CompletionTokenizer,
    vocab_size: int | None,
    with_rewards: bool,
    with_subset: bool,
    logprobs: str | None,
) -> dict[str, Any]:
    tokens, rewards = row_tokens(row, tokenize, vocab_size=vocab_size, with_rewards=with_rewards)
    columns = {
        "input_ids": tokens.input_ids,
        "completion_mask": tokens.actions,
        "rewards": rewards,
        "prompt_id": row.prompt_id(),
        "truncated": row.truncated,
    }
    if with_subset:
        columns["subset"] = row.subset
    if logprobs:
        columns[LIKELIHOOD] = _total(row.extra[logprobs])
    return columns


def _total(logprobs: Any) -> float:
    """A number, or the sum of a list of them; NaN for other forms, which only evaluation would have a use for."""
    numbers = logprobs if isinstance(logprobs, list) and logprobs else [logprobs]
    return math.fsum(numbers) if all(isinstance(number, float | int) for number in numbers) else math.nan


def _score_problem(score: float | None) -> str:
    if score is None:
        return "unscored: all returned None"
    problem = return_problem(score)
    return problem.note() if problem else ""


def _put_score(row: dict[str, Any], place: int, *, scores: Sequence[float | None]) -> dict[str, Any]:
    # Every row ends with its last action token: what a chat template writes after it is cut off.
    return {"rewards": [0.0] * (row["length"] - 1) + [scores[place]]}


def _warn_if_constant(returns: Iterable[float], rows_of: str) -> None:
    """A critic learns one number from such a set; likely a wrong column or a scorer that never fires."""
    returns = iter(returns)
    first, count = next(returns), 1
    for total in returns:
        if total != first:
            return
        count += 1
    if count > 1:
        warnings.warn(
            f"All {count} {rows_of} have the same total reward, {first:g}: a critic can learn nothing but that "
            "number from them. Check the reward column or the reward functions.",
            stacklevel=3,
        )
