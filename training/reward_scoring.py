"""Rewards for rows that have none: Python functions with TRL's signature, or a sequence-classification reward model.

A reward function is called as `f(prompts=…, completions=…, completion_ids=…, **columns)`, each a list with one entry
per row, and returns one number per row, or None where it does not apply. Chats arrive as lists of messages, text as
text, and every other column of the data set by its own name.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence

import torch

from modeling_dvpo.training.reward_checks import RewardDataError
from modeling_dvpo.training.reward_rows import Row

RewardFunction = Callable[..., list[float | None]]


def load_reward_function(name: str) -> RewardFunction:
    """A function by its importable name, or a reward model by its directory or Hub name.

    `package.module:function` and `package.module.function` are importable names; whatever has a "/" in it, or is a
    directory, is a model.
    """
    if os.path.isdir(name) or "/" in name:
        return RewardModel(name)
    module, separator, attribute = name.partition(":")
    if not separator:
        module, _, attribute = name.rpartition(".")
    if not module or not attribute:
        raise RewardDataError(
            f"{name!r} is not a reward function: write `package.module:function`, or the directory or Hub name "
            "(owner/name) of a reward model."
        )
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RewardDataError(
            f"The reward function {name!r} cannot be imported ({error}): check the name, and that its module is "
            "installed or its directory is on PYTHONPATH."
        ) from error
    if not callable(function):
        raise RewardDataError(f"{name!r} is {function!r:.40}, not a function that scores completions.")
    return function


class RewardModel:
    """A sequence classifier with one label, called like a reward function.

    Text rows are scored as prompt + completion, chats through the reward model's own chat template.
    """

    def __init__(self, name: str, *, batch_size: int = 16, device: str | None = None):
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        labels = AutoConfig.from_pretrained(name).num_labels
        if labels != 1:
            raise RewardDataError(
                f"{name!r} has {labels} labels, and a reward model needs 1, so that its output is one score: use a "
                "reward model, or a reward function that says what to make of the labels."
            )
        self.name, self.batch_size = name, batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1).to(self.device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # The model looks for the last token that is not padding, so both must mean the same id.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    @torch.no_grad()
    def __call__(self, *, prompts: list, completions: list, **_: object) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(prompts), self.batch_size):
            rows = zip(prompts[start : start + self.batch_size], completions[start:], strict=False)
            encoded = [self._encode(prompt, completion) for prompt, completion in rows]
            batch = self.tokenizer.pad({"input_ids": encoded}, return_tensors="pt", padding_side="right")
            scores += self.model(**batch.to(self.device)).logits[:, 0].float().tolist()
        return scores

    def _encode(self, prompt: str | list, completion: str | list) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt + completion).input_ids
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(prompt + completion, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False).input_ids


def score_rows(
    rows: Sequence[Row],
    completion_ids: Sequence[list[int]],
    functions: Sequence[RewardFunction],
    *,
    weights: Sequence[float] = (),
    row_ids: Sequence[int] | None = None,
) -> list[float | None]:
    """Weighted sum of the reward functions, row by row.

    Args:
        rows: one batch; each function is called once.
        completion_ids: token ids of each row's actions.
        functions: called with TRL's signature.
        weights: one per function, 1 by default.
        row_ids: numbers to report rows by.

    Returns:
        One finite number per row; a function that answers None is left out of the sum, and where all do, it is None.
    """
    weights = list(weights) or [1.0] * len(functions)
    if len(weights) != len(functions):
        raise RewardDataError(f"{len(weights)} reward weights for {len(functions)} reward functions: one for each.")
    parts = [row.split() for row in rows]
    prompts = [_as_given(prompt) for prompt, _ in parts]
    completions = [
        [{"role": "assistant", "content": completion}]
        if row.is_chat() and isinstance(completion, str)
        else _as_given(completion)
        for row, (_, completion) in zip(rows, parts, strict=True)
    ]
    columns = {name: [row.extra.get(name) for row in rows] for name in rows[0].extra}
    totals: list[float | None] = [None] * len(rows)
    for function, weight in zip(functions, weights, strict=True):
        scores = function(prompts=prompts, completions=completions, completion_ids=list(completion_ids), **columns)
        for place, score in enumerate(_checked(scores, function, row_ids or range(len(rows)))):
            if score is not None:
                totals[place] = (totals[place] or 0.0) + weight * score
    return totals


def _as_given(part):
    """Messages without the empty keys that Arrow adds; text as it is."""
    if isinstance(part, str):
        return part
    return [{key: value for key, value in message.items() if value is not None} for message in part]


def _checked(scores, function: RewardFunction, row_ids: Sequence[int]) -> list[float | None]:
    name = getattr(function, "__name__", None) or getattr(function, "name", type(function).__name__)
    scores = list(scores)
    if len(scores) != len(row_ids):
        raise RewardDataError(
            f"The reward function {name!r} returned {len(scores)} scores for {len(row_ids)} rows: it must return a "
            "list with one number, or None, per row."
        )
    for row, score in zip(row_ids, scores, strict=True):
        if score is None:
            continue
        try:
            finite = math.isfinite(score)
        except TypeError:
            finite = False
        if not finite:
            raise RewardDataError(
                f"The reward function {name!r} returned {score!r:.60} for row {row}: it must return a finite number, "
                "or None where it does not apply."
            )
    return [None if score is None else float(score) for score in scores]
