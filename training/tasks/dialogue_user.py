"""The simulated user of the dialogue task, and how its conversations are read.

The user answers truthfully what it is asked, once it may have misspoken in its opening. What it says depends on its
goal and on the conversation alone: asked again about the same conversation, it says the same.
"""

from .dialogue_goals import (
    ASK,
    BOOK,
    NO_WISH,
    SERVICES,
    VALUES,
    Goal,
)

EXTRA_QUESTIONS = 1
"""A user puts up with one question per slot of its goal and this many more."""


def environment(prompts: list[list[dict]], completions: list[list[dict]], goal: list[str], **columns) -> list:
    """What the user says next in each conversation.

    A question for a slot is answered with the value wanted, or `any` where the user has no wish. With the first value
    it is asked for, the user also puts right what its opening misspoke, and adds what it volunteers. It leaves at a
    booking, at anything that is no question for a slot, and once it has been asked one question per slot of its goal
    and `EXTRA_QUESTIONS` more: every conversation ends.

    Args:
        prompts: conversations whose last message is the goal's opening.
        completions: the messages since, by the assistant and the user in turn; the assistant's come first and last.
        goal: JSON strings, see `Goal.to_json`.

    Returns:
        for each conversation a user's message, or None where the user has left.

    Raises:
        ValueError: a goal that cannot be read, a prompt that is not the opening of its goal, or a completion that does
            not end with an assistant's message.
    """
    found = conversations(prompts, completions, goal)
    for _, completion in found:
        if completion[-1]["role"] != "assistant":
            raise ValueError(f"A user answers an assistant's message, got {completion[-1]!r} as the last one.")
    return [_reply(wanted, completion) for wanted, completion in found]


def conversations(
    prompts: list[list[dict]], completions: list[list[dict]], goals: list[str]
) -> list[tuple[Goal, list[dict]]]:
    """Each completion with its goal. Raises `ValueError` where they, or goal and prompt, do not fit together."""
    found = []
    for prompt, completion, text in zip(prompts, completions, goals, strict=True):
        goal = Goal.from_json(text)
        if not isinstance(prompt, list) or not prompt or prompt[-1]["content"] != goal.prompt:
            raise ValueError(
                f"A dialogue's prompt is a conversation that ends with the opening of its goal, {goal.prompt!r}, got "
                f"{prompt!r}. Take both columns from `prompt_rows`."
            )
        if not isinstance(completion, list) or not completion:
            raise ValueError(
                f"A dialogue's completion is a list of messages, an assistant's first, got {completion!r}. Generate "
                "from conversational prompts."
            )
        found.append((goal, completion))
    return found


def _reply(goal: Goal, completion: list[dict]) -> dict | None:
    slot = asked_slot(completion[-1]["content"])
    questions = sum(message["role"] == "assistant" for message in completion)
    if slot is None or questions > len(goal.slots) + EXTRA_QUESTIONS:
        return None
    if slot not in goal.slots:
        return {"role": "user", "content": NO_WISH}
    known = told(goal, completion)
    misspoken = [name for name, value in goal.told.items() if known[name] != goal.slots[name]]
    volunteered = [name for name in goal.volunteered if name not in known]
    names = dict.fromkeys([slot, *misspoken, *volunteered])  # each once, the answer first
    return {"role": "user", "content": ";".join(f"{name}={goal.slots[name]}" for name in names)}


def told(goal: Goal, completion: list[dict]) -> dict[str, str]:
    """The value of each slot as the user told it last, in the opening or since; untold slots are left out."""
    known = dict(goal.told)
    for message in completion:
        if message["role"] == "user" and message["content"] != NO_WISH:
            known |= dict(pair.partition("=")[::2] for pair in message["content"].split(";"))
    return known


def asked_slot(text: str) -> str | None:
    """The slot that an assistant's message asks for, or None where it is no question for one."""
    slot = text.removeprefix(ASK)
    return slot if text.startswith(ASK) and slot in VALUES else None


def read_booking(text: str) -> tuple[str, dict[str, str]] | None:
    """Service and slots that an assistant's message books, or None where it is no booking: a service is unknown, a
    slot has no value, or one is stated twice, be it the same."""
    service, *pairs = text.removeprefix(BOOK).split(";")
    slots = dict(pair.partition("=")[::2] for pair in pairs)
    well_formed = service in SERVICES and len(slots) == len(pairs) and all(slots.values())
    return (service, slots) if text.startswith(BOOK) and well_formed else None
