"""What the tasks with worked steps share: a completion is lines joined by `;`, the last of which states the answer."""

import random
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

ANSWER = "answer "


class WorkedProblem(Protocol):
    prompt: str

    def worked(self, carelessness: float = 0.0, rng: random.Random | None = None) -> str: ...


def stated_text(completion: str, answer: str) -> str | None:
    """What a completion ends by stating; None when it states no answer, or goes on after it.

    `answer` is the regular expression of one."""
    stated = re.search(rf"(?:^|;){ANSWER}({answer})\Z", completion)
    return stated[1] if stated else None


def matching_share(reference: str, completion: str) -> float:
    """The share of the reference's lines, its answer being the last, that stand in their place."""
    lines = reference.split(";")
    matches = [line == written for line, written in zip(lines, completion.split(";"), strict=False)]
    return sum(matches) / len(lines)


def careless_demonstrations(
    problems: Iterable[WorkedProblem], *, seed: int, carelessness: float
) -> Iterator[list[tuple[str, bool]]]:
    """Each problem as somebody careless works it out, to be imitated: the prompt, then the completion as the action
    (`imitation.Demonstration`). `seed` decides the slips."""
    worker = random.Random(seed)
    for problem in problems:
        yield [(problem.prompt, False), (problem.worked(carelessness, worker), True)]
