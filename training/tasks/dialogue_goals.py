"""What the users of the dialogue task want, and the few words they and the assistant have.

A goal is a service with the value wanted for each of two to five slots, and the way its user goes about telling them:
which slots are told in the opening, where the user misspeaks there, and what comes unasked with the first answer.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from .problem_streams import first_distinct, problem_stream

VALUES = {
    "food": ("thai", "greek", "indian", "french", "korean", "vegan"),
    "area": ("north", "south", "east", "west", "centre", "harbour"),
    "day": ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
    "time": ("dawn", "morning", "noon", "teatime", "dusk", "midnight"),
    "people": ("1", "2", "3", "4", "5", "6"),
    "nights": ("1", "2", "3", "4", "5", "6"),
    "stars": ("1", "2", "3", "4", "5"),
    "from": ("leeds", "york", "bath", "derby", "oxford", "truro"),
    "to": ("paris", "lille", "ghent", "bonn", "basel", "milan"),
    "field": ("skin", "eyes", "ears", "teeth", "heart", "bones"),
    "name": ("ann", "bob", "eve", "joe", "liz", "max"),
}
"""Every slot and what it may be."""

SERVICES = {
    "restaurant": ("food", "area", "day", "time", "people"),
    "hotel": ("area", "day", "people", "nights", "stars"),
    "train": ("from", "to", "day", "time", "people"),
    "taxi": ("from", "to", "day", "time", "people"),
    "doctor": ("field", "area", "day", "time", "name"),
}
"""Every service and the slots that are its own."""

ASK, BOOK, NO_WISH = "ask ", "book ", "any"
CHARACTERS = ";=123456"
_NAMES = (ASK, BOOK, NO_WISH, *SERVICES, *VALUES)
WORDS = tuple(dict.fromkeys([*_NAMES, *(value for values in VALUES.values() for value in values if len(value) > 1)]))
"""With `CHARACTERS`, every token that a text of the task is made of."""


@dataclass(frozen=True)
class Domain:
    """What the generator may draw."""

    num_slots: tuple[int, int]
    """Fewest and most slots of a goal."""
    misspoken: tuple[int, int]
    """Fewest and most values told wrongly in the opening and put right with the first answer."""
    foreign: bool = False
    """Whether some slots, at least one and not all, are not the service's own: pairs that no other domain has."""


DOMAINS = {
    "in_domain": Domain(num_slots=(2, 3), misspoken=(0, 1)),
    "more_slots": Domain(num_slots=(4, 5), misspoken=(0, 1)),
    "other_slots": Domain(num_slots=(2, 3), misspoken=(0, 1), foreign=True),
    "more_corrections": Domain(num_slots=(3, 3), misspoken=(2, 2)),
}
"""`in_domain` is what a policy is trained on; the others are for measuring how far it generalises. Of these, only
`more_corrections` can come upon an opening of `in_domain`, and its held-out side never upon one trained on."""

STUDY_DOMAINS = tuple(DOMAINS)
"""Reinforcement learning on the first is measured on the others; a policy that imitates them all has something to
lose in each. After 1000 steps of `imitation.train_policy` (learning rate 2e-3, carelessness 0.15, seed 0) it completes
52, 31, 54 and 40 % of 400 held-out tasks when sampled (90, 77, 91 and 87 % greedily). One that had seen `in_domain`
alone completed none of `more_slots`: it books three slots where more are wanted."""


@dataclass(frozen=True)
class Goal:
    """What a user wants and how it comes to be told.

    Raises:
        ValueError: an unknown service, slot or value; a slot told or volunteered that is not wanted; nothing left to
            ask for; or a slot volunteered that the opening tells.
    """

    service: str
    slots: dict[str, str] = field(hash=False)
    """The value wanted for each slot, in the order of the opening."""
    told: dict[str, str] = field(default_factory=dict, hash=False)
    """What the opening says of some of the slots; where that is not the value wanted, the user has misspoken."""
    volunteered: tuple[str, ...] = ()
    """Slots whose values come with the first answer, asked for or not."""

    def __post_init__(self):
        object.__setattr__(self, "volunteered", tuple(self.volunteered))  # JSON has lists only
        if self.service not in SERVICES:
            raise ValueError(f"Unknown service {self.service!r}; choose one of {', '.join(SERVICES)}.")
        for slot, value in [*self.slots.items(), *self.told.items()]:
            if slot not in VALUES:
                raise ValueError(f"Unknown slot {slot!r}; choose one of {', '.join(VALUES)}.")
            if value not in VALUES[slot]:
                raise ValueError(f"Slot {slot!r} cannot be {value!r}; choose one of {', '.join(VALUES[slot])}.")
        for slot in (*self.told, *self.volunteered):
            if slot not in self.slots:
                raise ValueError(
                    f"Slot {slot!r} is told but not wanted; the goal's slots are {', '.join(self.slots)}."
                )
        if twice := [slot for slot in self.volunteered if slot in self.told]:
            raise ValueError(f"Slot {twice[0]!r} is told in the opening already; volunteer only what it leaves open.")
        if len(self.told) == len(self.slots):
            raise ValueError("The opening tells every slot; a goal needs one that is left to ask for.")

    @classmethod
    def from_json(cls, text: str) -> "Goal":
        """Reads the `goal` column of a data set."""
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"A goal is a JSON string as `Goal.to_json` writes it, got {text!r}: {error}.") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def prompt(self) -> str:
        """The opening, the user's first message: `hotel;day=fri;people;stars` wants three things and tells one."""
        wanted = [f"{slot}={self.told[slot]}" if slot in self.told else slot for slot in self.slots]
        return ";".join([self.service, *wanted])


def generate_goals(*, seed: int, domain: str | Sequence[str] = "in_domain", held_out: bool = False) -> Iterator[Goal]:
    """An endless, seeded stream of goals of one side of the split, which goes by the opening; goals come up again.

    Several domains are drawn from uniformly. An unknown one raises `ValueError`.
    """
    return problem_stream("dialogue", _draw, DOMAINS, domain, seed=seed, held_out=held_out)


def distinct_goals(
    count: int, *, seed: int, domain: str | Sequence[str] = "in_domain", held_out: bool = False
) -> list[Goal]:
    """The first `count` different goals of the stream."""
    return first_distinct(count, generate_goals(seed=seed, domain=domain, held_out=held_out))


def prompt_rows(
    count: int, *, seed: int, domain: str | Sequence[str] = "in_domain", held_out: bool = False
) -> list[dict]:
    """A data set of the first `count` different goals of the stream: `prompt`, a conversation of the opening alone,
    and `goal`, a JSON string (dictionaries of different keys do not share a column). Goals may share an opening."""
    goals = distinct_goals(count, seed=seed, domain=domain, held_out=held_out)
    return [{"prompt": [{"role": "user", "content": goal.prompt}], "goal": goal.to_json()} for goal in goals]


def _draw(domain: Domain, rng: random.Random) -> Goal:
    service = rng.choice(list(SERVICES))
    count = rng.randint(*domain.num_slots)
    own = SERVICES[service]
    foreign = rng.sample([slot for slot in VALUES if slot not in own], domain.foreign and rng.randint(1, count - 1))
    names = foreign + rng.sample(own, count - len(foreign))
    rng.shuffle(names)
    slots = {slot: rng.choice(VALUES[slot]) for slot in names}

    misspoken = rng.randint(*domain.misspoken)
    told = rng.sample(names, rng.randint(misspoken, count - 1))
    said = {slot: other_value(slot, slots[slot], rng) if i < misspoken else slots[slot] for i, slot in enumerate(told)}
    open_slots = [slot for slot in names if slot not in said]
    # one user in four volunteers something
    volunteered = rng.sample(open_slots, len(open_slots) > 1 and rng.random() < 1 / 4)
    return Goal(service, slots, {slot: said[slot] for slot in names if slot in said}, tuple(volunteered))


def other_value(slot: str, value: str, rng: random.Random) -> str:
    """A value that the slot may have other than this one."""
    return rng.choice([other for other in VALUES[slot] if other != value])
