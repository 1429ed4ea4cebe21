"""Scored completions as one self-contained HTML page: no network, no code but its own, and nothing in it is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files

import torch
from torch import Tensor

from ..inference.scoring import ScoredCompletion
from .state_numbers import (
    BANDS,
    ENSEMBLE_LEVELS,
    HEAD_LEVELS,
    StateNumbers,
    quantiles_at,
    shown_levels,
)
from .token_texts import TokenText, token_texts
from .visible_text import Piece, right_to_left, visible_pieces

SCRIPTS = ["data.js", "scales.js", "tokens.js", "charts.js", "page.js"]
STEPS = 65535  # of the 16-bit numbers that quantiles are kept in


class Page(str):
    """The page's text; as the last expression of a notebook's cell, the page itself."""

    def _repr_html_(self) -> str:
        # In a sandbox of its own: the page's script cannot reach the notebook, and the notebook's style not the page.
        return (
            f'<iframe srcdoc="{html.escape(self)}" sandbox="allow-scripts" title="What a critic expects" '
            'width="100%" height="760" style="border: 0"></iframe>'
        )


def inspect_page(
    scored: Sequence[ScoredCompletion],
    tokenizer,
    *,
    labels: Sequence[str] | None = None,
    rewards: Sequence[float | None] | None = None,
    title: str = "What the critic expects",
    note: str = "",
    alpha: float = 0.1,
    threshold: float | None = None,
) -> Page:
    """A page that shows, token by token, what a critic expects along responses.

    Args:
        scored: of `score_completions`, all by one critic.
        tokenizer: the critic's.
        labels: a name for each response; "Response 1" and so on by default.
        rewards: what each response really got, where it is known.
        title: the page's.
        note: a sentence under the title.
        alpha: share of outcomes that CVaR is the mean of, 0 < alpha <= 1.
        threshold: the page shows the probability of a return above it (and readers can change it); by default the
            middle between the lowest and the highest quantile.

    Returns:
        The page: a string, to be written as UTF-8, and shown by notebooks.

    Raises:
        ValueError: nothing to show, unequal numbers of things, responses of different critics, numbers that are not
            finite.
    """
    if not scored:
        raise ValueError("There is nothing to show: give at least one scored completion.")
    labels = [f"Response {i + 1}" for i in range(len(scored))] if labels is None else list(labels)
    rewards = [None] * len(scored) if rewards is None else list(rewards)
    if not len(scored) == len(labels) == len(rewards):
        raise ValueError(
            f"{len(scored)} completions, {len(labels)} labels and {len(rewards)} rewards: give as many of each."
        )
    shapes = sorted({tuple(one.quantiles.shape[1:]) for one in scored})
    if len(shapes) > 1:
        raise ValueError(f"Quantiles of (heads, quantiles) {shapes} on one page: show one critic at a time.")
    numbers = [StateNumbers(one, alpha) for one in scored]
    facts = _scale(numbers, threshold) | {"alpha": alpha, "bands": BANDS}
    responses = [
        _response(one, tokenizer, facts) | {"label": label, "reward": _finite(reward)}
        for one, label, reward in zip(numbers, labels, rewards, strict=True)
    ]
    return Page(_fill(title, note, facts | {"responses": responses}))


def _scale(numbers: list[StateNumbers], threshold: float | None) -> dict:
    """What all responses share: levels, and the line on which quantiles are kept as 16-bit numbers."""
    num_heads, num_quantiles = numbers[0].heads.shape[1:]
    low = min(one.heads.min().item() for one in numbers)
    high = max(one.heads.max().item() for one in numbers)
    if threshold is None:
        threshold = _round((low + high) / 2, high - low)
    elif not math.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}; it is a return, a finite number.")
    return {
        "low": low,
        "step": (high - low) / STEPS,
        "threshold": threshold,
        "heads": num_heads,
        "quantiles": num_quantiles,
        "levels": shown_levels(num_quantiles, ENSEMBLE_LEVELS),
        "headLevels": shown_levels(num_quantiles, HEAD_LEVELS),
    }


def _round(number: float, spread: float) -> float:
    """To a hundredth of the spread or so: a threshold one can read."""
    return round(number, 2 - math.floor(math.log10(spread))) if spread > 0 else number


def _finite(reward: float | None) -> float | None:
    return None if reward is None or not math.isfinite(reward) else float(reward)


def _response(numbers: StateNumbers, tokenizer, facts: dict) -> dict:
    scored = numbers.scored
    texts = token_texts(tokenizer, scored.input_ids)
    first = scored.action_positions[0]
    said = texts[first : scored.action_positions[-1] + 1]
    actions = set(scored.action_positions)
    ordered = numbers.heads.sort(-1).values
    return {
        "prompt": _pieces("".join(text.text for text in texts[:first])),
        "tokens": _tokens(said, [first + i in actions for i in range(len(said))]),
        "known": len(numbers.value),
        "value": _floats(numbers.value),
        "cvar": _floats(numbers.cvar),
        "spread": _floats(numbers.spread),
        "disagreement": _floats(numbers.disagreement),
        "chance": _floats(numbers.chance(facts["threshold"])),
        "bandQuantiles": _shorts(numbers.bands(), facts),
        "fan": _shorts(quantiles_at(numbers.ensemble, facts["levels"]), facts),
        "headFans": _shorts(quantiles_at(ordered, facts["headLevels"]), facts),
        "headValues": _floats(numbers.heads.mean(-1)),
    }


def _tokens(texts: list[TokenText], actions: list[bool]) -> list:
    """Action tokens one by one, others together: a string where that says all, else a dict."""
    plain = [text.text if not text.special else "" for text in texts]
    tokens: list[str | dict] = []
    aside = ""
    for text, action, backwards in zip(texts, actions, right_to_left(plain), strict=True):
        if not action:
            aside += text.text
            continue
        if aside:
            tokens.append({"aside": _pieces(aside)})
            aside = ""
        if text.special:
            token: dict = {"special": text.text}
        else:
            token = {"pieces": _pieces(text.text)}
        if text.part:
            token |= {"part": list(text.part), "whole": text.whole}
        if backwards:
            token["rtl"] = True
        tokens.append(text.text if token == {"pieces": [text.text]} else token)
    return tokens


def _pieces(text: str) -> list:
    return [_piece(piece) for piece in visible_pieces(text)]


def _piece(piece: Piece) -> str | list[str]:
    return piece.text if piece.kind == "text" else [piece.kind, piece.text]


def _floats(numbers: Tensor) -> str:
    return _encode(numbers.float(), "<f4")


def _shorts(quantiles: Tensor, facts: dict) -> str:
    """Places on the line of `STEPS` steps from `facts["low"]`, as unsigned 16-bit numbers."""
    step = facts["step"]
    places = (quantiles - facts["low"]) / step if step else torch.zeros_like(quantiles)
    return _encode(places.round(), "<u2")


def _encode(numbers: Tensor, dtype: str) -> str:
    return base64.b64encode(numbers.cpu().numpy().astype(dtype).tobytes()).decode()


def _fill(title: str, note: str, facts: dict) -> str:
    folder = files(__package__)
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    # A string of JSON cannot end its element: every "<" is escaped, and so is all that is not ASCII, lone surrogates
    # and the line separators of old JavaScript included.
    data = json.dumps(facts, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(_encodable(title)),
        "NOTE": html.escape(_encodable(note)),
        "STYLE_HASH": _hash(style),
        "SCRIPT_HASH": _hash(script),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _encodable(text: str) -> str:
    return "".join(piece.text for piece in visible_pieces(text) if piece.kind != "line")
