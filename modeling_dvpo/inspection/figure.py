"""The page's picture for papers: the tokens in colour, and the fan along the response; with matplotlib."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..inference.scoring import ScoredCompletion
from .state_numbers import StateNumbers
from .token_texts import token_texts
from .visible_text import right_to_left, visible_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The page's colours on white: what is coloured by -> (its name, low end, middle or None, high end).
LOW, EMPTY, BLUE, ORANGE, PURPLE = "#fbeec2", "#f1f2f3", "#5ea6dd", "#ea9a52", "#b193de"
COLOURS = {
    "value": ("expected return after the token", (LOW, BLUE)),
    "change": ("change of the expected return by the token", (ORANGE, EMPTY, BLUE)),
    "cvar": ("mean of the worst outcomes after the token", (LOW, BLUE)),
    "spread": ("standard deviation of the return after the token", (EMPTY, PURPLE)),
    "disagreement": ("disagreement of the heads about the expected return", (EMPTY, PURPLE)),
}
INK, QUIET, MEAN, TAIL = "#1c1f24", "#5b626c", "#0a62a3", "#b4570a"
OUTER, INNER = "#dcebf7", "#abcfed"  # opaque, so that the legend shows the colours one sees

WIDTH, MARGIN, FAN, LINE, TITLE, GAP, FOOT = 7.2, (0.6, 0.15), 1.5, 0.19, 0.28, 0.34, 0.75  # inches
BOLD: dict[str, Any] = {"fontsize": 9.5, "weight": "bold", "color": INK, "parse_math": False}
RIGHT: dict[str, Any] = {"fontsize": 8, "color": QUIET, "ha": "right"}
PROMPT_LINES, TITLE_COLUMNS = 3, 50
FONT_SIZE = 8.0  # points
COLUMNS = int((WIDTH - sum(MARGIN)) * 72 / (0.602 * FONT_SIZE))  # 0.602: a character's width in DejaVu Sans Mono
MOST_LINES = 30
WHOLE = COLUMNS // 4  # a token that is no longer than this is not broken
FONTS = [
    "DejaVu Sans Mono",
    "DejaVu Sans",
    "Noto Sans Mono CJK JP",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "PingFang SC",
]


def plot_responses(
    scored: Sequence[ScoredCompletion],
    tokenizer,
    *,
    labels: Sequence[str] | None = None,
    rewards: Sequence[float | None] | None = None,
    colour: str = "value",
    alpha: float = 0.1,
) -> Figure:
    """Tokens in colour above the fan of returns, a response below the other, on common scales.

    Above them the end of the prompt, once where all responses have the same; beside each title the reward, where it is
    known, and what the critic expects at the end.

    Scripts from right to left are laid out so, token by token, but letters of neighbouring tokens do not join; the
    page does it properly. Of a long response the first lines of text are drawn, with a note of how many tokens are
    not; its fan is whole.

    Args:
        scored: of `score_completions`.
        tokenizer: the critic's.
        labels: a name for each; "Response 1" and so on by default.
        rewards: what each response really got, where it is known.
        colour: what tokens are coloured by, a key of `COLOURS`.
        alpha: share of outcomes that CVaR is the mean of.

    Returns:
        A matplotlib figure, for `savefig` and for notebooks.
    """
    # optional: imported where it is needed
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    if colour not in COLOURS:
        raise ValueError(f"colour is {colour!r}; it must be one of {', '.join(COLOURS)}.")
    if not scored:
        raise ValueError("There is nothing to draw: give at least one scored completion.")
    labels = [f"Response {i + 1}" for i in range(len(scored))] if labels is None else list(labels)
    rewards = [None] * len(scored) if rewards is None else list(rewards)
    if not len(scored) == len(labels) == len(rewards):
        raise ValueError(
            f"{len(scored)} completions, {len(labels)} labels and {len(rewards)} rewards: give as many of each."
        )
    numbers = [StateNumbers(one, alpha) for one in scored]
    of_tokens = [_of_tokens(one, colour) for one in numbers]
    low, high = _range(of_tokens, symmetric=colour == "change")
    name, ends = COLOURS[colour]
    scale = ScalarMappable(Normalize(low, high), LinearSegmentedColormap.from_list(colour, list(ends)))
    layouts = [_layout(one, tokenizer) for one in scored]
    prompts = [_prompt_lines(one, tokenizer) for one in scored]
    shared = len(scored) > 1 and all(one.input_ids[: one.action_positions[0]] == _prompt(scored[0]) for one in scored)
    if shared:
        prompts = [prompts[0], *([] for _ in scored[1:])]
    height = FOOT + sum(TITLE + LINE * one.lines + GAP + FAN + GAP for one in layouts) + LINE * sum(map(len, prompts))
    figure = Figure(figsize=(WIDTH, height), dpi=200)
    top = height - 0.05
    bottom, above = _limits(numbers)
    things = zip(numbers, labels, rewards, prompts, of_tokens, layouts, strict=True)
    for one, label, reward, prompt, tokens, layout in things:
        if shared:
            top = _draw_prompt(figure, top, prompt)
        top -= TITLE
        figure.text(MARGIN[0] / WIDTH, (top + 0.06) / height, _clipped(visible_line(label)), **BOLD)
        figure.text(1 - MARGIN[1] / WIDTH, (top + 0.06) / height, _outcome(one, reward), **RIGHT)
        if not shared:
            top = _draw_prompt(figure, top, prompt)
        top -= LINE * layout.lines
        _draw_tokens(_axes(figure, top, LINE * layout.lines), layout, tokens, scale)
        top -= GAP * 0.6 + FAN
        axes = _axes(figure, top, FAN)
        _draw_fan(axes, one)
        axes.set_ylim(bottom, above)
        top -= GAP * 1.4
    axes.set_xlabel("tokens read", fontsize=8, color=QUIET)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.01, -0.26), ncols=4, frameon=False, fontsize=7.5, labelcolor=QUIET
    )
    bar = figure.add_axes(((WIDTH - 2.5) / WIDTH, 0.4 / height, 2.35 / WIDTH, 0.08 / height))
    figure.colorbar(scale, cax=bar, orientation="horizontal")
    bar.set_title(name, fontsize=7.5, color=QUIET, pad=3)
    bar.tick_params(labelsize=7, length=2, colors=QUIET)
    bar.spines[:].set_visible(False)
    return figure


def _prompt(scored: ScoredCompletion) -> Sequence[int]:
    return scored.input_ids[: scored.action_positions[0]]


def _prompt_lines(scored: ScoredCompletion, tokenizer) -> list[str]:
    """The last lines of what stands before the response."""
    text = "".join(one.text for one in token_texts(tokenizer, _prompt(scored)))
    lines = [piece for line in text.split("\n") if line.strip() for piece, _ in _cut(visible_line(line), 0)]
    kept = lines[-PROMPT_LINES:]
    return ["… " + kept[0][: COLUMNS - 2], *kept[1:]] if len(lines) > len(kept) else kept


def _outcome(numbers: StateNumbers, reward: float | None) -> str:
    """What the response got, and what the critic expects of it when it has read all of it."""
    got = "" if reward is None or not math.isfinite(reward) else f"reward {reward:.6g}, "
    return f"{got}expects {numbers.value[-1].item():.3g} at its end".replace("-", "−")


def _clipped(label: str) -> str:
    """What leaves room for the outcome beside it."""
    pieces = _cut(label, COLUMNS - TITLE_COLUMNS)
    return pieces[0][0] + "…" * (len(pieces) > 1) if pieces else ""


def _draw_prompt(figure: Figure, top: float, lines: list[str]) -> float:
    """Below `top`, in inches; returns where it ends."""
    height = figure.get_size_inches()[1]
    for line in lines:
        top -= LINE
        place = (MARGIN[0] / WIDTH, (top + 0.05) / height)
        figure.text(*place, line, family=_fonts(), fontsize=FONT_SIZE, color=QUIET, parse_math=False)
    return top


def _fonts() -> list[str]:
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return [font for font in FONTS if font in installed]


def _of_tokens(numbers: StateNumbers, colour: str) -> list[float]:
    """(T,) what each token is coloured by; NaN where that is not known."""
    if colour == "change":
        return numbers.change.tolist()
    after = getattr(numbers, colour)[1:].tolist()
    return after + [float("nan")] * (len(numbers.scored.action_positions) - len(after))


def _range(of_tokens: list[list[float]], *, symmetric: bool) -> tuple[float, float]:
    known = [number for numbers in of_tokens for number in numbers if number == number] or [0.0]
    most = max(map(abs, known))
    return (-most, most) if symmetric else (min(known), max(known))


def _limits(numbers: list[StateNumbers]) -> tuple[float, float]:
    bands = torch.cat([torch.cat([one.bands().flatten(), one.cvar, one.value]) for one in numbers])
    low, high = bands.min().item(), bands.max().item()
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


@dataclass(frozen=True)
class _Cell:
    """Part of a token on one line: its place in columns, the token (None for text that is none) and the text."""

    line: int
    column: int
    width: int
    token: int | None
    text: str


@dataclass(frozen=True)
class _Layout:
    cells: list[_Cell]
    lines: int


def _layout(scored: ScoredCompletion, tokenizer) -> _Layout:
    """The response on lines of `COLUMNS` characters of equal width."""
    first, last = scored.action_positions[0], scored.action_positions[-1]
    texts = token_texts(tokenizer, scored.input_ids)[first : last + 1]
    number = {place - first: token for token, place in enumerate(scored.action_positions)}
    backwards = right_to_left("" if text.special else text.text for text in texts)
    cells: list[_Cell] = []
    line = column = 0
    for i, (text, reverse) in enumerate(zip(texts, backwards, strict=True)):
        shown = visible_line(text.text) + (f"{text.part[0]}/{text.part[1]}" if text.part else "")
        length = sum(map(_width, shown))
        if COLUMNS - column < length <= WHOLE:
            line, column = line + 1, 0
        for characters, width in _cut(shown, column):
            if column + width > COLUMNS:
                line, column = line + 1, 0
            if line == MOST_LINES:
                left = len(number) - min((token for place, token in number.items() if place >= i), default=len(number))
                return _Layout([*cells, _Cell(line, 0, COLUMNS, None, f"… {left} more tokens")], line + 1)
            place = COLUMNS - column - width if reverse else column
            cells.append(_Cell(line, place, width, number.get(i), characters))
            column += width
        if "\n" in text.text:
            line, column = line + 1, 0
    return _Layout(cells, line + (column > 0 or not cells))


def _cut(text: str, column: int) -> list[tuple[str, int]]:
    """Pieces that fit on the rest of this line and on whole lines after it, with their widths."""
    pieces, piece, width, room = [], "", 0, COLUMNS - column
    for character in text:
        wide = _width(character)
        if width + wide > room:
            if piece:
                pieces.append((piece, width))
            piece, width, room = "", 0, COLUMNS
        piece, width = piece + character, width + wide
    return [*pieces, (piece, width)] if piece else pieces


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _axes(figure: Figure, bottom: float, height: float):
    width, total = figure.get_size_inches()
    return figure.add_axes((MARGIN[0] / width, bottom / total, (width - sum(MARGIN)) / width, height / total))


def _draw_tokens(axes, layout: _Layout, of_tokens: list[float], scale) -> None:
    from matplotlib.patches import Rectangle

    fonts = _fonts()
    axes.set(xlim=(0, COLUMNS), ylim=(layout.lines, 0))
    axes.axis("off")
    for cell in layout.cells:
        number = math.nan if cell.token is None else of_tokens[cell.token]
        known = not math.isnan(number)
        if known:
            shade = scale.to_rgba(number)
            box = Rectangle((cell.column, cell.line + 0.08), cell.width - 0.08, 0.84, facecolor=shade, linewidth=0)
            axes.add_patch(box)
        axes.text(
            cell.column,
            cell.line + 0.53,
            cell.text,
            family=fonts,
            fontsize=FONT_SIZE,
            color=INK if known else QUIET,
            va="center_baseline",
            parse_math=False,  # a "$" is a dollar
        )


def _draw_fan(axes, numbers: StateNumbers) -> None:
    states = range(len(numbers.value))
    if numbers.ensemble.shape[-1] > 1:
        low, lower, _, upper, high = numbers.bands().T.numpy()
        axes.fill_between(states, low, high, color=OUTER, linewidth=0, label="5–95 %")
        axes.fill_between(states, lower, upper, color=INNER, linewidth=0, label="middle half")
        tail = f"CVaR {100 * numbers.alpha:g} %"
        axes.plot(states, numbers.cvar.numpy(), color=TAIL, lw=0.9, ls=(0, (4, 3)), label=tail)
    axes.plot(states, numbers.value.numpy(), color=MEAN, lw=1.3, label="mean")
    axes.set_xlim(0, max(1, len(numbers.scored.action_positions)))
    axes.set_ylabel("return", fontsize=8, color=QUIET)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#e1dfd9", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b9b6ae")
    axes.tick_params(labelsize=7.5, length=2, colors=QUIET)
