"""Ways to choose one of n responses, by hand."""

import pytest
import torch

from modeling_dvpo.metrics.ranking import group_numbers
from modeling_dvpo.metrics.resampling import bootstrap_interval
from modeling_dvpo.training.evaluation.arguments import NamedSet
from modeling_dvpo.training.evaluation.best_of_n import Readings, best_of_n, same_sized_groups, voted
from modeling_dvpo.training.evaluation.sets import EvaluationSet

# two prompts, four responses each, in turn, so that a prompt's do not stand together
PROMPTS = ["a", "b"] * 4
REWARDS = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]  # a: 0 1 1 0; b: 0 0 0 1
ANSWERS = [3, None, 5, 4, 5, 4, 7, 2]
CRITIC = [0.9, 0.1, 0.1, 0.2, 0.3, 0.2, 0.2, 0.8]
LENGTHS = [1, 7, 2, 7, 3, 6, 4, 7]


def a_set(prompts=PROMPTS, rewards=REWARDS, lengths=LENGTHS):
    return EvaluationSet(
        named=NamedSet("held-out", "held_out.jsonl", "returns", "in"),
        rows=[],
        returns=torch.zeros(sum(lengths)),
        states=torch.tensor(lengths),
        actions=torch.tensor(lengths),
        steps=torch.zeros(sum(lengths)),
        rewards=torch.tensor(rewards),
        prompts=prompts,
    )


@pytest.fixture(scope="module")
def found():
    return best_of_n(a_set(), {"critic, mean": torch.tensor(CRITIC)}, ANSWERS)


@pytest.mark.parametrize(
    ("way", "of_four", "of_two"),
    [
        ("chance", [0.5, 0.25], [0.5, 0.25]),
        ("best there is", [1.0, 1.0], [1.0, 0.5]),
        ("critic, mean", [0.0, 1.0], [0.5, 0.5]),
        ("shortest", [0.0, 0.0], [0.5, 0.0]),
        # 5 twice, then 4 twice; of two the first with an answer
        ("majority vote", [1.0, 0.0], [0.5, 0.0]),
        # .9 for 3 against .4 for 5; .4 for 4 against .8 for 2
        ("majority vote, weighted by critic", [0.0, 1.0], [0.5, 0.5]),
    ],
)
def test_ways_to_choose(found, way, of_four, of_two):
    """Of two: the first two, the last two, averaged."""
    curve = found["ways"][way]["reward"]
    assert curve.keys() == {"1", "2", "4"}
    for size, per_prompt in (("4", of_four), ("2", of_two), ("1", [0.5, 0.25])):
        per_prompt = torch.tensor(per_prompt)
        assert curve[size] == pytest.approx([per_prompt.mean().item(), *bootstrap_interval(per_prompt)])


def test_pairs_in_order(found):
    """a: .1 and .3 against .9 and .2, one of four; b: .8 against .1, .2 and .2, all three. The vote orders nothing."""
    order = found["ways"]["critic, mean"]["order"]
    assert order[0] == pytest.approx(4 / 7) and order[1:] == [0.25, 1.0]
    # a: 2 and 3 against 1 (not shorter) and 4; b: 7 against 7, 7 and 6
    assert found["ways"]["shortest"]["order"][0] == pytest.approx((2 + 0.5 + 0.5) / 7)
    assert {way for way, own in found["ways"].items() if "order" in own} == {"critic, mean", "shortest"}


def test_what_it_is_of(found):
    assert (found["responses"], found["prompts"], found["left_out"]) == (4, 2, 0)
    assert "majority vote" not in best_of_n(a_set(), {}, None)["ways"]


def test_graded_rewards_are_averaged_as_they_are():
    graded = best_of_n(a_set(rewards=[0.5, 0, 2, 0, -1, 0, 0, 3.0]), {"likelihood": torch.tensor(CRITIC)}, None)
    assert graded["ways"]["likelihood"]["reward"]["4"][0] == pytest.approx((0.5 + 3) / 2)
    assert graded["ways"]["best there is"]["reward"]["4"][0] == pytest.approx((2 + 3) / 2)


def test_unequal_numbers_of_responses():
    """Five, three and one of a, b and c: three is the lower median of those with several; a's first three count."""
    prompts = ["a", "b", "a", "c", "b", "a", "a", "b", "a"]
    assert same_sized_groups(group_numbers(prompts)).tolist() == [[0, 2, 5], [1, 4, 7]]
    found = best_of_n(a_set(prompts, [0.0, 1, 1, 0, 0, 0, 1, 0, 1], [2] * 9), {}, None)
    assert (found["responses"], found["prompts"], found["left_out"]) == (3, 2, 1)
    assert found["ways"]["chance"]["reward"].keys() == {"1", "2"}
    assert found["ways"]["chance"]["reward"]["2"][0] == 0.5  # the third is left over


@pytest.mark.parametrize(
    ("prompts", "rewards"), [(["a", "b", "c"], [0.0, 1.0, 1.0]), (["a", "a", "b"], [1.0, 1.0, 0.0])]
)
def test_nothing_to_choose_from(prompts, rewards):
    assert best_of_n(a_set(prompts, rewards, [1, 1, 1]), {}, None) is None


def test_no_answer_wins_only_alone():
    assert voted([None, None, 6], [1.0, 1.0, 0.1]) == 2
    assert voted([None, None], [1.0, 1.0]) == 0


def test_readings_are_of_the_last_states():
    """Two heads whose mean is taken first; a scalar critic has nothing but its mean; what is nearly equal is equal."""
    quantiles = torch.tensor([[9.0, 9.0, 9, 9], [0, 1, 2, 3], [9, 9, 9, 9], [4, 4, 4, 4 + 2e-6]])[:, None].repeat(
        1, 2, 1
    )
    quantiles[1, 1] += 2
    readings = Readings(3, {"critic": (2, 4), "scalar": (1, 1)}, scale=1.0)
    ends = torch.tensor([1, 3])
    readings.add(range(1, 3), ends, {"critic": quantiles, "scalar": torch.arange(4.0)[:, None, None]})
    assert readings.scores.keys() == {"critic, mean", "critic, cvar=0.5", "critic, cvar=0.1", "scalar, mean"}
    assert readings.scores["critic, mean"].tolist() == pytest.approx([0, 2.5, 4.0])
    assert readings.scores["critic, cvar=0.5"].tolist() == pytest.approx([0, 1.5, 4.0])
    assert readings.scores["scalar, mean"].tolist() == pytest.approx([0, 1.0, 3.0])
    assert readings.scores["critic, mean"][2] == readings.scores["critic, cvar=0.5"][2]
