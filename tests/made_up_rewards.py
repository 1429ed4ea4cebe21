"""Reward functions and an environment that tests name on command lines."""

import torch


def vowels(prompts, completions, completion_ids, number, **_):
    """Share of characters that are vowels, plus the row's number, so that prompts differ in what they are worth."""
    texts = [
        text if isinstance(text, str) else "".join(message["content"] for message in text) for text in completions
    ]
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) + n for text, n in zip(texts, number, strict=True)]


async def short(completion_ids, **_):
    """Only says something about every other completion."""
    return [1 / len(ids) if i % 2 else None for i, ids in enumerate(completion_ids)]


def long(completion_ids, **_):
    """What a completion is about as often as not."""
    return [float(len(ids) > 5) for ids in completion_ids]


def number_of_tokens(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


def talkative(completions, completion_ids, trainer_state, log_extra, log_metric, **_):
    """Logs a column, and metrics in some steps and ranks only."""
    log_extra("first", [ids[0] for ids in completion_ids])
    for ids in completion_ids:
        log_metric("ids", len(ids))
    log_metric("done", trainer_state.global_step / trainer_state.max_steps)
    return [float(trainer_state.global_step)] * len(completions)


def never(completions, **_):
    return [None] * len(completions)


def wrong(completions, **_):
    return [float("nan")] * len(completions)


def ask_twice(prompts, completions, **_):
    """An environment: two questions, then the end."""
    return [{"role": "user", "content": "hello"} if len(turns) < 4 else None for turns in completions]


def length(completions, **_):
    return [float(len(completion) % 3) for completion in completions]


def judge(completions, **_):
    """Answers as it likes, and leaves PyTorch's generator somewhere else on each rank."""
    torch.seed()
    return torch.rand(len(completions)).tolist()


def last_number(text):
    """An answer for majority votes to count."""
    return next((word for word in reversed(text.split()) if word.isdigit()), None)
