"""`dvpo inspect`: a page, or a figure, of what a critic expects along responses."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from ..auto import AutoModelForDistributionalValue
from ..inference.scoring import ScoredCompletion, score_completions
from ..text.problems import DataError
from .figure import COLOURS, plot_responses
from .page import inspect_page
from .response_rows import Response, read_responses, require_encodable, titles


def add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = "dvpo inspect outputs/demo/critics/auto/last --prompt '8+4-9=' --response '8+4=12;12-9=3;answer 3'"
    parser.add_argument("critic", help="a saved critic, or its name on the Hub")
    parser.add_argument("--prompt", help="text of the prompt")
    parser.add_argument("--response", action="append", default=[], help="text of a response; may be given again")
    parser.add_argument("--chat", action="store_true", help="--prompt is a user's message, for the chat template")
    parser.add_argument(
        "--chat-template-kwargs",
        type=_arguments,
        metavar="JSON",
        help="arguments of the chat template, such as '{\"enable_thinking\": false}'",
    )
    parser.add_argument("--truncated", action="store_true", help="the responses were cut off: they get no end token")
    parser.add_argument("--file", help=".jsonl or .json rows with prompt and completion(s), or messages")
    parser.add_argument(
        "--title", action="append", default=[], help="of a response, in order; by default how its prompt begins"
    )
    parser.add_argument("--limit", type=int, default=8, help="responses of --file to show (%(default)s)")
    parser.add_argument("--tokenizer", help="by default the critic's own")
    parser.add_argument("--revision", help="of the critic on the Hub")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="as saved by default"
    )
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default a GPU where there is one")
    parser.add_argument("--alpha", type=float, default=0.1, help="share of outcomes CVaR is the mean of (%(default)s)")
    parser.add_argument("--threshold", type=float, help="show the probability of a return above it")
    parser.add_argument("--output", default="inspect.html", help="the page (%(default)s)")
    parser.add_argument("--png", help="a figure as well, at this path")
    parser.add_argument("--svg", help="a figure as well, at this path")
    parser.add_argument(
        "--show", default="value", choices=tuple(COLOURS), help="what the figure's tokens are coloured by"
    )


def main(options: Namespace) -> None:
    responses, available = _responses(options)
    for response in responses:
        require_encodable(response)
    if options.title and len(options.title) != len(responses):
        raise DataError(f"{len(options.title)} --title for {len(responses)} responses: give one for each, or none.")
    figures = [path for path in (options.png, options.svg) if path]
    if figures:
        _require_matplotlib()
    config = AutoConfig.from_pretrained(options.critic, revision=options.revision)
    if not getattr(config, "num_value_heads", None):
        raise ValueError(
            f"{options.critic} is no critic: its config has no num_value_heads, so its heads would be random. Train "
            "one with train_critic.py."
        )
    tokenizer = AutoTokenizer.from_pretrained(
        options.tokenizer or options.critic, revision=None if options.tokenizer else options.revision
    )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    critic = AutoModelForDistributionalValue.from_pretrained(
        options.critic, revision=options.revision, dtype=options.dtype
    ).to(device)
    scored = _score(critic, tokenizer, responses, options.chat_template_kwargs)
    facts = {
        "labels": options.title or (titles(responses) if options.file else [one.label for one in responses]),
        "rewards": [response.reward for response in responses],
        "alpha": options.alpha,
    }
    if figures:
        figure = plot_responses(scored, tokenizer, colour=options.show, **facts)
        for path, kind in ((options.png, "png"), (options.svg, "svg")):
            if path:
                figure.savefig(_ready(path), format=kind)
    page = inspect_page(
        scored,
        tokenizer,
        title=f"What {options.critic} expects",
        note=_note(config, len(responses), available),
        threshold=_middle(config) if options.threshold is None else options.threshold,
        **facts,
    )
    path = _ready(options.output)
    path.write_text(page, encoding="utf-8", newline="\n")
    tokens = sum(len(one.action_positions) for one in scored)
    print(f"{path}: {len(scored)} responses, {tokens} tokens, {path.stat().st_size / 1e6:.2f} MB")
    for path in figures:
        print(path)
    if len(responses) < available:
        print(f"{available - len(responses)} more responses are in {options.file}; --limit shows more.")


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = 'Figures need matplotlib: pip install "modeling-dvpo[plots]". A page does not.'
        raise ImportError(message) from error


def _responses(options: Namespace) -> tuple[list[Response], int]:
    by_hand = options.prompt is not None or options.response
    if bool(options.file) == bool(by_hand):
        raise DataError("Give --prompt with one or more --response, or --file.")
    if options.file:
        if options.chat or options.truncated:
            raise DataError("--chat and --truncated are for --response; rows say so themselves (messages, truncated).")
        return read_responses(options.file, options.limit)
    if options.prompt is None or not options.response:
        raise DataError("--prompt needs at least one --response, and the other way round.")
    prompt = [{"role": "user", "content": options.prompt}] if options.chat else options.prompt
    responses = [
        Response(prompt, text, f"Response {i}", truncated=options.truncated)
        for i, text in enumerate(options.response, 1)
    ]
    return responses, len(responses)


def _arguments(text: str) -> dict[str, Any]:
    arguments = json.loads(text)
    if not isinstance(arguments, dict):
        raise ValueError
    return arguments


def _score(
    critic, tokenizer, responses: list[Response], chat_template_kwargs: dict[str, Any] | None
) -> list[ScoredCompletion]:
    """Scored together where they have the same tools."""
    scored = []
    for tools, group in groupby(responses, lambda response: response.tools):
        some = list(group)
        try:
            scored += score_completions(
                critic,
                tokenizer,
                [response.prompt for response in some],
                [response.completion for response in some],
                truncated=[response.truncated for response in some],
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
            )
        except ValueError as error:
            labels = f"{some[0].label} to {some[-1].label}" if len(some) > 1 else some[0].label
            raise DataError(f"{labels}, completions counted from 0: {error}") from error
    return scored


def _note(config, shown: int, available: int) -> str:
    note = f"{config.num_value_heads} heads of {config.num_quantiles} quantiles"
    record = getattr(config, "critic_training", None) or {}
    if returns := record.get("return_range"):
        note += f", trained on returns from {returns[0]:g} to {returns[1]:g}"
    return note + (f"; the first {shown} of {available} responses" if shown < available else "")


def _middle(config) -> float | None:
    """Of the returns it was trained on: for right and wrong answers, what lies between them."""
    returns = (getattr(config, "critic_training", None) or {}).get("return_range")
    return sum(returns) / 2 if returns else None


def _ready(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
