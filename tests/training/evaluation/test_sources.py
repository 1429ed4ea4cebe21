from types import SimpleNamespace

import pytest

from modeling_dvpo.training.evaluation.sources import digest_of_rows, discount


def test_discount():
    """What was asked for, what the critic was trained with, or none."""
    assert discount(SimpleNamespace(), None) == 1.0
    trained = SimpleNamespace(critic_training={"gamma": 0.9})
    assert discount(trained, None) == discount(trained, 0.9) == 0.9
    assert discount(SimpleNamespace(critic_training=None), 0.5) == 0.5
    assert discount(SimpleNamespace(critic_training={"gamma": 0.0}), None) == 0.0
    with pytest.warns(UserWarning, match="gamma is 0.5, and the critic was trained on returns of gamma 0.9"):
        assert discount(trained, 0.5) == 0.5


def test_digest_of_rows():
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3]}]
    assert digest_of_rows(rows) == digest_of_rows(iter(rows)) != digest_of_rows(rows[::-1])
    # rows are told apart from the same tokens cut otherwise
    assert digest_of_rows([[1], [2]]) != digest_of_rows([[1, 2]])
