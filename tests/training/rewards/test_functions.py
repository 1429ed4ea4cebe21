"""Reward functions and reward models: how they are found, called, weighted and refused."""

import asyncio
import functools
import gc
import math
import threading
import warnings

import pytest
import torch

from modeling_dvpo.training.errors import RewardDataError, RewardFunctionError
from modeling_dvpo.training.rewards.functions import (
    call_reward_functions,
    combine_rewards,
    load_reward_function,
    reward_names,
)


def right_answer(prompts, completions, answer, **_):
    return [float(completion.strip() == right) for completion, right in zip(completions, answer, strict=True)]


def brevity(completion_ids, **_):
    return [1 / len(ids) for ids in completion_ids]


def only_first(prompts, **_):
    return [3.0] + [None] * (len(prompts) - 1)


def call(*functions, completions=("a", "bb"), **options):
    return call_reward_functions(
        functions,
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[7]] * len(completions),
        **{"columns": {}, "row_ids": range(11, 11 + len(completions)), **options},
    )


class TestCallRewardFunctions:
    def test_one_list_a_function_with_none_kept(self):
        def lengths(completions, **_):
            return torch.tensor([len(completion) for completion in completions])

        answers = call(lengths, only_first)
        assert answers == [[1.0, 2.0], [3.0, None]]
        assert all(type(score) is float for score in answers[0])

    def test_columns_arrive_by_name(self):
        assert call(right_answer, completions=[" 2", " 5"], columns={"answer": ["2", "4"]}) == [[1.0, 0.0]]

    def test_a_column_named_like_an_argument_is_refused(self):
        with pytest.raises(RewardDataError, match="column 'completion_ids', which is an argument .* rename"):
            call(brevity, columns={"completion_ids": [1, 2]})

    def test_a_function_cannot_change_what_the_next_one_sees(self):
        def greedy(completions, answer, **_):
            return [float(answer.pop() == completions.pop()) for _ in range(2)]

        assert call(greedy, right_answer, columns={"answer": ["a", "b"]}) == [[0.0, 1.0], [1.0, 0.0]]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ([1.0], "returned 1 scores for 2 rows"),
            ([1.0, math.nan], "returned nan for row 12: it must return a finite number"),
            ([1.0, "good"], "returned 'good' for row 12"),
            ([1.0, torch.ones(2)], r"returned tensor\(\[1., 1.\]\) for row 12"),
            (None, "returned None: it must return a list with one number"),
        ],
    )
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_bad_answers_are_refused(self, answer, message, asynchronous):
        def broken(**_):
            return answer

        async def late(**_):
            return answer

        late.__name__ = "broken"
        with pytest.raises(RewardDataError, match=f"The reward function 'broken' {message}"):
            call(late if asynchronous else broken)

    def test_an_exception_names_the_function_and_keeps_its_cause(self):
        def picky(**_):
            raise KeyError("answer")

        with pytest.raises(
            RewardFunctionError, match="The reward function 'picky' raised KeyError: 'answer'"
        ) as caught:
            call(picky)
        assert isinstance(caught.value.__cause__, KeyError)


class AsyncJudge:
    """Asynchronous by its `__call__`."""

    async def __call__(self, completions, **_):
        await asyncio.sleep(0)
        return [float(len(completion)) for completion in completions]


class TestAsynchronousFunctions:
    def test_all_run_at_the_same_time(self):
        """Each waits for the other, so one after the other would never end."""
        first_is_here, second_is_here = asyncio.Event(), asyncio.Event()

        async def first(completions, **_):
            first_is_here.set()
            await asyncio.wait_for(second_is_here.wait(), timeout=30)
            return [1.0] * len(completions)

        async def second(completions, **_):
            second_is_here.set()
            await asyncio.wait_for(first_is_here.wait(), timeout=30)
            return [2.0] * len(completions)

        assert call(first, brevity, second) == [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]

    def test_callable_objects_and_partials(self):
        assert call(AsyncJudge(), functools.partial(AsyncJudge(), answer=3)) == [[1.0, 2.0]] * 2

    def test_inside_a_running_loop(self):
        async def notebook_cell():
            return call(AsyncJudge(), brevity)

        assert asyncio.run(notebook_cell()) == [[1.0, 2.0], [1.0, 1.0]]

    def test_clients_kept_between_calls_stay_on_one_loop(self):
        seen = []

        async def look(completions, **_):
            seen.append(asyncio.get_running_loop())
            return [0.0] * len(completions)

        call(look), call(look)
        assert seen[0] is seen[1] and not seen[0].is_closed()

    def test_a_failure_is_named_and_stops_the_others(self):
        stopped = threading.Event()

        async def patient(**_):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                stopped.set()
                raise

        async def broken(**_):
            await asyncio.sleep(0)
            raise ValueError("quota exceeded")

        with pytest.raises(RewardFunctionError, match="'broken' raised ValueError: quota exceeded"):
            call(patient, broken)
        assert stopped.wait(10)

    def test_a_plain_function_that_fails_leaves_no_coroutine_behind(self):
        def broken(**_):
            raise ValueError("no")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(RewardFunctionError, match="'broken' raised ValueError: no"):
                call(AsyncJudge(), broken)
            gc.collect()
        assert not caught  # "coroutine was never awaited"

    def test_waiting_for_oneself_is_refused(self):
        """It would wait for its own loop for ever."""

        async def outer(**_):
            return call(AsyncJudge())[0]

        with pytest.raises(RewardFunctionError, match="'outer' raised RuntimeError: .* await that function"):
            call(outer)


class TestCombineRewards:
    def test_by_hand(self):
        scores = [[1.0, None, None], [2.0, 4.0, None]]
        assert combine_rewards(scores, [0.5, 3.0], range(3)) == [6.5, 12.0, None]
        assert combine_rewards(scores, [], range(3)) == [3.0, 4.0, None]

    def test_zero_is_an_answer(self):
        assert combine_rewards([[0.0], [None]], [], [5]) == [0.0]

    def test_weights_must_fit(self):
        with pytest.raises(RewardDataError, match="1 reward weights for 2 reward functions"):
            combine_rewards([[1.0], [2.0]], [1.0], [0])

    def test_a_sum_that_overflows_is_refused(self):
        with pytest.raises(RewardDataError, match="sum of rewards of row 12 is inf, and 1e.18 is the most"):
            combine_rewards([[1.0, 1e308], [1.0, 1e308]], [], [11, 12])


def test_equal_names_are_numbered_in_order_and_a_taken_number_is_skipped():
    def brevity_2(**_): ...

    functions = [brevity_2, brevity, AsyncJudge(), functools.partial(brevity), AsyncJudge()]
    assert reward_names(functions) == ["brevity_2", "brevity", "AsyncJudge", "brevity_3", "AsyncJudge_2"]


@pytest.mark.parametrize("name", ["math:gamma", "math.gamma"])
def test_a_function_is_found_by_name(name):
    assert load_reward_function(name) is math.gamma


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math:gama", "'math:gama' cannot be imported"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("math:tau", "is 6.28.*, not a function"),
        ("gamma", "write `package.module:function`"),
    ],
)
def test_names_of_no_function(name, message):
    with pytest.raises(RewardDataError, match=message):
        load_reward_function(name)
