"""The responses to show: from the command line, or from the rows of a JSON file as reward sets have them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..text.assistant_turns import Messages, split_conversation
from ..text.problems import DataError

TITLE_LENGTH = 40  # characters


@dataclass(frozen=True)
class Response:
    """A prompt with one completion; texts or chats, as `score_completions` takes them.

    `label` is where it stands, for errors; what it is called where it is shown, `titles` says.
    """

    prompt: str | Messages
    completion: str | Messages
    label: str
    reward: float | None = None
    truncated: bool = False
    tools: list | None = None


def read_responses(path: str | Path, limit: int) -> tuple[list[Response], int]:
    """The responses of a file's rows, at most `limit`, and how many there are in all.

    A row has a `prompt` and a `completion` or a list of `completions`, each text or chat messages; or `messages`, a
    whole conversation, whose completion begins with the first assistant turn. A `reward` (or `rewards`), `truncated`
    and `tools` are used where they are.

    Args:
        path: .jsonl, an object a line; or .json, a list of objects or a single one.
        limit: at least 1.

    Raises:
        DataError: no such rows; the message names the row, counted from 0.
        OSError: the file cannot be read.
    """
    if limit < 1:
        raise DataError(f"limit is {limit}; at least 1 response is needed.")
    responses = [one for place, row in enumerate(_rows(Path(path))) for one in _responses(place, row)]
    if not responses:
        raise DataError(f"{path} has no rows: it needs at least one, with a prompt and a completion.")
    return list(islice(responses, limit)), len(responses)


def titles(responses: Sequence[Response]) -> list[str]:
    """The beginning of what each response answers, numbered where several answer the same."""
    asked = [_beginning(response.prompt) or response.label for response in responses]
    seen: Counter[str] = Counter()
    names = []
    for text in asked:
        seen[text] += 1
        of = asked.count(text)
        names.append(f"{text} ({seen[text]} of {of})" if of > 1 else text)
    return names


def _beginning(prompt: str | Messages) -> str:
    """On one line; of a chat, of its last message that is not the assistant's."""
    if not isinstance(prompt, str):
        others = [message for message in prompt if message.get("role") != "assistant"]
        content = others[-1].get("content") if others else None
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        prompt = " ".join(text for text in texts if isinstance(text, str))
    words = " ".join(prompt.split())
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"


def _rows(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        if path.suffix == ".json":
            rows = json.loads(text)
            return rows if isinstance(rows, list) else [rows]
        # by "\n" alone: JSON strings may hold the separators that `splitlines` also knows
        lines = [line for line in text.split("\n") if line.strip()]
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        of = "" if path.suffix == ".json" else f" (in row {_first_bad(lines)})"
        raise DataError(
            f"{path} is no JSON{of}: {error}. Give a .jsonl file, an object a line, or a .json."
        ) from error


def _first_bad(lines: list[str]) -> int:
    for place, line in enumerate(lines):
        try:
            json.loads(line)
        except json.JSONDecodeError:
            return place
    raise AssertionError("all lines are JSON")


def _responses(place: int, row: Any) -> Iterator[Response]:
    if not isinstance(row, dict):
        raise DataError(f"Row {place} is {row!r:.60}; it must be an object with a prompt and a completion.")
    completions = row.get("completions")
    if completions is not None:
        if not isinstance(completions, list) or not completions:
            raise DataError(f"Row {place}: completions is {completions!r:.60}; it must be a list of them.")
        rewards = row.get("rewards") or [None] * len(completions)
        if not isinstance(rewards, list) or len(rewards) != len(completions):
            raise DataError(f"Row {place}: rewards is {rewards!r:.60}, for {len(completions)} completions.")
        for i, (completion, reward) in enumerate(zip(completions, rewards, strict=True)):
            yield _response(f"Row {place}, {i + 1} of {len(completions)}", place, row, completion, reward)
    elif "completion" in row:
        yield _response(f"Row {place}", place, row, row["completion"], row.get("reward"))
    elif "messages" in row:
        prompt, completion = _split(place, row["messages"])
        yield _response(f"Row {place}", place, row | {"prompt": prompt}, completion, row.get("reward"))
    else:
        raise DataError(
            f"Row {place} has {', '.join(map(repr, row)) or 'nothing'}: it needs a prompt with a completion or a list "
            "of completions, or messages."
        )


def _split(place: int, messages: Any) -> tuple[Messages, Messages]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"Row {place}: messages is {messages!r:.60}; it must be a list of chat messages.")
    prompt, completion = split_conversation(messages)
    if not completion:
        raise DataError(f"Row {place}: no message is the assistant's, so there is nothing to show.")
    return prompt, completion


def _response(label: str, place: int, row: dict, completion: Any, reward: Any) -> Response:
    if row.get("prompt") is None:
        raise DataError(f"Row {place} has a completion and no prompt: give what it answers.")
    # A list of rewards is one of steps; what they sum to is the response's.
    numbers = reward if isinstance(reward, list) else [] if reward is None else [reward]
    if not all(isinstance(number, int | float) for number in numbers):
        raise DataError(f"Row {place}: reward is {reward!r:.60}; it must be a number.")
    return Response(
        prompt=row["prompt"],
        completion=completion,
        label=label,
        reward=float(sum(numbers)) if numbers else None,
        truncated=bool(row.get("truncated")),
        tools=row.get("tools") or None,
    )


def require_encodable(response: Response) -> None:
    """Raise DataError for text with half a surrogate pair, which is no Unicode text and no tokenizer reads."""
    written = json.dumps([response.prompt, response.completion], ensure_ascii=False, default=str)
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{response.label} holds a lone surrogate (U+{ord(written[error.start]):04X}), half of a character: no "
            "tokenizer reads that; remove it."
        ) from error
