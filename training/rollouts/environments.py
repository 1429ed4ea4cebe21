"""Environments: who answers the policy's turns, and which tokens stand between one turn and the next.

An environment is a function, or a coroutine function, called after each of the policy's turns with all conversations
that go on:

    environment(prompts=[...], completions=[...], **columns) -> [...]

with the prompt, everything after it so far, and the data set's other columns by name, one entry a conversation. It
answers, for each of them, None where the conversation has ended, or what comes next: for chats a message or a list of
messages (of role user or tool, say), for text prompts a text.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modeling_dvpo.text.assistant_turns import ChatTemplate, Messages
from modeling_dvpo.text.completion_tokens import plain_messages
from modeling_dvpo.text.problems import RowProblem
from modeling_dvpo.text.turn_ends import TURN

from ..data.prompts import Prompt
from ..errors import RolloutError
from ..rewards.functions import import_function

Environment = Callable[..., list]


def load_environment(name: str) -> Environment:
    """An environment by its importable name; raises `RewardDataError` as reward functions' names do."""
    return import_function(name, "multi-turn environment")


def next_turns(
    environment: Environment, prompts: Sequence[Prompt], completions: Sequence[str | Messages]
) -> list[None | str | Messages]:
    """The environment's answers, checked: None, a text for a text prompt, a list of messages for a chat.

    Raises:
        RolloutError: the wrong number of answers, or an answer of the wrong kind.
    """
    columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in prompts[0].columns}
    answers = environment(
        # copies, so that an environment may keep or change what it is given
        prompts=[copy.deepcopy(prompt.prompt) for prompt in prompts],
        completions=copy.deepcopy(list(completions)),
        **columns,
    )
    if inspect.isawaitable(answers):
        # in a thread, since the caller may itself run inside an event loop (a notebook)
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(asyncio.run, _result(answers)).result()
    if not isinstance(answers, list | tuple) or len(answers) != len(prompts):
        found = f"{len(answers)} answers" if isinstance(answers, list | tuple) else f"{answers!r:.60}"
        raise RolloutError(
            f"The environment returned {found} for {len(prompts)} conversations: it must return a list with one "
            "answer, or None, per conversation."
        )
    return [_checked(answer, prompt) for answer, prompt in zip(answers, prompts, strict=True)]


async def _result(awaitable):
    return await awaitable


def _checked(answer, prompt: Prompt) -> None | str | Messages:
    if answer is None:
        return None
    if isinstance(prompt.prompt, str):
        if isinstance(answer, str) and answer:
            return answer
        needed = "the text to append, not empty"
    else:
        messages = [answer] if isinstance(answer, dict) else answer
        if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
            return messages
        needed = 'a message ({"role": "user", "content": ...}, or another role than assistant) or a list of messages'
    raise RolloutError(
        f"The environment answered {answer!r:.80} to prompt {prompt.index}: it must answer {needed}, or None where "
        "the conversation has ended."
    )


def _is_message(message) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and message["role"] != "assistant"


def turn_ids(
    tokenizer,
    turn: str | Messages,
    written: Sequence[int],
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Tokens from the policy's last one to the start of its next turn.

    A text is tokenised as it is. Messages are rendered behind a stand-in for the policy's turn, in a conversation of
    their own: what the policy emitted is thus never rendered, tokenised or rewritten again (some templates remove the
    reasoning from earlier turns).

    Args:
        tokenizer: the policy's.
        turn: what the environment answered.
        written: the policy's turn. What it ends with (an end token, the marker of the next role, a stop string) is not
            written again; an end token that the policy did not emit, and the template writes, is the environment's.
        chat_template_kwargs: what the template was given for the prompt.
    """
    if isinstance(turn, str):
        return tokenizer(turn, add_special_tokens=False).input_ids
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": TURN}]
    template = ChatTemplate(tokenizer, chat_template_kwargs=chat_template_kwargs or {})
    try:
        text = template.render([*conversation, *plain_messages(turn)], prompt=True)
    except RowProblem as problem:
        roles = ", ".join(message["role"] for message in turn)
        raise RolloutError(
            f"The chat template refuses the environment's turn (roles: {roles}) after an assistant turn "
            f"({problem.found}): answer with roles that the template knows, or change the template."
        ) from problem
    _, found, between = text.partition(TURN)
    if not found:
        raise RolloutError(
            "The chat template leaves out an assistant turn that is followed by the environment's: multi-turn "
            "rollouts need a template that writes it."
        )
    said = tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return tokenizer(_not_yet_said(between, said), add_special_tokens=False).input_ids


def _not_yet_said(between: str, said: str) -> str:
    """What follows a turn, without what the turn ends with already; white space before that does not matter."""
    for text in (between, between.lstrip()):
        for size in range(min(len(text), len(said)), 0, -1):
            if said.endswith(text[:size]):
                return text[size:]
    return between
