"""What the tasks with worked steps share: a completion is lines joined by `;`, the last of which states the answer."""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from .imitation import Demonstration
from .problem_streams import first_distinct, problem_stream

ANSWER = "answer "


class WorkedProblem(Protocol):
    @property
    def prompt(self) -> str: ...

    @property
    def solution(self) -> str: ...

    @property
    def answer(self) -> Any: ...

    @classmethod
    def from_prompt(cls, prompt: str) -> "WorkedProblem": ...

    def worked(self, carelessness: float = 0.0, rng: random.Random | None = None) -> str: ...


P = TypeVar("P", bound=WorkedProblem)


class WorkedTask(Generic[P]):
    """Streams of a task's problems, and the rewards of their completions; its module offers these methods by name.

    Args:
        name: of the task; the streams of two tasks have nothing in common.
        problem: the class of its problems.
        draw: one problem of a domain, or None to draw again.
        domains: by name; the first is the one drawn from by default.
        answer: the regular expression of a stated answer.
        read: from its text to what `problem.answer` is.
    """

    def __init__(
        self,
        name: str,
        problem: type[P],
        draw: Callable[[Any, random.Random], P | None],
        domains: Mapping[str, Any],
        *,
        answer: str,
        read: Callable[[str], Any],
    ):
        self.name, self.problem, self.draw, self.domains, self.read = name, problem, draw, domains, read
        self._stated = re.compile(rf"(?:^|;){ANSWER}({answer})\Z")

    def generate_problems(
        self, *, seed: int, domain: str | Sequence[str] | None = None, held_out: bool = False
    ) -> Iterator[P]:
        """An endless, seeded stream of problems of one side of the split; short ones come up again.

        Several domains are drawn from uniformly. An unknown one raises `ValueError`.
        """
        domain = next(iter(self.domains)) if domain is None else domain
        return problem_stream(self.name, self.draw, self.domains, domain, seed=seed, held_out=held_out)

    def distinct_problems(self, count: int, **stream) -> list[P]:
        """The first `count` different problems of the stream; arguments as `generate_problems` has them."""
        return first_distinct(count, self.generate_problems(**stream))

    def prompt_rows(self, count: int, **stream) -> list[dict[str, str]]:
        """A data set of the first `count` different problems of the stream; its one column is `prompt`."""
        return [{"prompt": problem.prompt} for problem in self.distinct_problems(count, **stream)]

    def demonstrations(
        self, *, seed: int, domain: str | Sequence[str] | None = None, carelessness: float
    ) -> Iterator[Demonstration]:
        """An endless stream of problems of the training side as somebody careless works them out, to be imitated:
        the prompt, then the completion as the action."""
        worker = random.Random(seed)
        for problem in self.generate_problems(seed=seed, domain=domain):
            yield [(problem.prompt, False), (problem.worked(carelessness, worker), True)]

    def stated_answer(self, completion: str) -> Any:
        """What a completion ends by stating; None when it states no answer, or goes on after it."""
        stated = self._stated.search(completion)
        return self.read(stated[1]) if stated else None

    def is_correct(self, prompt: str, completion: str) -> bool:
        """Whether the completion ends with the right answer, whatever stands before it."""
        return self.stated_answer(completion) == self.problem.from_prompt(prompt).answer

    def exact_reward(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """1 for the right answer, otherwise 0."""
        return [float(self.is_correct(*pair)) for pair in zip(prompts, completions, strict=True)]

    def graded_reward(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """Partial credit: the share of the reference solution's lines, its answer being the last, that stand in their
        place."""
        return [self._matching_share(*pair) for pair in zip(prompts, completions, strict=True)]

    def _matching_share(self, prompt: str, completion: str) -> float:
        lines = self.problem.from_prompt(prompt).solution.split(";")
        return sum(map(str.__eq__, lines, completion.split(";"))) / len(lines)
