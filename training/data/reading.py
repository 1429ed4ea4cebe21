"""Reading a set: its rows from wherever they are, their tokens once, and one sentence for what is wrong with them.

Reward sets and prompts both go this way. A bad row raises `RowProblem` where it is tokenised and is noted; the whole
set is read before one kind of problem is reported with the number of rows it concerns. Rows are counted from 0.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Json,
    List,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.packaged_modules.csv import csv
from datasets.packaged_modules.json import json as json_files

from modeling_dvpo.text.arrow_rows import without_added_nulls
from modeling_dvpo.text.problems import RowProblem

from ..errors import RewardDataError
from .cache_key import cache_key
from .text_files import TextFiles

logger = logging.getLogger(__name__)

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

# what every tokenised set has, and what is known of a row until it is checked
FEATURES = {"input_ids": List(Value("int32")), "length": Value("int32"), "row_id": Value("int64")}
NOTES = {"largest_id": Value("int64"), "problem": Value("string")}

# kind of `RowProblem` -> (what is wrong with the rows, what is needed and what to do)
Problems = Mapping[str, tuple[str, str]]


def read_rows(
    name: str,
    split: str,
    *,
    config: str | None = None,
    text_columns: Sequence[str] = (),
    number_columns: Sequence[str] = (),
) -> Dataset:
    """Rows of a .jsonl/.json/.parquet/.csv file, a directory written by `save_to_disk`, a folder of data files, or a
    set on the Hub.

    Text stays text: what looks like a date or a number in a JSON or CSV file is not made one. A date in parquet or
    Arrow has its type from whoever wrote it, and keeps it. Rows have no keys that Arrow added to nested values.

    Args:
        name: path or Hub name.
        split: which split, or slice of one; a single file is one split and answers to any name.
        config: configuration name of a Hub set.
        text_columns: columns in which an empty cell of a CSV file is an empty text, not a missing value.
        number_columns: the columns of a CSV file that hold numbers, or true and false; all others hold text.

    Raises:
        RewardDataError: there are no such rows, or none at all; says what there is.
    """
    path = Path(name)
    if path.suffix in READERS and not path.is_dir():
        if not path.is_file():
            raise RewardDataError(f"There is no file {name!r}: check the path (relative to {Path.cwd()}).")
        if not path.stat().st_size or not path.open("rb").read(4096).strip():
            raise RewardDataError(f"{name!r} is empty: a set needs at least one row.")
    elif path.is_file():
        raise RewardDataError(f"{name!r} is not one of {', '.join(READERS)}: convert it to one of these.")
    try:
        rows = _read(path, name, split, config, {"texts": tuple(text_columns), "numbers": tuple(number_columns)})
    except RewardDataError:
        raise
    except Exception as error:  # `datasets` raises whatever its readers raise
        reason = error.__cause__ or error
        if "corresponds to no data" in str(error):
            raise _no_rows(name, split) from error
        raise RewardDataError(
            f"{name!r}, split {split!r}, cannot be read ({type(reason).__name__}: {str(reason)[:300]}): give a file, "
            "a directory written by `save_to_disk`, a folder of data files or a Hub name, and a split that it has."
        ) from error
    if not len(rows):
        raise _no_rows(name, split)
    return rows


def _no_rows(name: str, split: str) -> RewardDataError:
    return RewardDataError(f"{name!r} has no rows in {split!r}: a set needs at least one row.")


def _read(path: Path, name: str, split: str, config: str | None, columns: dict[str, tuple[str, ...]]) -> Dataset:
    if path.is_file():
        files, kind = {split.split("[")[0]: name}, READERS[path.suffix]
        if kind == "parquet":
            return _as_written(load_dataset(kind, data_files=files, split=split))
        return _text_rows(split, kind=kind, data_files=files, **columns)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = load_from_disk(name)
        if not isinstance(saved, DatasetDict):
            return _as_written(saved)
        if split not in saved:
            raise RewardDataError(f"{name!r} has no split {split!r}: it has {', '.join(saved)}.")
        return _as_written(saved[split])
    found = load_dataset_builder(name, config)
    options = found.config
    if isinstance(found, csv.Csv):
        return _text_rows(split, kind="csv", data_files=options.data_files, delimiter=options.sep, **columns)
    if isinstance(found, json_files.Json) and options.field is None:
        return _text_rows(split, kind="json", data_files=options.data_files)
    return _as_written(load_dataset(name, config, split=split))


def _text_rows(split: str, **options) -> Dataset:
    builder = TextFiles(hash=cache_key(), **options)
    builder.download_and_prepare()
    return _as_written(builder.as_dataset(split=split))


def _as_written(rows: Dataset) -> Dataset:
    """The same rows, which give values as their author wrote them."""
    stored_as_json = [name for name, feature in rows.features.items() if feature == Json(decode=False)]
    return rows.with_transform(partial(_decoded, stored_as_json=stored_as_json))


def _decoded(batch: dict[str, list], *, stored_as_json: Sequence[str]) -> dict[str, list]:
    for name in stored_as_json:
        if name in batch:
            batch[name] = [None if value is None else json.loads(value) for value in batch[name]]
    return {name: [without_added_nulls(value) for value in values] for name, values in batch.items()}


def require_column(name: str, columns: Iterable[str], *, argument: str, why: str) -> None:
    """Refuse a missing column, naming the nearest one there is."""
    columns = list(columns)
    if name in columns:
        return

    def likeness(column: str) -> float:
        # In order of the alphabet, so that `score_chosen` is like `chosen_score`.
        here, there = ("_".join(sorted(text.lower().split("_"))) for text in (name, column))
        return difflib.SequenceMatcher(None, here, there).ratio()

    near = max(columns, key=likeness, default=name)
    close = columns and likeness(near) >= 0.6
    advice = f"set `{argument}={near}` if that is the one" if close else f"name yours with `{argument}`"
    raise RewardDataError(f"No column {name!r} ({why}); the columns are {', '.join(columns) or 'none'}: {advice}.")


def tokenised(
    rows: Dataset,
    tokenise: Callable[[Any], dict[str, Any]],
    features: Mapping[str, Any],
    *,
    parts: Callable[[dict[str, Any]], list] | None = None,
    rows_of: str,
    problems: Problems,
    model_config=None,
    num_proc: int | None = None,
) -> Dataset:
    """The rows as tokens, all of them checked.

    Args:
        rows: as `read_rows` gives them.
        tokenise: from a row to its columns, `input_ids` and those of `features`; raises `RowProblem`.
        features: of the columns beside `FEATURES`.
        parts: the rows that a source row holds, each tokenised by itself; it is one row by default.
        rows_of: what messages call the set: "rows of 'a.jsonl'".
        problems: the kinds of `RowProblem` that `tokenise` raises.
        model_config: for its vocabulary; without it token ids are not checked.
        num_proc: processes that tokenise; one by default.

    Returns:
        The columns of `FEATURES` and `features`; `row_id` is the number of the source row.

    Raises:
        RewardDataError: for the first kind of problem found, or a token id that the model does not know.
    """
    tokens = rows.map(
        partial(_tokenise, tokenise=tokenise, names=tuple(features), parts=parts, _key=cache_key()),
        with_indices=True,
        batched=True,
        batch_size=100,
        remove_columns=rows.column_names,
        features=Features({**FEATURES, **NOTES, **features}),
        num_proc=num_proc,
        desc=f"Tokenising {rows_of}",
    ).with_format(None)
    raise_for_problems(tokens["problem"][:], tokens["row_id"][:], rows_of, problems)
    if model_config is not None:
        _require_vocabulary(tokens, model_config.get_text_config().vocab_size)
    return tokens.remove_columns(list(NOTES))


def _tokenise(batch: dict[str, list], row_ids: list[int], *, tokenise, names: Sequence[str], parts, _key: str) -> dict:
    # `_key` is part of what the cache knows the result by
    out: dict[str, list] = {name: [] for name in (*FEATURES, *NOTES, *names)}
    for place, row_id in enumerate(row_ids):
        row = {name: values[place] for name, values in batch.items()}
        for part in [row] if parts is None else parts(row):
            try:
                found = {**tokenise(part), "problem": ""}
            except RowProblem as problem:
                found = {"input_ids": [], "problem": problem.note()}
            ids = found["input_ids"]
            found |= {"row_id": row_id, "length": len(ids), "largest_id": max(ids, default=0)}
            for name, values in out.items():
                values.append(found.get(name))
    return out


def raise_for_problems(notes: Sequence[str], row_ids: Sequence[int], rows_of: str, problems: Problems) -> None:
    """Raise for the first kind of problem noted ("" is a good row), counting the rows it concerns."""
    bad = [(row, *note.partition(": ")[::2]) for row, note in zip(row_ids, notes, strict=True) if note]
    if not bad:
        return
    _, kind, found = bad[0]
    what, advice = problems[kind]
    rows = [row for row, other, _ in bad if other == kind]
    more = f" Other problems in rows beside these: {len(bad) - len(rows)}." if len(rows) < len(bad) else ""
    raise RewardDataError(
        f"{len(rows)} of {len(notes)} {rows_of} {what} ({_listed(rows)}; the first: {found}). {advice}{more}"
    )


def _listed(rows: Sequence[int], most: int = 5) -> str:
    """`rows 3, 5, 8, …`"""
    shown = ", ".join(str(row) for row in rows[:most])
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', …' if len(rows) > most else ''}"


def _require_vocabulary(tokens: Dataset, vocab_size: int) -> None:
    # By the ids that occur, not the tokenizer's size: some tokenizers have ids that only a larger sibling model uses.
    largest = np.asarray(tokens["largest_id"][:])
    if largest.max() >= vocab_size:
        place = int((largest >= vocab_size).argmax())
        raise RewardDataError(
            f"The tokenizer does not fit the model: row {tokens['row_id'][place]} has token id {largest[place]}, and "
            f"the model's vocabulary ends at {vocab_size - 1}. Use the model's own tokenizer, or resize the model's "
            "embeddings."
        )


def context_of(model_config) -> int | None:
    """Most tokens the model takes, where its configuration says."""
    return getattr(model_config.get_text_config(), "max_position_embeddings", None) if model_config else None


@dataclass(frozen=True)
class Limit:
    """The most tokens a row may have; `why` and `remedy` are the words for a row that has more."""

    tokens: int
    why: str
    remedy: str


def fitting(tokens: Dataset, limit: Limit | None, *, rows_of: str, drop: bool, drop_argument: str) -> np.ndarray:
    """Places of the rows within the limit, in order.

    Args:
        tokens: a tokenised set.
        limit: None where nothing limits them.
        rows_of: what messages call the set.
        drop: leave longer rows out, unless all of them are longer.
        drop_argument: the argument that says so.

    Raises:
        RewardDataError: rows are longer and may not be left out.
    """
    if limit is None:
        return np.arange(len(tokens))
    lengths = np.asarray(tokens["length"][:])
    fits = lengths <= limit.tokens
    long = np.flatnonzero(~fits)
    if len(long) and (not drop or len(long) == len(lengths)):
        which = _listed([tokens["row_id"][int(place)] for place in long[:6]])
        advice = limit.remedy if drop else f"set {drop_argument}=true to leave them out, or {limit.remedy}"
        raise RewardDataError(
            f"{len(long)} of {len(lengths)} {rows_of} are {limit.why} ({which}; the longest has {lengths.max()}): "
            f"{advice}."
        )
    if len(long):
        logger.warning("Dropped %d of %d %s: %s.", len(long), len(lengths), rows_of, limit.why)
    return np.flatnonzero(fits)
