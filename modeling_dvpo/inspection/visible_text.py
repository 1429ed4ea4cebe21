"""Text cut into what can be shown as it is, and what has to be made visible: line breaks, blanks, control characters.

Characters that change how others are displayed (bidirectional overrides, zero-width ones) become marks: a page about
tokens must not be one in which a token can hide, or turn its neighbours around.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal


@dataclass(frozen=True)
class Piece:
    """Part of a token's text.

    Attributes:
        kind: "text" as it is; "line" a line break; "blank" spaces that are a token of their own; "mark" a name for a
            character that cannot be seen.
        text: the characters; for a mark, the name.
    """

    kind: Literal["text", "line", "blank", "mark"]
    text: str


CONTROLS = (
    "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI "
    "DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
).split()
"""Unicode has pictures of these, which few fonts draw."""

# Not seen by themselves, and not needed to display their neighbours.
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# Joiners and variation selectors: part of emoji and of Persian words, but nothing one could see as a token.
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+")


def visible_pieces(text: str) -> list[Piece]:
    """The text's pieces, in order."""
    if text and text.isspace() and not re.search(r"[\n\r\t\x0b-\x1f\x85\u2028\u2029]", text):
        return [Piece("blank", text)]
    hide = (lambda c: True) if _JOINERS.fullmatch(text) else _UNSEEN.match
    pieces: list[Piece] = []
    for kind, characters in groupby(text, lambda c: "line" if c == "\n" else "mark" if hide(c) else "text"):
        if kind == "text":
            pieces.append(Piece("text", "".join(characters)))
        else:
            pieces += [Piece("line", c) if kind == "line" else Piece("mark", _mark(c)) for c in characters]
    return pieces


def visible_line(text: str) -> str:
    """The text on one line, with its marks: for labels, and for figures."""
    shown = {"line": lambda _: "⏎", "blank": lambda blank: "·" * len(blank)}
    return "".join(shown.get(piece.kind, str)(piece.text) for piece in visible_pieces(text))


def right_to_left(texts: Iterable[str]) -> list[bool]:
    """Whether each text stands in a paragraph from right to left; a paragraph ends with a line break.

    By the first strong character, as `unicode-bidi: plaintext` does it; a text that holds several paragraphs counts to
    the one it begins in.
    """
    texts = list(texts)
    flags = _paragraph_directions("".join(texts))
    paragraph, directions = 0, []
    for text in texts:
        directions.append(flags[paragraph])
        paragraph += text.count("\n")
    return directions


def _paragraph_directions(text: str) -> list[bool]:
    directions = []
    for paragraph in text.split("\n"):
        strong = (unicodedata.bidirectional(character) for character in paragraph if not _UNSEEN.match(character))
        directions.append(next((kind != "L" for kind in strong if kind in ("L", "R", "AL")), False))
    return directions


def _mark(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return "⇥"
    return CONTROLS[code] if code < len(CONTROLS) else "DEL" if code == 0x7F else f"U+{code:04X}"
