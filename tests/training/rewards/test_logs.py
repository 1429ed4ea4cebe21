"""What reward functions are given besides lists, and what they log."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_dvpo.training.data.prompts import RESERVED
from modeling_dvpo.training.errors import RewardDataError, RewardFunctionError
from modeling_dvpo.training.rewards.functions import call_reward_functions
from modeling_dvpo.training.rewards.logs import RewardLog, add_logged, mean_metrics

LISTS = {"prompts": ["p", "q"], "completions": ["a", "bb"], "completion_ids": [[7], [8, 9]]}


def call(*functions, columns=None, **options):
    return call_reward_functions(functions, **LISTS, columns=columns or {}, row_ids=[0, 1], **options)


def test_plain_and_asynchronous_functions_log():
    def plain(log_extra, log_metric, trainer_state, **_):
        log_extra("array", np.array([1.5, float("nan")]))
        log_metric("m", torch.tensor(1.0))
        assert trainer_state.global_step == 0
        return [0.0, 0.0]

    async def waiting(completions, log_extra, log_metric, **_):
        log_extra("what", [{"a": 1}, None])
        log_metric("m", 4)
        return [1.0, None]

    log = RewardLog(2)
    assert call(plain, waiting, log=log) == [[0.0, 0.0], [1.0, None]]
    assert log.columns == {"array": [1.5, None], "what": ["{'a': 1}", None]}
    assert log.metrics == [("m", 1.0), ("m", 4.0)]
    assert call(plain) == [[0.0, 0.0]]  # nobody listens


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("x", [1], "1 values of 'x' for 2 rows"),
        ("reward", [1, 2], "there is a column 'reward' already"),
        ("reward/length", [1, 2], "there is a column 'reward/length' already"),
        ("twice", [1, 2], "there is a column 'twice' already"),
    ],
)
def test_columns_that_are_refused(column, values, message):
    def function(log_extra, **_):
        log_extra("twice", [1, 2])
        log_extra(column, values)

    with pytest.raises(RewardFunctionError, match=f"'function' raised RewardDataError: log_extra: {message}"):
        call(function)


def test_metrics_are_means_over_calls():
    logged = [("b", 1.0), ("a", 5.0), ("b", 2.0), ("b", 6.0)]
    assert list(mean_metrics(logged).items()) == [("a", 5.0), ("b", 3.0)]
    assert mean_metrics([]) == {}
    assert add_logged({"loss": 1.0}, {"a": 2.0}) == {"loss": 1.0, "a": 2.0}
    with pytest.raises(RewardDataError, match="the run has a metric 'loss' of its own"):
        add_logged({"loss": 1.0}, {"loss": 2.0})


def test_a_column_of_such_a_name():
    for name in ("log_metric", "trainer_state", "log_extra"):
        with pytest.raises(RewardDataError, match=f"a column '{name}', which is an argument"):
            call(columns={name: [1, 2]})


def names_of_trl(source):
    """Keywords that TRL's `GRPOTrainer` calls reward functions with, whatever the data set."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if ast.unparse(target.value) == "reward_kwargs" and isinstance(target.slice, ast.Constant):
                names.add(target.slice.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "reward_func":
            named = {keyword.arg for keyword in node.keywords if keyword.arg}
            names |= named if any(keyword.arg is None for keyword in node.keywords) and "prompts" in named else set()
    return names


def test_these_names_are_read_off_such_a_source():
    source = (
        "reward_kwargs['trainer_state'] = 1\nother['x'] = 2\nreward_func(prompts=p, **reward_kwargs)\nreward_func(**x)"
    )
    assert names_of_trl(source) == {"trainer_state", "prompts"}


@pytest.mark.slow
def test_functions_get_what_trl_gives_them():
    if (trl := importlib.util.find_spec("trl")) is None:
        pytest.skip("trl is not installed (pip install --no-deps trl)")
    trainer = Path(trl.origin).parent / "trainer" / "grpo_trainer.py"
    theirs = names_of_trl(trainer.read_text(encoding="utf-8"))
    given = []

    def function(**arguments):
        given.append(set(arguments))
        return [0.0, 0.0]

    call(function)
    # `environments` are objects of its environment factory, which there is none of here
    assert given == [theirs - {"environments"}] == [set(RESERVED)]
