"""Seeded streams of problems, and the split between training and held-out prompts: the same for every task."""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar


class HasPrompt(Protocol):
    @property
    def prompt(self) -> str: ...


P = TypeVar("P", bound=HasPrompt)  # a task's problem
D = TypeVar("D")  # and its domain

_HELD_OUT_SHARE = 5  # one prompt in five


def is_held_out(prompt: str) -> bool:
    """The split belongs to the prompt itself, so no seed and no domain can leak one side into the other."""
    return zlib.crc32(prompt.encode()) % _HELD_OUT_SHARE == 0


def problem_stream(
    task: str,
    draw: Callable[[D, random.Random], P | None],
    domains: Mapping[str, D],
    domain: str | Sequence[str],
    *,
    seed: int,
    held_out: bool,
) -> Iterator[P]:
    """An endless stream of problems of one side of the split; short ones come up again.

    Args:
        task: its name; the streams of two tasks have nothing in common.
        draw: one problem of a domain, or None to draw again.
        domains: by name.
        domain: a name, or several to draw from uniformly; each is then the stream it would be by itself.

    Raises:
        ValueError: no domain, or one that is unknown; at once, not when the first problem is drawn.
    """
    names = (domain,) if isinstance(domain, str) else tuple(domain)
    unknown = [name for name in names if name not in domains]
    if unknown or not names:
        got = f"Unknown domain {unknown[0]!r}" if unknown else "No domain given"
        raise ValueError(f"{got}; choose from {', '.join(domains)}.")

    def one_side(name: str) -> Iterator[P]:
        rng = random.Random(f"{task} {name} {seed}")
        while True:
            problem = draw(domains[name], rng)
            if problem is not None and is_held_out(problem.prompt) == held_out:
                yield problem

    def mixture(streams: list[Iterator[P]]) -> Iterator[P]:
        rng = random.Random(f"{task} mixture {seed}")
        while True:
            yield next(rng.choice(streams))

    streams = [one_side(name) for name in names]
    return mixture(streams) if len(streams) > 1 else streams[0]


def first_distinct(count: int, problems: Iterator[P]) -> list[P]:
    """The first `count` different problems of a stream. A domain with fewer keeps this waiting for ever."""
    found: dict[P, None] = {}
    while len(found) < count:
        found[next(problems)] = None
    return list(found)
