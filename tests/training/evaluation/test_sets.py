import pytest
import torch
from datasets import Dataset

from modeling_dvpo.training.evaluation.arguments import NamedSet
from modeling_dvpo.training.evaluation.sets import EvaluationSet, length_labels, reward_set

NAMED = NamedSet("held-out", "held_out.jsonl", "returns", "in")


def test_reward_set():
    """Two rows of 3 and 1 actions, γ = 1/2; a reward in the middle of the first."""
    rows = Dataset.from_dict(
        {
            "input_ids": [[5, 6, 7, 8, 9], [5, 6]],
            "completion_mask": [[False, False, True, True, True], [False, True]],
            "rewards": [[0.0, 0.0, 0.0, 2.0, 4.0], [0.0, 1.0]],
            "prompt_id": ["b", "a"],
            "subset": ["algebra", None],
        }
    )
    found = reward_set(NAMED, rows, gamma=0.5, subset_column="domain")
    assert found.returns.tolist() == [2.0, 4.0, 4.0, 1.0]  # 0 + ½ (2 + ½ · 4), 2 + ½ · 4, 4; 1
    assert found.states.tolist() == found.actions.tolist() == [3, 1]
    assert found.steps.tolist() == [0, 1, 2, 0]
    assert found.row_of_state.tolist() == [0, 0, 0, 1]
    assert found.rewards.tolist() == [6.0, 1.0]
    assert found.unit_of_state().tolist() == [0, 0, 0, 1]
    assert found.labels == {"tokens": ["3", "1"], "domain": ["algebra", "None"]}
    # of 3 states the first is at 0, the second at 1/2, the last at 1; an only one at 0
    assert found.positions(4).tolist() == [0, 2, 3, 0]


def one_state_each(actions, steps, rewards=(0.0, 1.0, 1.0)):
    number = len(actions)
    return EvaluationSet(
        named=NAMED,
        rows=[],
        returns=torch.zeros(number, 4),
        states=torch.ones(number, dtype=torch.long),
        actions=torch.tensor(actions),
        steps=torch.tensor(steps),
        rewards=torch.tensor(rewards),
        prompts=[3, 1, 3],
    )


def test_positions_of_chosen_states():
    """The position is that in the whole response, of which only one state is there."""
    found = one_state_each([5, 11, 1], [4, 5, 0])
    assert found.positions(10).tolist() == [9, 5, 0]
    assert found.row_of_state.tolist() == [0, 1, 2]
    assert found.unit_of_state().tolist() == [0, 1, 0]


def test_right_and_wrong():
    assert one_state_each([1, 1, 1], [0, 0, 0]).right(None).tolist() == [False, True, True]
    assert one_state_each([1, 1, 1], [0, 0, 0], (-1.0, -0.5, -1.0)).right(None).tolist() == [False, True, False]
    graded = one_state_each([1, 1, 1], [0, 0, 0], (0.0, 0.4, 1.0))
    assert graded.right(None) is None
    assert graded.right(0.4).tolist() == [False, False, True]  # above, not at
    assert graded.right(2.0) is None and graded.right(-1.0) is None  # all alike: nothing to tell apart


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([5, 1, 9, 2, 8, 3], ["3-5", "1-2", "8-9", "1-2", "8-9", "3-5"]),
        ([4, 4, 4], ["4"] * 3),
        ([7], ["7"]),
        ([2, 7], ["2", "7"]),
        ([1, 1, 1, 1, 6], ["1", "1", "1", "1", "6"]),
    ],
)
def test_thirds_by_length(actions, expected):
    assert length_labels(torch.tensor(actions)) == expected
