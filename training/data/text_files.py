"""JSON and CSV files, read so that text stays text.

The readers of `datasets` guess types: a column of "2024-05-01" becomes dates, "007" in a CSV file a number, and with
mixed types "7" one, too. A reward function that compares texts then never finds them equal.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from datasets import ArrowBasedBuilder, BuilderConfig, DatasetInfo, Features, Json, SplitGenerator, Value

from ..errors import RewardDataError

ROWS_PER_TABLE = 1000
# types that a column is stored as where all of its values have them; what else there is, is stored as JSON
STORED = (({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64"), ({str}, "string"))
# the cells of a CSV file's numeric columns that hold no number
MISSING = ("", "nan", "NaN", "NA", "None", "null")
WORDS = {"true": True, "false": False}


@dataclass
class TextFilesConfig(BuilderConfig):
    """`numbers`, `texts`: the columns of CSV files that hold numbers, and those where an empty cell is a text."""

    kind: str = "json"
    delimiter: str = ","
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class TextFiles(ArrowBasedBuilder):
    """The rows of JSON or CSV files.

    Strings stay strings, in columns of type string. A column of lists, of objects or of several types has the type
    `Json(decode=False)`: JSON text, which gives back what was written.
    """

    BUILDER_CONFIG_CLASS = TextFilesConfig

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager) -> list[SplitGenerator]:
        downloaded = dl_manager.download_and_extract(self.config.data_files)
        # each with its own name, since that of an extracted file says nothing to people
        files = {
            split: [
                (str(name), file)
                for name, part in zip(self.config.data_files[split], parts, strict=True)
                for file in dl_manager.iter_files(part)
            ]
            for split, parts in downloaded.items()
        }
        self.info.features = _features(itertools.chain.from_iterable(map(self._rows, files.values())))
        if not self.info.features:
            split, found = next(iter(files.items()))
            raise RewardDataError(f"{found[0][0]!r} has no rows in {split!r}: a set needs at least one row.")
        return [SplitGenerator(name=split, gen_kwargs={"files": found}) for split, found in files.items()]

    def _generate_tables(self, files: list[tuple[str, str]]) -> Iterator[tuple[int, pyarrow.Table]]:
        rows, schema = self._rows(files), self.info.features.arrow_schema
        for number, batch in enumerate(_batches(rows, ROWS_PER_TABLE)):
            columns = [
                pyarrow.array([_stored(row.get(name), feature) for row in batch], type=schema.field(name).type)
                for name, feature in self.info.features.items()
            ]
            yield number, pyarrow.Table.from_arrays(columns, names=list(self.info.features))

    def _rows(self, files: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        for name, file in files:
            if self.config.kind == "csv":
                yield from _csv_rows(file, self.config)
            else:
                yield from _json_rows(file, name)


def _features(rows: Iterable[dict[str, Any]]) -> Features:
    types: dict[str, set] = {}
    for row in rows:
        for name, value in row.items():
            seen = types.setdefault(name, set())
            if value is not None:
                # Arrow has no larger integers
                seen.add(object if type(value) is int and not -(2**63) <= value < 2**63 else type(value))
    return Features({name: _feature(seen) for name, seen in types.items()})


def _feature(types: set) -> Value | Json:
    return next((Value(name) for of, name in STORED if types and types <= of), Json(decode=False))


def _stored(value: Any, feature: Value | Json) -> Any:
    return json.dumps(value) if isinstance(feature, Json) and value is not None else value


def _batches(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _json_rows(file: str, name: str) -> Iterator[dict[str, Any]]:
    """Objects, one a line or in a list; a single one may go over several lines."""
    with Path(file).open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
        lines.seek(0)
        try:
            whole = first.lstrip().startswith("[") or not _is_json(first)
            values = json.load(lines) if first and whole else None
        except ValueError as error:
            raise RewardDataError(f"{name!r} cannot be read: {error}. {_NEEDED}") from error
        if values is not None:
            for place, value in enumerate(values if isinstance(values, list) else [values]):
                yield _object(value, f"Entry {place} of {name!r}")
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"Line {number} of {name!r}"
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise RewardDataError(f"{where} cannot be read: {error}. {_NEEDED}") from error
                yield _object(value, where)


_NEEDED = "A .jsonl file has a JSON object on each line; a .json file may have a list of them."


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RewardDataError(f"{where} is {value!r:.60}; it must be a JSON object, with a row's columns.")
    return value


def _csv_rows(file: str, config: TextFilesConfig) -> Iterator[dict[str, Any]]:
    with Path(file).open(newline="", encoding="utf-8-sig") as lines:
        csv.field_size_limit(2**31 - 1)  # 128 KiB by default; a long answer is no fault
        for number, row in enumerate(csv.DictReader(lines, delimiter=config.delimiter)):
            if None in row or None in row.values():
                raise RewardDataError(
                    f"Row {number} of a CSV file has {'more' if None in row else 'fewer'} cells than the file has "
                    f"columns ({', '.join(name for name in row if name)}): quote cells that hold a "
                    f"{config.delimiter!r} or a line break."
                )
            yield {name: _cell(name, cell, config.numbers, config.texts) for name, cell in row.items()}


def _cell(name: str, cell: str, numbers: Sequence[str], texts: Sequence[str]) -> Any:
    if name not in numbers:
        return cell if cell or name in texts else None
    if cell.strip() in MISSING:
        return None
    for convert in (int, float):
        try:
            return convert(cell)
        except ValueError:
            pass
    return WORDS.get(cell.strip().lower(), cell)
