"""Arithmetic with worked steps, as text.

A prompt is an expression, a completion works it out one operation at a time and states the answer::

    prompt      7+3*4-9=
    completion  3*4=12;7+12=19;19-9=10;answer 10

Products come first, from the left, then sums and differences from the left, so every problem has exactly one
reference solution. The reward functions read the problem back from the prompt: a reward set needs no other column.
"""

import random
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from .imitation import build_tokenizer
from .problem_streams import is_held_out as is_held_out  # the split is part of the task
from .worked_text import ANSWER, WorkedTask

CHARACTERS = "0123456789+-*=;"
WORDS = (ANSWER,)

_OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
_EXPRESSION = re.compile(r"\d+(?:[-+*]\d+)*=")
_STEP = re.compile(r"(-?\d+)([-+*])(-?\d+)=(-?\d+)")


@dataclass(frozen=True)
class Domain:
    """What the generator may draw. No value on the way, answer included, is negative or above `largest_value`."""

    num_operands: tuple[int, int]
    """Fewest and most operands; one fewer steps."""
    operands: tuple[int, int]
    """Smallest and largest operand of a sum or difference."""
    factors: tuple[int, int]
    """Smallest and largest operand of a product."""
    operators: str
    """Drawn from uniformly, so a repeated operator is a likelier one."""
    largest_value: int
    required: str = ""
    """An operator that every problem has."""


DOMAINS = {
    "in_domain": Domain((2, 4), (1, 19), (2, 6), "++--*", 59),
    "longer_operands": Domain((2, 4), (20, 39), (7, 9), "++--*", 99),
    "more_steps": Domain((5, 6), (1, 19), (2, 6), "++--*", 59),
    "more_products": Domain((3, 5), (1, 19), (2, 6), "+-***", 99),
    "single_digits": Domain((3, 5), (1, 9), (2, 3), "++--", 19),
    "two_digits": Domain((2, 3), (10, 29), (2, 3), "++--", 59),
    "digit_products": Domain((3, 4), (1, 9), (2, 5), "+-**", 49, required="*"),
    "many_digits": Domain((6, 7), (1, 9), (2, 3), "++--", 19),
}
"""`in_domain` is what a policy imitates; `single_digits` is a smaller world, whose slips a critic learns to see in
minutes. The others are for measuring how far a policy generalises. `more_products` can come upon a prompt of
`in_domain`, but its held-out side never upon one that was trained on."""

STUDY_DOMAINS = ("single_digits", "two_digits", "digit_products", "many_digits")
"""A policy that imitates them all has something to lose in each: reinforcement learning on the first, which shares no
prompt with the others, is measured on the others. After 800 steps of `imitation.train_policy` (carelessness 0.3, seed
0) sampled answers are right for 66, 63, 54 and 48 % of 400 held-out prompts, greedy ones for 91 to 100 %."""


@dataclass(frozen=True)
class Problem:
    """An expression: `operands[0] operators[0] operands[1] ...`."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    @classmethod
    def from_prompt(cls, prompt: str) -> "Problem":
        if not _EXPRESSION.fullmatch(prompt):
            raise ValueError(f"An arithmetic prompt looks like '7+3*4-9=', got {prompt!r}.")
        return cls(tuple(map(int, re.findall(r"\d+", prompt))), tuple(re.findall(r"[-+*]", prompt)))

    @property
    def prompt(self) -> str:
        tail = "".join(
            f"{operator}{operand}" for operator, operand in zip(self.operators, self.operands[1:], strict=True)
        )
        return f"{self.operands[0]}{tail}="

    @property
    def solution(self) -> str:
        """The reference completion."""
        return self.worked()

    @property
    def answer(self) -> int:
        return int(self.solution.rpartition(ANSWER)[2])

    def worked(self, carelessness: float = 0.0, rng: random.Random | None = None) -> str:
        """Works the problem out as somebody careless would: a hard step's result is wrong with probability
        `carelessness`, an easy one's with a tenth of that, and later steps carry on from the wrong value."""
        values, operators, steps = list(self.operands), list(self.operators), []
        while operators:
            at = operators.index("*") if "*" in operators else 0
            left, right, operator = values[at], values.pop(at + 1), operators.pop(at)
            result = _OPERATIONS[operator](left, right)
            if carelessness:
                assert rng is not None, "slips are drawn from rng"
                slip = carelessness if _is_hard(left, operator, right) else carelessness / 10
                result = _misread(result, rng) if rng.random() < slip else result
            values[at] = result
            steps.append(f"{left}{operator}{right}={result}")
        return ";".join([*steps, f"{ANSWER}{values[0]}"])


def _is_hard(left: int, operator: str, right: int) -> bool:
    """Whether a step carries, borrows, or is a product of two digits."""
    if operator == "*":
        return left * right >= 10
    return not 0 <= _OPERATIONS[operator](left % 10, right % 10) < 10


def _misread(result: int, rng: random.Random) -> int:
    """A believable wrong result: off by one or two, or by a forgotten carry."""
    candidates = [result + error for error in (-10, -2, -1, 1, 2, 10) if (result + error < 0) == (result < 0)]
    return rng.choice(candidates)


def _draw(domain: Domain, rng: random.Random) -> Problem | None:
    operators = tuple(rng.choice(domain.operators) for _ in range(rng.randint(*domain.num_operands) - 1))
    if domain.required and domain.required not in operators:
        return None
    # An operand is a factor when a product stands on either side of it.
    beside = zip(("", *operators), (*operators, ""), strict=True)
    problem = Problem(
        tuple(rng.randint(*(domain.factors if "*" in signs else domain.operands)) for signs in beside), operators
    )
    results = [int(step[4]) for step in _STEP.finditer(problem.solution)]
    return problem if all(0 <= result <= domain.largest_value for result in results) else None


_task = WorkedTask("arithmetic", Problem, _draw, DOMAINS, answer=r"-?\d+", read=int)
generate_problems = _task.generate_problems
distinct_problems = _task.distinct_problems
prompt_rows = _task.prompt_rows
demonstrations = _task.demonstrations
stated_answer = _task.stated_answer
is_correct = _task.is_correct
exact_reward = _task.exact_reward
graded_reward = _task.graded_reward


def tokenizer() -> PreTrainedTokenizerFast:
    """Made for the task: a token for `answer `, one for each digit and sign."""
    return build_tokenizer(WORDS, CHARACTERS)


def process_reward(prompts: list[str], completions: list[str], **columns) -> list[float]:
    """1 for the right answer, less 1 for each step that is false in itself, missing or too many.

    A step is judged by its own arithmetic alone. Where the other two rewards have settled on a loss after the first
    slip, this one still tells a careful end from a careless one.
    """
    rewards = []
    for prompt, completion in zip(prompts, completions, strict=True):
        problem = Problem.from_prompt(prompt)
        steps = completion.split(";")
        if steps[-1].startswith(ANSWER):
            steps.pop()
        needed = len(problem.operators)
        wrong = max(len(steps), needed) - min(sum(map(_is_true, steps)), needed)
        rewards.append(float(is_correct(prompt, completion)) - wrong)
    return rewards


def _is_true(step: str) -> bool:
    parts = _STEP.fullmatch(step)
    return parts is not None and _OPERATIONS[parts[2]](int(parts[1]), int(parts[3])) == int(parts[4])
