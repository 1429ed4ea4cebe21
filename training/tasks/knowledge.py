"""Questions over facts given in the context, as text.

A prompt lists facts, one about each name, and asks where a number of hops leads; a completion names the facts it
goes by and states the answer::

    prompt      c>d;a>c;d>a;b>a?b>>
    completion  b>a;a>c;answer c

Every name has one fact, so a walk never ends, and every problem has exactly one reference solution. The reward
functions read the problem back from the prompt: a reward set needs no other column.
"""

import random
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from .imitation import build_tokenizer
from .problem_streams import is_held_out as is_held_out  # the split is part of the task
from .worked_text import ANSWER, WorkedTask

NAMES = "abcdefghij"
CHARACTERS = NAMES + ">;?"
WORDS = (ANSWER,)

_PROMPT = re.compile(r"([a-z]>[a-z](?:;[a-z]>[a-z])*)\?([a-z])(>+)")
_FRESH_FACTS = 2


@dataclass(frozen=True)
class Domain:
    """What the generator may draw."""

    num_facts: tuple[int, int]
    """Fewest and most facts, which is how many names there are."""
    num_hops: tuple[int, int]
    names: str = NAMES
    """Drawn from without repetition."""


DOMAINS = {
    "few_facts": Domain((3, 5), (1, 2), NAMES[:6]),
    "more_facts": Domain((6, 8), (1, 2)),
    "more_hops": Domain((3, 5), (3, 4), NAMES[:6]),
    "more_of_both": Domain((6, 8), (3, 4)),
}
"""No two of them share a prompt."""

STUDY_DOMAINS = tuple(DOMAINS)
"""Reinforcement learning on the first is measured on the others; a policy that imitates them all has something to
lose in each. After 1000 steps of `imitation.train_policy` (carelessness 0.3, seed 0) sampled answers are right for 52,
23, 41 and 24 % of 400 held-out prompts; naming any name would be for about 26, 15, 26 and 15 %."""


@dataclass(frozen=True)
class Problem:
    """Facts as (name, the name it leads to), in the order they are read, and a walk of `num_hops` from `start`."""

    facts: tuple[tuple[str, str], ...]
    start: str
    num_hops: int

    @classmethod
    def from_prompt(cls, prompt: str) -> "Problem":
        parts = _PROMPT.fullmatch(prompt)
        if not parts:
            raise ValueError(f"A knowledge prompt looks like 'b>a;a>b?b>>', got {prompt!r}.")
        facts = tuple((fact[0], fact[2]) for fact in parts[1].split(";"))
        names = {name for fact in facts for name in fact} | {parts[2]}
        if sorted(name for name, _ in facts) != sorted(names):
            raise ValueError(f"A knowledge prompt has one fact for each of its names, got {prompt!r}.")
        return cls(facts, parts[2], len(parts[3]))

    @property
    def prompt(self) -> str:
        facts = ";".join(f"{name}>{leads_to}" for name, leads_to in self.facts)
        return f"{facts}?{self.start}{'>' * self.num_hops}"

    @property
    def solution(self) -> str:
        """The reference completion."""
        return self.worked()

    @property
    def answer(self) -> str:
        return self.solution.rpartition(ANSWER)[2]

    def worked(self, carelessness: float = 0.0, rng: random.Random | None = None) -> str:
        """Works the problem out as somebody would who remembers the last two facts read and is careless with the
        others: such a hop leads to a wrong name with probability `carelessness`, one by a fresh fact with a tenth of
        that, and later hops carry on from the wrong name."""
        leads_to, place, steps = dict(self.facts), self.start, []
        names = list(leads_to)
        fresh = names[-_FRESH_FACTS:]
        for _ in range(self.num_hops):
            reached = leads_to[place]
            if carelessness:
                assert rng is not None, "slips are drawn from rng"
                if rng.random() < (carelessness / 10 if place in fresh else carelessness):
                    reached = rng.choice([name for name in names if name not in (place, reached)] or [reached])
            steps.append(f"{place}>{reached}")
            place = reached
        return ";".join([*steps, f"{ANSWER}{place}"])


def _draw(domain: Domain, rng: random.Random) -> Problem:
    names = rng.sample(domain.names, rng.randint(*domain.num_facts))
    facts = tuple((name, rng.choice([other for other in names if other != name])) for name in names)
    return Problem(facts, rng.choice(names), rng.randint(*domain.num_hops))


_task = WorkedTask("knowledge", Problem, _draw, DOMAINS, answer="[a-z]", read=str)
generate_problems = _task.generate_problems
distinct_problems = _task.distinct_problems
prompt_rows = _task.prompt_rows
demonstrations = _task.demonstrations
stated_answer = _task.stated_answer
is_correct = _task.is_correct
exact_reward = _task.exact_reward
graded_reward = _task.graded_reward


def tokenizer() -> PreTrainedTokenizerFast:
    """Made for the task: a token for `answer `, one for each name and sign."""
    return build_tokenizer(WORDS, CHARACTERS)
