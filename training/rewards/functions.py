"""Reward functions: found by name, called with TRL's signature, checked, and summed with their weights.

A reward function is called as `f(prompts=…, completions=…, completion_ids=…, **columns)`, each a list with one entry
per row, and returns one number per row, or None where it does not apply. Chats arrive as lists of messages, text as
text, and every other column of the data set by its own name. It may be a coroutine function (`async def`). It also
gets `trainer_state` (transformers' `TrainerState`), `log_extra(column, values)` and `log_metric(name, value)`.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import math
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from transformers import TrainerState

from ..errors import RewardDataError, RewardFunctionError
from .bounds import LARGEST_REWARD
from .logs import RewardLog
from .reward_model import RewardModel

RewardFunction = Callable[..., Sequence[float | None]]


def load_reward_function(name: str) -> RewardFunction:
    """A function by its importable name, or a reward model by its directory or Hub name.

    `package.module:function` and `package.module.function` are importable names; whatever has a "/" in it, or is a
    directory, is a model.

    Raises:
        RewardDataError: there is no such function, or the model gives more than one score.
    """
    if os.path.isdir(name) or "/" in name:
        return RewardModel(name)
    return import_function(name, "reward function", or_else=", or the directory or Hub name (owner/name) of a model")


def import_function(name: str, kind: str, *, or_else: str = "") -> Callable:
    """A function by its importable name, `package.module:function` or `package.module.function`.

    Args:
        name: as the user wrote it.
        kind: what the function is for; goes into the errors.
        or_else: what else the user could have written; goes into the errors.

    Raises:
        RewardDataError: there is no such function.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        module, _, attribute = name.rpartition(".")
    if not module or not attribute:
        raise RewardDataError(f"{name!r} is not a {kind}: write `package.module:function`{or_else}.")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RewardDataError(
            f"The {kind} {name!r} cannot be imported ({error}): check the name, and that its module is installed or "
            "its directory is on PYTHONPATH."
        ) from error
    if not callable(function):
        raise RewardDataError(f"{name!r} is {function!r:.40}, not a function; a {kind} is needed.")
    return function


def _name_of(function: RewardFunction) -> str:
    """What metrics and errors call a reward function: its `__name__`, or the last part of a reward model's path."""
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    if isinstance(function, RewardModel):
        return os.path.basename(os.path.normpath(function.name))
    return getattr(function, "__name__", type(function).__name__)


def reward_names(functions: Sequence[RewardFunction]) -> list[str]:
    """A name for each function, no two alike: what share one are told apart by _2, _3, … in their order."""
    names: list[str] = []
    for function in functions:
        name, count = _name_of(function), 1
        while (unique := name if count == 1 else f"{name}_{count}") in names:
            count += 1
        names.append(unique)
    return names


def call_reward_functions(
    functions: Sequence[RewardFunction],
    *,
    prompts: Sequence,
    completions: Sequence,
    completion_ids: Sequence[list[int]],
    columns: dict[str, list],
    row_ids: Sequence[int],
    trainer_state: TrainerState | None = None,
    log: RewardLog | None = None,
) -> list[list[float | None]]:
    """Call every function once with the whole batch.

    Functions run in order in the calling thread; what is asynchronous among them then runs concurrently, in an event
    loop that is the same for the whole process, so clients that a function keeps between calls go on working.

    Args:
        functions: called with TRL's signature; plain or asynchronous.
        prompts, completions, completion_ids: one entry per row.
        columns: further keyword arguments, one entry per row each.
        row_ids: one per row, to report rows by.
        trainer_state: how far the run is; of no run by default.
        log: takes what the functions log; by default it is thrown away.

    Returns:
        One list per function, with a finite number or None for each row.

    Raises:
        RewardFunctionError: a function raised.
        RewardDataError: a function's answer is not one finite number, or None, per row; a column has the name of one
            of the other arguments.
    """
    arguments = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
    log = RewardLog(len(row_ids)) if log is None else log
    shared = {
        "trainer_state": trainer_state or TrainerState(),
        "log_extra": log.log_extra,
        "log_metric": log.log_metric,
    }
    if clash := sorted(columns.keys() & {*arguments, *shared}):
        raise RewardDataError(
            f"The data set has a column {clash[0]!r}, which is an argument that every reward function is called with: "
            "rename the column."
        )
    # Every function gets lists of its own, so that one that sorts or pops does not change what the next one sees.
    arguments |= columns
    answers: list[Any] = []
    try:
        for function in functions:
            answers.append(_called(function, {name: list(values) for name, values in arguments.items()} | shared))
        waiting = [place for place, answer in enumerate(answers) if inspect.isawaitable(answer)]
        loop = _free_event_loop() if waiting else None
    except RuntimeError:
        for answer in filter(inspect.iscoroutine, answers):
            answer.close()
        raise
    if loop:
        awaited = _await_all([_awaited(functions[place], answers[place]) for place in waiting], loop)
        for place, answer in zip(waiting, awaited, strict=True):
            answers[place] = answer
    return [_checked(answer, function, row_ids) for answer, function in zip(answers, functions, strict=True)]


def combine_rewards(
    per_function: Sequence[Sequence[float | None]], weights: Sequence[float], row_ids: Sequence[int]
) -> list[float | None]:
    """Weighted sum over the functions that did not answer None, row by row; None where all did.

    Args:
        per_function: what `call_reward_functions` returns.
        weights: one per function; none means 1 for each.
        row_ids: one per row, to report rows by.

    Raises:
        RewardDataError: the weights do not match the functions, or a sum is not finite or beyond `LARGEST_REWARD`.
    """
    weights = list(weights) or [1.0] * len(per_function)
    if len(weights) != len(per_function):
        raise RewardDataError(f"{len(weights)} reward weights for {len(per_function)} reward functions: one for each.")
    totals: list[float | None] = []
    for row, *scores in zip(row_ids, *per_function, strict=True):
        given = [weight * score for weight, score in zip(weights, scores, strict=True) if score is not None]
        if not abs(sum(given)) <= LARGEST_REWARD:
            raise RewardDataError(
                f"The weighted sum of rewards of row {row} is {sum(given):g}, and {LARGEST_REWARD:g} is the most that "
                "can be learnt from: bound the rewards."
            )
        totals.append(sum(given) if given else None)
    return totals


def _called(function: RewardFunction, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except Exception as error:
        raise _failure(function, error) from error


async def _awaited(function: RewardFunction, answer) -> Any:
    try:
        return await answer
    except Exception as error:
        raise _failure(function, error) from error


def _failure(function: RewardFunction, error: Exception) -> RewardFunctionError:
    return RewardFunctionError(f"The reward function {_name_of(function)!r} raised {type(error).__name__}: {error}")


def _await_all(coroutines: Sequence[Coroutine], loop: asyncio.AbstractEventLoop) -> list:
    async def together():
        tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
        try:
            return await asyncio.gather(*tasks)
        finally:  # where one raised, the others must not go on behind the caller's back
            for task in tasks:
                task.cancel()

    result = asyncio.run_coroutine_threadsafe(together(), loop)
    try:
        return result.result()
    finally:
        result.cancel()  # does something only where the wait was interrupted


def _free_event_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: a notebook's thread already runs one, which could not wait for us."""
    loop = _event_loop(os.getpid())
    if asyncio._get_running_loop() is loop:
        raise RuntimeError("it calls an asynchronous reward function as if it were a plain one: await that function.")
    return loop


@functools.cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    # One a process: HTTP sessions and the like belong to the loop they were first used in. A fork has no threads, so
    # the loop that it inherits stands still and it needs another.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"reward-functions-{process}", daemon=True).start()
    return loop


def _checked(scores, function: RewardFunction, row_ids: Sequence[int]) -> list[float | None]:
    name = _name_of(function)
    try:
        scores = list(scores)
    except TypeError:
        raise RewardDataError(
            f"The reward function {name!r} returned {scores!r:.60}: it must return a list with one number, or None, "
            "per row."
        ) from None
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
        except (TypeError, ValueError, RuntimeError):  # the last two from arrays and tensors of several numbers
            finite = False
        if not finite:
            raise RewardDataError(
                f"The reward function {name!r} returned {score!r:.60} for row {row}: it must return a finite number, "
                "or None where it does not apply."
            )
    return [None if score is None else float(score) for score in scores]
