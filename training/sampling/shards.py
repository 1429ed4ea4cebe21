"""Rows on their way to a reward set: a file a rank, one line a prompt; then one file, in the order of the prompts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modeling_dvpo.ranks import rank


class Shards:
    """What the ranks of a run have written so far; they must see the same folder.

    Args:
        folder: made when the first rows are written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def write(self, rows: Iterable[tuple[int, list[dict[str, Any]]]]) -> None:
        """Append prompts, by their places, with their rows to this rank's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank-{rank():05d}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"place": place, "rows": own}) + "\n" for place, own in rows)

    def recover(self) -> set[int]:
        """Places of the prompts whose rows are there; cuts off what a killed run wrote of its last line."""
        for path in self._files():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return set(self._lines())

    def merge(self, path: str | Path) -> Iterator[dict[str, Any]]:
        """Write all rows to `path`, whole or not at all, and remove the shards; yields them as they are written."""
        lines, partial = self._lines(), Path(f"{path}.partial")
        with partial.open("w", encoding="utf-8") as merged:
            for place in sorted(lines):
                shard, start = lines[place]
                with shard.open("rb") as file:
                    file.seek(start)
                    rows = json.loads(file.readline())["rows"]
                for row in rows:
                    merged.write(json.dumps(row, ensure_ascii=False) + "\n")
                    yield row
        os.replace(partial, path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.jsonl"))

    def _lines(self) -> dict[int, tuple[Path, int]]:
        """Where each prompt's line is; of a prompt that was written twice, one of them."""
        found: dict[int, tuple[Path, int]] = {}
        for path in self._files():
            start = 0
            with path.open("rb") as file:
                for line in file:
                    found.setdefault(json.loads(line)["place"], (path, start))
                    start += len(line)
        return found
