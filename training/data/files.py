"""Reading the rows of a reward set from wherever they are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ..errors import RewardDataError

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def read_rows(name: str, split: str, *, config: str | None = None, text_columns: Sequence[str] = ()) -> Dataset:
    """Rows of a .jsonl/.json/.parquet/.csv file, a directory written by `save_to_disk`, a folder of data files, or a
    set on the Hub.

    Args:
        name: path or Hub name.
        split: which split, or slice of one; a single file is one split and answers to any name.
        config: configuration name of a Hub set.
        text_columns: columns a CSV file must not turn into numbers or missing values.
    """
    path = Path(name)
    if path.suffix in READERS and not path.is_dir():
        if not path.is_file():
            raise RewardDataError(f"There is no file {name!r}: check the path (relative to {Path.cwd()}).")
        if not path.stat().st_size or not path.open("rb").read(4096).strip():
            raise RewardDataError(f"{name!r} is empty: a reward set needs at least one row.")
    elif path.is_file():
        raise RewardDataError(f"{name!r} is not one of {', '.join(READERS)}: convert it to one of these.")
    try:
        rows = _read(path, name, split, config, text_columns)
    except RewardDataError:
        raise
    except Exception as error:  # `datasets` raises whatever its readers raise
        reason = error.__cause__ or error
        if "corresponds to no data" in str(error):
            raise RewardDataError(
                f"{name!r} has no rows in {split!r}: a reward set needs at least one row."
            ) from error
        raise RewardDataError(
            f"{name!r}, split {split!r}, cannot be read ({type(reason).__name__}: {str(reason)[:300]}): give a file, "
            "a directory written by `save_to_disk`, a folder of data files or a Hub name, and a split that it has."
        ) from error
    if not len(rows):
        raise RewardDataError(f"{name!r} has no rows in {split!r}: a reward set needs at least one row.")
    return rows


def _read(path: Path, name: str, split: str, config: str | None, text_columns: Sequence[str]) -> Dataset:
    if path.is_file():
        options = {}
        if path.suffix == ".csv":
            # pandas would read a completion "007" as 7, and "null" or "NA" as nothing.
            with path.open(newline="", encoding="utf-8-sig") as file:
                columns = next(csv.reader(file))
            others = [column for column in columns if column not in text_columns]
            options = {
                "converters": {column: str for column in columns if column in text_columns},
                "keep_default_na": False,
                "na_values": {column: ["", "nan", "NaN", "NA", "None", "null"] for column in others},
            }
        return load_dataset(READERS[path.suffix], data_files={split.split("[")[0]: name}, split=split, **options)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = load_from_disk(name)
        if not isinstance(saved, DatasetDict):
            return saved
        if split not in saved:
            raise RewardDataError(f"{name!r} has no split {split!r}: it has {', '.join(saved)}.")
        return saved[split]
    return load_dataset(name, config, split=split)
