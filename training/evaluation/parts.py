"""Work in numbered parts, each kept in a file of its own, so that a killed run goes on and ranks share the rest."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from modeling_dvpo.ranks import (
    barrier,
    is_main,
    rank,
    world_size,
)

from ..engine.distributed import gather_lists
from ..errors import ConfigError
from ..run.tracking import on_terminal


class Parts:
    """Tensors of numbered parts, in `{folder}/{kind}-00000.safetensors` and so on; each file is whole or not there.

    Args:
        folder: made when the first part is saved; all ranks must see the same one.
        kind: what the parts are; names the files.
        facts: what they follow from, JSON-ready: a part that was made from other facts is refused.
    """

    def __init__(self, folder: Path, kind: str, facts: dict):
        self.folder, self.kind, self.facts = Path(folder), kind, json.dumps(facts, sort_keys=True)

    def path(self, number: int) -> Path:
        return self.folder / f"{self.kind}-{number:05d}.safetensors"

    def fill(self, count: int, make: Callable[[int], dict[str, torch.Tensor]], description: str) -> None:
        """Make the parts that are missing of 0..count - 1, each on one rank; every rank must call it.

        Raises:
            ConfigError: a part that is there was made from other facts, or cannot be read.
        """
        # what rank 0 sees before anybody writes: all ranks must deal out the same list
        missing = gather_lists([n for n in range(count) if not self._has(n)] if is_main() else [])
        mine = missing[rank() :: world_size()]
        if is_main() and missing and len(missing) < count:
            tqdm.write(f"{description}: {count - len(missing)} of {count} parts are there from before")
        if is_main() and missing and not on_terminal():
            print(f"{description}: {len(missing)} parts to make", flush=True)
        for number in tqdm(mine, desc=description, unit="part", disable=not (is_main() and mine and on_terminal())):
            self._save(number, make(number))
        barrier()

    def load(self, number: int) -> dict[str, torch.Tensor]:
        with safe_open(self.path(number), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def _has(self, number: int) -> bool:
        path = self.path(number)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                made_from = (file.metadata() or {}).get("facts")
        except SafetensorError as error:
            raise ConfigError(f"{path} cannot be read ({error}): delete it, and --resume makes it again.") from error
        if made_from != self.facts:
            before, now = json.loads(made_from or "{}"), json.loads(self.facts)
            changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise ConfigError(
                f"{path} was made from something else: {', '.join(changed)} changed since. Choose another "
                "output_dir, or --overwrite_output_dir to start anew."
            )
        return True

    def _save(self, number: int, tensors: dict[str, torch.Tensor]) -> None:
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial{rank()}")
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, metadata={"facts": self.facts})
        partial.replace(path)


def cut(counts, most: int) -> list[range]:
    """Neighbouring items together, so that their counts add up to at most `most`, or one item alone."""
    parts, start, total = [], 0, 0
    for place, count in enumerate(counts):
        if place > start and total + count > most:
            parts.append(range(start, place))
            start, total = place, 0
        total += count
    return [*parts, range(start, len(counts))] if len(counts) else []
