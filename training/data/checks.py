"""What a reward set must hold, and the sentences a user reads when it does not.

Rows are checked where they are tokenised; a bad row raises `RowProblem`, is noted, and the whole set is read before
`raise_for_problems` reports one kind of problem with the number of rows it concerns. Rows are counted from 0.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from modeling_dvpo.text.problems import RowProblem

from ..errors import RewardDataError

# Rows with this return could not be told from rows without one: `labels` use it to mean "no target here".
IGNORED_RETURN = -100.0

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
        "are rewritten by the chat template from turn to turn, so that the assistant's tokens cannot be located",
        "Mark them with {% generation %} in the template, or give each assistant turn as a row of its own "
        "(prompt messages + completion).",
    ),
    "unscored": (
        "were scored by no reward function",
        "Every row needs a reward: add a function that covers them, or remove them.",
    ),
    "return of -100": (
        "have a return of exactly -100, which means 'no target' in `labels`",
        "Shift or rescale the reward a little.",
    ),
}


def raise_for_problems(notes: Sequence[str], row_ids: Sequence[int], source: str) -> None:
    """Raise for the first kind of problem noted ("" is a good row), counting the rows it concerns."""
    bad = [(row, note) for row, note in zip(row_ids, notes, strict=True) if note]
    if not bad:
        return
    kind, found = bad[0][1].split(": ", 1)
    rows = [row for row, note in bad if note.startswith(f"{kind}: ")]
    what, advice = PROBLEMS[kind]
    others = len(bad) - len(rows)
    more = f" Other problems in rows beside these: {others}." if others else ""
    raise RewardDataError(
        f"{len(rows)} of {len(notes)} rows of {source} {what} ({list_rows(rows)}; the first: {found}). {advice}{more}"
    )


def list_rows(rows: Sequence[int], most: int = 5) -> str:
    """`rows 3, 5, 8, …`"""
    shown = ", ".join(str(row) for row in rows[:most])
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', …' if len(rows) > most else ''}"


def require_column(name: str, columns: Iterable[str], *, argument: str, why: str) -> None:
    """Refuse a missing column, naming the nearest one there is."""
    columns = list(columns)
    if name in columns:
        return

    def likeness(column: str) -> float:
        # In order of the alphabet, so that `score_chosen` is like `chosen_score`.
        words = ["_".join(sorted(text.lower().split("_"))) for text in (name, column)]
        return difflib.SequenceMatcher(None, *words).ratio()

    near = max(columns, key=likeness, default=name)
    close = columns and likeness(near) >= 0.6
    advice = f"set `{argument}={near}` if that is the one" if close else f"name yours with `{argument}`"
    raise RewardDataError(f"No column {name!r} ({why}); the columns are {', '.join(columns) or 'none'}: {advice}.")


def finite_number(value: Any) -> float:
    """A reward as a float; a bool counts as 0 or 1, everything else that is not a finite number is a `RowProblem`."""
    if value is None:
        raise RowProblem("no reward", "None")
    if not isinstance(value, (int, float)):
        raise RowProblem("reward is not a number", f"{value!r:.60}, a {type(value).__name__}")
    if not math.isfinite(value):
        raise RowProblem("reward is not finite", repr(value))
    return float(value)


def require_pad_token(tokenizer) -> int:
    """The pad id, for the padded layout; the packed layout needs none."""
    if tokenizer.pad_token_id is None:
        raise RewardDataError(
            "The tokenizer has no pad token, and rows of different lengths are padded: set `tokenizer.pad_token` "
            "(`tokenizer.pad_token = tokenizer.eos_token` will do, padding is masked), or pack the rows."
        )
    return tokenizer.pad_token_id


def require_vocabulary(largest_id: int, row: int, vocab_size: int) -> None:
    if largest_id >= vocab_size:
        raise RewardDataError(
            f"The tokenizer does not fit the model: row {row} has token id {largest_id}, and the model's vocabulary "
            f"ends at {vocab_size - 1}. Use the model's own tokenizer, or resize the model's embeddings."
        )


def warn_if_constant(returns: Iterable[float], source: str) -> None:
    """A critic learns one number from such a set; likely a wrong column or a scorer that never fires."""
    returns = iter(returns)
    first, count = next(returns), 1
    for total in returns:
        if total != first:
            return
        count += 1
    if count > 1:
        warnings.warn(
            f"All {count} rows of {source} have the same total reward, {first:g}: a critic can learn nothing but that "
            "number from them. Check the reward column or the reward functions.",
            stacklevel=3,
        )
