"""A dialogue with several turns: an assistant finds out what a user wants, and books it.

The user opens with a service and the slots that matter, some of them with a value. The assistant asks for the others,
one at a time, keeps to what the user said last, and states the booking::

    user       hotel;day=fri;people;stars
    assistant  ask people
    user       people=3;day=sat             (misspoke before)
    assistant  ask stars
    user       stars=4
    assistant  book hotel;day=sat;people=3;stars=4

The rewards need the data set's `goal` column and follow TRL's signature. Three of them are rates after the idea of the
task, action and goal completion rates (TCR, ACR, GCR) that the DVPO paper (arXiv 2512.03847) reports for its dialogue
domains. We found no published definitions of its rates or its dialogues: these definitions and this task are ours.
"""

import random
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerFast

from .dialogue_goals import (
    ASK,
    BOOK,
    CHARACTERS,
    DOMAINS,
    STUDY_DOMAINS,
    WORDS,
    Goal,
    distinct_goals,
    generate_goals,
    other_value,
    prompt_rows,
)
from .dialogue_user import (
    conversations,
    environment,
    read_booking,
    told,
)
from .imitation import Demonstration, build_tokenizer, conversation_demonstration

__all__ = [
    "CHARACTERS",
    "CHAT_TEMPLATE",
    "DOMAINS",
    "SPECIAL_TOKENS",
    "STUDY_DOMAINS",
    "WORDS",
    "Goal",
    "action_completion",
    "demonstration",
    "demonstrations",
    "distinct_goals",
    "environment",
    "generate_goals",
    "goal_completion",
    "graded_reward",
    "prompt_rows",
    "stated_answer",
    "task_completion",
    "tokenizer",
]

SPECIAL_TOKENS = ("<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""A marker of one token begins a message, the end token ends it."""


def demonstration(goal: Goal, carelessness: float = 0.0, rng: random.Random | None = None) -> list[dict]:
    """A conversation, opening included, as an assistant would lead it who is careless now and then.

    A slot that the opening leaves open is never asked for with probability `carelessness` / 2, and then missing in the
    booking unless the user volunteers it. What is asked for, volunteered or put right is booked wrongly with
    probability `carelessness`, anything else with a tenth of that; of a value put right it is the old one that is
    booked, of others any.

    Args:
        carelessness: from 0, where each conversation gets all rewards in full, to 1.
        rng: decides on the slips; unused without carelessness.
    """
    opening = {"role": "user", "content": goal.prompt}
    completion: list[dict] = []
    for slot in goal.slots:
        forgotten = carelessness > 0 and rng is not None and rng.random() < carelessness / 2
        if slot not in told(goal, completion) and not forgotten:
            completion.append({"role": "assistant", "content": f"{ASK}{slot}"})
            completion += environment([[opening]], [completion], [goal.to_json()])
    known = told(goal, completion)
    booked = {slot: _booked(goal, slot, known[slot], carelessness, rng) for slot in goal.slots if slot in known}
    statement = ";".join([goal.service, *(f"{slot}={value}" for slot, value in booked.items())])
    return [opening, *completion, {"role": "assistant", "content": f"{BOOK}{statement}"}]


def demonstrations(
    *, seed: int, domain: str | Sequence[str] = "in_domain", carelessness: float = 0.15
) -> Iterator[Demonstration]:
    """An endless stream of goals of the training side as somebody careless goes about them, to be imitated."""
    renders, slips = tokenizer(), random.Random(seed)
    for goal in generate_goals(seed=seed, domain=domain):
        yield conversation_demonstration(demonstration(goal, carelessness, slips), renders)


def tokenizer() -> PreTrainedTokenizerFast:
    """Made for the task: a token for each service, slot and value, and one that begins each message."""
    return build_tokenizer(WORDS, CHARACTERS, chat_template=CHAT_TEMPLATE, special_tokens=SPECIAL_TOKENS)


def _booked(goal: Goal, slot: str, value: str, carelessness: float, rng: random.Random | None) -> str:
    before = goal.told.get(slot)
    slip = carelessness / 10 if before == value else carelessness
    if not slip:
        return value
    assert rng is not None, "slips are drawn from rng"
    if rng.random() >= slip:
        return value
    return before if before not in (None, value) else other_value(slot, value, rng)


def stated_answer(text: str) -> tuple | None:
    """The booking that an assistant's turns, each on a line of its own, end with: equal for equal bookings, whichever
    order the slots are in. None where the last turn is no booking."""
    booking = read_booking(text.rpartition("\n")[2])
    return booking and (booking[0], *sorted(booking[1].items()))


def task_completion(prompts: list, completions: list, goal: list[str], **columns) -> list[float]:
    """TCR: 1 where the last message books the service with just the slots and values wanted, otherwise 0."""
    return [float(_goal_share(*conversation) == 1) for conversation in conversations(prompts, completions, goal)]


def action_completion(prompts: list, completions: list, goal: list[str], **columns) -> list[float]:
    """ACR: the share of the actions a goal needs that were done, whatever values are booked.

    The actions are to get the wanted value of each slot told (those that the opening tells rightly need none; one put
    right or volunteered is got as well as one asked for), and to end with a booking of the service.
    """
    rates = []
    for wanted, completion in conversations(prompts, completions, goal):
        to_learn = wanted.slots.items() - wanted.told.items()
        booking = read_booking(completion[-1]["content"])
        ended = booking is not None and booking[0] == wanted.service
        rates.append((len(to_learn & told(wanted, completion).items()) + ended) / (len(to_learn) + 1))
    return rates


def goal_completion(prompts: list, completions: list, goal: list[str], **columns) -> list[float]:
    """GCR: the share of slots, among those wanted or booked, that the last message books with the wanted value,
    whether or not the user has told it; 0 where it is no booking or one of another service."""
    return [_goal_share(*conversation) for conversation in conversations(prompts, completions, goal)]


def graded_reward(prompts: list, completions: list, goal: list[str], **columns) -> list[float]:
    """Partial credit: the mean of the three rates, from 0 to 1."""
    rates = (rate(prompts, completions, goal) for rate in (task_completion, action_completion, goal_completion))
    return [sum(of_one) / 3 for of_one in zip(*rates, strict=True)]


def _goal_share(goal: Goal, completion: list[dict]) -> float:
    booking = read_booking(completion[-1]["content"])
    if booking is None or booking[0] != goal.service:
        return 0.0
    booked = booking[1]
    return len(booked.items() & goal.slots.items()) / len(booked.keys() | goal.slots.keys())
