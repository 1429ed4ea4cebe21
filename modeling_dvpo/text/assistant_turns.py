"""Where, in the text of a chat, the policy's own words are.

The policy's words are what a message says, verbatim, and not what a chat template makes of it: templates drop the
reasoning of a turn, put an empty one in front, trim. So a turn is: the generation prompt, which is state; the content;
and the one token that ends it. Only what stands between turns is the template's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from .problems import DataError, RowProblem
from .turn_ends import TURN, TurnEnd, turn_end

Messages = list[dict[str, Any]]

# what this package says itself wherever a template is rendered
RESERVED = ("add_generation_prompt", "chat_template", "continue_final_message", "conversation", "tokenize", "tools")
# most characters of a generation prompt that a message may repeat, and fewest that are no accident
LONGEST, SHORTEST = 200, 3


def require_template_arguments(chat_template_kwargs: Mapping[str, Any]) -> None:
    """Raise DataError where they hold what this package sets itself."""
    if taken := sorted(set(chat_template_kwargs) & set(RESERVED)):
        raise DataError(
            f"chat_template_kwargs has {taken[0]!r}, which is set by what reads the rows: leave it out; "
            "chat_template_kwargs are a template's own arguments, such as enable_thinking."
        )


class Turn(NamedTuple):
    """One turn in the text of its chat: where the policy's words begin and end (the end token's included), and where
    the message's content begins, which may be inside the generation prompt; None without content."""

    start: int
    end: int
    content: int | None


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with all that it is given; raises DataError as `require_template_arguments`."""

    tokenizer: Any
    tools: list | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        require_template_arguments(self.chat_template_kwargs)

    def render(self, messages: Messages, *, prompt: bool = False) -> str:
        """The messages as text; as a prompt, with what begins the assistant's turn. Raises `RowProblem`."""
        if not messages:
            return ""
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=self.tools or None,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.chat_template_kwargs,
            )
        except Exception as error:  # whatever the template raises
            raise RowProblem("chat template", f"{type(error).__name__}: {error}"[:200]) from error

    def end(self) -> TurnEnd:
        return turn_end(self.tokenizer, tools=self.tools, chat_template_kwargs=self.chat_template_kwargs)

    def marks(self, messages: Messages) -> int | None:
        """How many {% generation %} blocks that are not empty it writes; None if it has none to write."""
        template = self.tokenizer.get_chat_template(tools=self.tools)
        if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
            return None
        options = {**self.tokenizer.special_tokens_map, **self.chat_template_kwargs}
        both: Any = render_jinja_template(  # which is annotated as a str
            [messages], tools=self.tools, chat_template=template, return_assistant_tokens_mask=True, **options
        )
        return sum(end > start for start, end in both[1][0])


def split_conversation(messages: Messages) -> tuple[Messages, Messages]:
    """Prompt and completion: what comes before the first assistant turn, which may be everything, and the rest."""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    first = roles.index("assistant") if "assistant" in roles else len(messages)
    return messages[:first], messages[first:]


def assistant_turns(
    template: ChatTemplate, conversation: Messages, first: int = 0, *, truncated: bool = False
) -> tuple[str, list[Turn]]:
    """The text of a conversation up to the end of its last assistant turn, and what of it the policy wrote.

    A turn of a template with {% generation %} blocks counts only if it has one; where it begins and ends is not theirs
    to say.

    Args:
        template: renders everything but the policy's turns.
        conversation: messages.
        first: the first message that counts; assistant turns before it are part of the prompt.
        truncated: the last turn was cut off, so nothing ends it.

    Raises:
        RowProblem: "earlier turn" or "last turn" where the text cannot be what the policy read and wrote; "chat
            template" where it refuses the messages; "not text" where a turn's content is none.
    """
    places = [place for place in range(first, len(conversation)) if conversation[place]["role"] == "assistant"]
    if not places:
        return template.render(conversation), []
    text, end = template.render(conversation[: places[-1]], prompt=True), template.end()
    turns: list[Turn] = []
    for place in places:
        last = place == places[-1]
        before = text if last else template.render(conversation[:place], prompt=True)
        written, content = _written(template, conversation[: place + 1], before)
        start = len(before)
        stop = start + len(written)
        if last:
            closed = "" if truncated else end.of(conversation[place])
            text += written + (end.after if closed and not written.endswith(end.after) else "") + closed
            stop = len(text)
        elif text.startswith(before) and text.startswith(written, start):
            closers = [end.after + closer for closer in end.texts()]
            stop += next((len(closer) for closer in closers if text.startswith(closer, stop)), 0)
        else:
            raise RowProblem("earlier turn", f"message {place} is rewritten inside the conversation")
        if _counts(template, conversation[: place + 1]):
            turns.append(Turn(start, stop, None if content is None else start + content))
    return text, turns


def _counts(template: ChatTemplate, conversation: Messages) -> bool:
    """Whether the template marks the last message; without blocks in it, every turn counts."""
    marks = template.marks(conversation)
    return marks is None or marks > (template.marks(conversation[:-1]) or 0)


def _written(template: ChatTemplate, conversation: Messages, before: str) -> tuple[str, int | None]:
    """What the policy wrote as the last message, without an end token, and where in it the content begins."""
    message = conversation[-1]
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise RowProblem("not text", f"an assistant's content of type {type(content).__name__}")
    plain = {"role": "assistant", "content": content}
    if not message.keys() <= plain.keys():
        rendered = template.render(conversation)
        if rendered != template.render([*conversation[:-1], plain]):
            return _rendered(template, conversation, before, rendered)
    repeated = _repeated(template, conversation[:-1], before, content)
    space = "" if repeated or content.startswith(template.end().before) else template.end().before
    return space + content[repeated:], len(space) - repeated if content else None


def _rendered(template: ChatTemplate, conversation: Messages, before: str, text: str) -> tuple[str, int | None]:
    """`_written` of a message with tool calls or reasoning of its own, which only the template can write as text."""
    place, message = len(conversation) - 1, conversation[-1]
    if not text.startswith(before):
        raise RowProblem("last turn", f"message {place} does not go on from the generation prompt")
    end = template.end().of(message)
    written, content = text[len(before) :], message.get("content")
    written = written[: written.rindex(end)] if end and end in written else written
    if not content:
        return written, None
    probe = template.render([*conversation[:-1], {**message, "content": TURN}])
    place_of_content = probe.find(TURN, len(before))
    if not (place_of_content >= 0 and text[:place_of_content] == probe[:place_of_content]) or not text.startswith(
        content, place_of_content
    ):
        raise RowProblem("last turn", f"message {place}'s content is not written as it is")
    return written, place_of_content - len(before)


def _repeated(template: ChatTemplate, prompt: Messages, before: str, content: str) -> int:
    """How many characters a content begins with that are the generation prompt's already ("<think>\\n").

    White space behind them may differ; a few characters that agree are an accident.
    """
    for size in range(min(len(before), LONGEST), SHORTEST - 1, -1):
        tail = before[-size:]
        shared = next((part for part in (tail, tail.rstrip()) if content.startswith(part)), "")
        if len(shared.strip()) >= SHORTEST:
            # the generation prompt's, not the user's own last words
            return len(shared) if before[:-size].startswith(template.render(prompt)) else 0
    return 0
