"""Where, in the text a chat template renders, the policy's own words are.

Spans of characters, not the token mask that `apply_chat_template` can return: that one goes wrong where the tokenizer
would join a turn's first word to the header before it.
"""

from __future__ import annotations

import re
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from .problems import RowProblem

Messages = list[dict[str, Any]]
Spans = list[tuple[int, int]]


def split_conversation(messages: Messages) -> tuple[Messages, Messages]:
    """Prompt and completion: what comes before the first assistant turn, which may be everything, and the rest."""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    first = roles.index("assistant") if "assistant" in roles else len(messages)
    return messages[:first], messages[first:]


def assistant_spans(
    tokenizer, conversation: Messages, first: int = 0, *, tools: list | None = None, truncated: bool = False
) -> tuple[str, Spans]:
    """The rendered conversation, and the start and end of what the policy wrote, turn by turn.

    Args:
        tokenizer: whose chat template renders; its {% generation %} blocks say what the turns are, if it has any.
        conversation: messages.
        first: the first message that counts; assistant turns before it are part of the prompt.
        tools: for the template.
        truncated: the last turn was cut off: the end token that the template adds is not the policy's.
    """
    template = tokenizer.get_chat_template(tools=tools)
    if re.search(r"\{%-?\s*generation\s*-?%\}", template):
        text, spans = _marked(tokenizer, conversation, first, tools, template)
    else:
        text, spans = _found(tokenizer, conversation, first, tools)
    end = tokenizer.eos_token
    if truncated and spans and end and (place := text.rfind(end, *spans[-1])) >= 0:
        spans[-1] = (spans[-1][0], place)
    return text, spans


def _marked(tokenizer, conversation: Messages, first: int, tools: list | None, template: str) -> tuple[str, Spans]:
    both: Any = render_jinja_template(  # which is annotated as a str
        [conversation],
        tools=tools,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    (text,), (marked,) = both
    prompt = _render(tokenizer, conversation[:first], tools)
    if not text.startswith(prompt):
        raise RowProblem("chat template", "the prompt alone is rendered differently")
    return text, [(start, end) for start, end in marked if start >= len(prompt)]


def _found(tokenizer, conversation: Messages, first: int, tools: list | None) -> tuple[str, Spans]:
    """A turn is what the conversation up to it, rendered, adds to the part before it with its generation prompt.

    Both must be prefixes of the whole, or the template rewrites earlier turns and the policy's own tokens are not in
    the text. What the template writes after the end token ("\\n", say) is not the policy's either.
    """
    text, spans = tokenizer.apply_chat_template(conversation, tools=tools, tokenize=False), []
    for place in range(first, len(conversation)):
        if conversation[place]["role"] != "assistant":
            continue
        before = _render(tokenizer, conversation[:place], tools)
        after = tokenizer.apply_chat_template(conversation[: place + 1], tools=tools, tokenize=False)
        if not (text.startswith(after) and after.startswith(before)):
            raise RowProblem("chat template", f"message {place} is rendered differently inside the conversation")
        end = text.rfind(tokenizer.eos_token, len(before), len(after)) if tokenizer.eos_token else -1
        spans.append((len(before), len(after) if end < 0 else end + len(tokenizer.eos_token)))
    return text, spans


def _render(tokenizer, prompt: Messages, tools: list | None) -> str:
    if not prompt:
        return ""
    return tokenizer.apply_chat_template(prompt, tools=tools, tokenize=False, add_generation_prompt=True)
