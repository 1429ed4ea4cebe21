"""What each token adds to the text, also where a character is spread over several tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNFINISHED = "\ufffd"
"""What decoders write for bytes that are no character, or not yet one."""
LONGEST_CHARACTER = 4
"""Bytes of the longest character in UTF-8, so tokens that it can be spread over at most."""


@dataclass(frozen=True)
class TokenText:
    """One token as text.

    Attributes:
        text: what it adds; the texts of a sequence, joined, are the decoded sequence. For a special token, and for one
            that adds nothing by itself, its name.
        special: it is a special token (an end token, a role) or one that adds nothing: `text` is a name.
        part: (i, n) for the i-th of the n tokens that a character is spread over, except the last, which has the
            character in its `text`.
        whole: that character.
    """

    text: str
    special: bool = False
    part: tuple[int, int] | None = None
    whole: str | None = None


def token_texts(tokenizer, input_ids: Sequence[int]) -> list[TokenText]:
    """One for each token. Linear in their number: no token is decoded with more than a few others."""
    special = set(tokenizer.all_special_ids)
    special |= {place for place, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    texts: list[TokenText] = []
    run: list[int] = []
    for token in input_ids:
        if token in special:
            texts += _run(tokenizer, run)
            texts.append(TokenText(_name(tokenizer, token), special=True))
            run = []
        else:
            run.append(token)
    return texts + _run(tokenizer, run)


def _run(tokenizer, ids: list[int]) -> list[TokenText]:
    """Texts of tokens without special ones among them.

    Every token is decoded together with the one before it, because decoders drop or add a space at the beginning; and
    with all that belong to its character, which is why the window starts where a character does.
    """
    texts = [""] * len(ids)
    parts: dict[int, TokenText] = {}
    waiting: list[int] = []  # tokens whose last character is not finished
    text = ""
    begin = shown = 0  # of the text of ids[begin:], `shown` characters have been given to tokens

    def share(character: str, tokens: list[int]) -> None:
        for place, token in enumerate(tokens[:-1], 1):
            parts[token] = TokenText(texts[token], part=(place, len(tokens)), whole=character)

    def give_up(tokens: list[int], marks: int) -> None:
        """No character came of these tokens: the decoder's marks go to the last of them, one each."""
        first = max(len(tokens) - marks, 0)
        share(UNFINISHED, tokens[: first + 1])
        for token in tokens[first:]:
            texts[token] += UNFINISHED

    for i in range(len(ids)):
        text = _decode(tokenizer, ids[begin : i + 1])
        whole = text.rstrip(UNFINISHED)
        new = whole[shown:]
        group = [*waiting, i]
        if new:
            rest = new.lstrip(UNFINISHED) if waiting else new
            if len(rest) < len(new):
                give_up(waiting, len(new) - len(rest))
            else:
                share(new[0], group)
            waiting, texts[i] = [], rest
        if len(whole) < len(text):
            shown = max(shown, len(whole))
            waiting.append(i)
            if len(waiting) >= LONGEST_CHARACTER:  # too many for a character: the first is none
                give_up(waiting[:1], 1)
                begin, shown, waiting = waiting[1], 0, waiting[1:]
        else:
            begin, waiting = group[0], []
            shown = len(_decode(tokenizer, ids[begin : i + 1]))
    if waiting:
        give_up(waiting, len(text) - max(shown, len(text.rstrip(UNFINISHED))))
    named = [
        TokenText(text) if text else TokenText(_name(tokenizer, ids[i]), special=True) for i, text in enumerate(texts)
    ]
    return [parts.get(i, token) for i, token in enumerate(named)]


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _name(tokenizer, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))
