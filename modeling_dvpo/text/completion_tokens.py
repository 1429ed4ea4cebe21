"""From a prompt and a completion to tokens, and which of them are the policy's actions; and back to text.

Prompt and completion of a text are tokenised apart, because the policy that sampled the completion had the prompt's
tokens fixed. A chat's text is cut at the assistant's turns, and the pieces are tokenised apart for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .arrow_rows import without_added_nulls
from .assistant_turns import ChatTemplate, Messages, Turn, assistant_turns
from .problems import RowProblem, require_chat_template, require_end_token
from .turn_ends import end_ids


@dataclass
class Tokens:
    """Tokens of a row; `starts[i]` is where action token i (counted over actions) begins in the completion's text.

    `end_appended`: the last token ends the completion and is not in its text, nor in what a chat template writes.
    """

    input_ids: list[int]
    actions: list[bool]
    text: str | None = None
    starts: list[int] | None = None
    end_appended: bool = False


class CompletionTokenizer:
    """Tokenises prompts with their completions.

    Args:
        tokenizer: a transformers tokenizer; `starts` need a fast one, which knows character offsets.
        append_eos: end a text completion with the end token, unless it has one or is truncated.
        chat_template_kwargs: what the chat template is given besides: {"enable_thinking": False}, say.
    """

    def __init__(self, tokenizer, *, append_eos: bool = True, chat_template_kwargs: Mapping[str, Any] | None = None):
        self.tokenizer, self.append_eos = tokenizer, append_eos
        self.chat_template_kwargs = dict(chat_template_kwargs or {})

    def __call__(
        self,
        prompt: str | Messages,
        completion: str | Messages,
        *,
        tools: list | None = None,
        truncated: bool = False,
    ) -> Tokens:
        """Tokens of a text prompt with a text completion, or of a chat with what the assistant (and others) went on to
        say: messages, or the text of one assistant turn.

        Args:
            tools: for the chat template.
            truncated: the completion was cut off, so it has no end token.

        Raises:
            RowProblem: no such pair, or nothing to read the first action's value at.
            DataError: the tokenizer lacks a chat template or an end token.
        """
        if isinstance(prompt, str):
            tokens = self._text(prompt, completion, truncated)
        else:
            tokens = self._chat(prompt, completion, tools, truncated)
        if tokens.actions[0]:
            raise RowProblem("nothing before the first action", "an empty prompt")
        return tokens

    def _text(self, prompt: str, completion: Any, truncated: bool) -> Tokens:
        if completion is None or completion == "":
            raise RowProblem("empty completion", repr(completion))
        if not isinstance(completion, str):
            raise RowProblem("not text", f"a text prompt with a {type(completion).__name__} as completion")
        if self.append_eos:
            require_end_token(self.tokenizer)
        before = prompt_ids(self.tokenizer, prompt)
        ids, starts = self._encode(completion)
        if not ids:
            raise RowProblem("empty completion", f"{completion!r:.60} has no tokens")
        append = self.append_eos and not truncated and ids[-1] not in end_ids(self.tokenizer)
        if append:
            ids = [*ids, self.tokenizer.eos_token_id]
        actions = [False] * len(before) + [True] * len(ids)
        return Tokens(before + ids, actions, completion, starts, append)

    def _encode(self, text: str) -> tuple[list[int], list[int] | None]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(text, add_special_tokens=False).input_ids, None
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded.input_ids, [start for start, _ in encoded.offset_mapping]

    def _chat(self, prompt: Any, completion: Any, tools: list | None, truncated: bool) -> Tokens:
        require_chat_template(self.tokenizer)
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}] if completion else []
        prompt, completion = plain_messages(prompt), plain_messages(completion)
        turns = [message for message in completion if message["role"] == "assistant"]
        if completion and not turns:
            raise RowProblem("no assistant turn", f"roles {', '.join(m['role'] for m in completion)}")
        if not any(message.get("content") or message.get("tool_calls") for message in turns):
            raise RowProblem("empty completion", "no assistant turn with content")
        template = ChatTemplate(self.tokenizer, tools, self.chat_template_kwargs)
        text, spans = assistant_turns(template, prompt + completion, len(prompt), truncated=truncated)
        tokens = self._cut(text, spans)
        if not tokens.actions or not tokens.actions[-1]:
            raise RowProblem("empty completion", "the last assistant turn is empty, or the template marks none")
        tokens.end_appended = not truncated and not template.end().closer and bool(template.end().texts())
        content = turns[0].get("content")
        if tokens.starts is None or len(turns) > 1 or not content or spans[0].content is None:
            tokens.starts = None  # with several turns step ends have no meaning
        else:
            tokens.text, tokens.starts = content, [start - spans[0].content for start in tokens.starts]
        return tokens

    def _cut(self, text: str, turns: list[Turn]) -> Tokens:
        """Tokens of the text up to the end of its last turn, each piece tokenised apart.

        What a template writes after the last turn ("\\n", say) is neither state nor action.
        """
        ids: list[int] = []
        actions: list[bool] = []
        starts: list[int] | None = []
        position = 0
        for start, end, _ in turns:
            between, _ = self._encode(text[position:start])
            turn, offsets = self._encode(text[start:end])
            ids += between + turn
            actions += [False] * len(between) + [True] * len(turn)
            starts = None if offsets is None or starts is None else starts + [start + offset for offset in offsets]
            position = end
        return Tokens(ids, actions, None, starts)


def prompt_ids(tokenizer, text: str) -> list[int]:
    """Tokens of a text prompt with what this tokenizer puts in front, and without an end token it may put behind."""
    plain = tokenizer(text, add_special_tokens=False).input_ids
    bos = tokenizer.bos_token_id
    if bos is None or plain[:1] == [bos]:
        return plain
    by_habit = tokenizer(text).input_ids[:1] == [bos]
    return [bos, *plain] if by_habit or not plain else plain


def prompt_tokens(
    tokenizer,
    prompt: str | Messages,
    tools: list | None = None,
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """What a policy goes on from: a text's tokens, or a chat's up to where the assistant's next turn begins.

    Raises:
        RowProblem: "empty" without tokens, "not text" for what is no messages, "chat template" where it refuses them.
        DataError: a chat, and the tokenizer lacks a chat template.
    """
    if isinstance(prompt, str):
        ids = prompt_ids(tokenizer, prompt)
    else:
        require_chat_template(tokenizer)
        template = ChatTemplate(tokenizer, tools, chat_template_kwargs or {})
        text = template.render(plain_messages(prompt), prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise RowProblem("empty", f"{prompt!r:.60} has no tokens")
    return ids


def completion_of(tokenizer, prompt: str | Messages, ids: list[int], end_ids: Sequence[int]) -> str | Messages:
    """What was sampled after a prompt, without its end token: text after text, after a chat the assistant's turn."""
    ids = ids[:-1] if ids and ids[-1] in end_ids else ids
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def plain_messages(messages: Any) -> Messages:
    """The messages without the empty keys that Arrow adds, and a content that is given in parts as its text; raises
    `RowProblem` where they are no messages, or a part is no text."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") for m in messages):
        raise RowProblem("not text", f"{messages!r:.60} is not a list of messages")
    return [_with_text(plain_message(message)) for message in messages]


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """Templates of language models would write a list of parts as Python does."""
    parts = message.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "type" in part for part in parts):
        return message
    if others := [part for part in parts if part["type"] != "text" or not isinstance(part.get("text"), str)]:
        raise RowProblem("not text", f"a part of type {others[0]['type']!r} in a message of role {message['role']!r}")
    return {**message, "content": "".join(part["text"] for part in parts)}


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    return without_added_nulls(message)
