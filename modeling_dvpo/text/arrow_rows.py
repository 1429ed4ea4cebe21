"""Rows as they were written: without what Arrow adds to nested values."""

from __future__ import annotations

from typing import Any


def without_added_nulls(value: Any) -> Any:
    """The value without the keys that have none, at any depth; list members and the value itself may be None.

    Arrow gives every struct of a column the keys of all of them, with null where a row has no such key; templates and
    functions test for keys, and a template writes what it finds. A null that its author wrote looks the same in
    parquet, so it goes, too, wherever rows come from.
    """
    if isinstance(value, dict):
        return {key: without_added_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_added_nulls(item) for item in value]
    return value
