"""What a run takes from its data, in few numbers: kept in its checkpoints, and compared when it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import ConfigError
from .prompts import Prompts

BATCH = 1000


def reward_set_facts(rows: Dataset, name: str) -> dict[str, Any]:
    """Number of rows of a tokenised reward set, and digests of its tokens and of its rewards; `name` is the set's."""
    columns = ("input_ids", "completion_mask", "rewards")
    arrays = rows.select_columns(list(columns)).with_format("numpy")
    tokens, rewards = hashlib.sha256(), hashlib.sha256()
    for start in range(0, len(rows), BATCH):
        batch = arrays[start : start + BATCH]
        for ids, actions, paid in zip(*(batch[column] for column in columns), strict=True):
            tokens.update(np.int64(len(ids)).tobytes() + np.int64(ids).tobytes() + np.bool_(actions).tobytes())
            rewards.update(np.float32(paid).tobytes())
    return {
        f"{name} rows": len(rows),
        f"tokens of the {name} rows": tokens.hexdigest()[:16],
        f"rewards of the {name} rows": rewards.hexdigest()[:16],
    }


def prompt_facts(prompts: Prompts, name: str) -> dict[str, Any]:
    """Number of prompts, and digests of their tokens and of their other columns; `name` is the set's."""
    row_ids = prompts.tokens["row_id"][:]
    columns = [column for column in prompts.rows.column_names if column != prompts.column]
    others = prompts.rows.select(row_ids).select_columns(columns) if columns else []
    return {
        f"{name} prompts": len(prompts),
        f"tokens of the {name} prompts": _digest(prompts.tokens["input_ids"]),
        f"other columns of the {name} prompts": _digest(others),
    }


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def require_same_data(before: dict[str, Any] | None, now: dict[str, Any], output_dir) -> None:
    """Refuse to go on with other data: units, order and curve of the run would silently become another's.

    Raises:
        ConfigError: names what changed.
    """
    before = before or {}
    changed = [
        f"{name} (was {before.get(name)}, is {now.get(name)})"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"The run in {output_dir} was started on other data: {'; '.join(changed)}. Give it the data that it had, "
            "or start a new run in another output_dir. (Where reward functions answer differently each time, score "
            "the set once and keep the rewards in a column.)"
        )
