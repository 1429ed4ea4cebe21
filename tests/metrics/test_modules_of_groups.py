"""The `evaluate` modules on completions of prompts, and on scalar critics of two-valued returns, by hand."""

import pytest


def test_explained_variance_of_groups(load):
    # group a: means 1 of values 0 2 1, 2 of returns 0 3 3; 7: 3 and 4. Errors of means 1 and 1, which do not vary;
    # within a returns -2 1 1, values -1 1 0, errors -1 0 1
    metric = load("explained_variance", "responses")
    report = metric.compute(
        predictions=[[0.0, 2.0], [1.0], [3.0]],
        references=[[0.0, 3.0], [3.0], [4.0]],
        groups=["a", "a", 7],
        scalar_values=[[1.0, 1.0], [1.0], [9.0]],
    )
    assert report["explained_variance_between"] == pytest.approx(1.0)
    assert report["explained_variance_within"] == pytest.approx(1 - 2 / 6)
    assert report["variance_within"] == pytest.approx(6 / (6 + 3 * 0.25 + 2.25))  # means 2 2 2 4 about 2.5
    assert report["explained_variance_within_scalar"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="groups has 2 rows and predictions 3"):
        metric.compute(predictions=[[0.0]] * 3, references=[0.0] * 3, groups=["a", "b"])


def test_ranking_accuracy(load):
    # a: 3 > 1 right, 3 > 2 wrong way: references 1 0 | 1 2; last states count. b has one pair, tied
    report = load("ranking_accuracy", "responses").compute(
        predictions=[[9.0, 3.0], [1.0], [0.0, 0.0, 2.0], [5.0], [5.0]],
        references=[1, 0, 2, 0, 1],
        groups=["a", "a", "a", 7, 7],
        scalar_values=[[0.0, 1.0], [0.0], [0.0, 0.0, 2.0], [0.0], [1.0]],
    )
    # a: (1, 0) in order, (1, 2) not, (0, 2) in order
    assert report["ranking_accuracy"] == pytest.approx((2 + 0.5) / 4)
    assert report["ranking_accuracy_scalar"] == 1.0 and report["ranking_accuracy_constant"] == 0.5
    assert report["ranking_accuracy_interval"] == [0.5, pytest.approx(2 / 3)]
    assert (report["pairs"], report["groups"], report["rows"]) == (4, 2, 5)


@pytest.mark.parametrize("name", ["crps", "pinball"])
def test_a_scalar_critic_of_two_valued_returns_is_a_distribution(score, name):
    # (p - b)² for p = 1/4 and b = 0, 0, 1; pinball is half of it. The constant, 1/3, is read so, too
    report = score(name, [[0.25]] * 3, [0.0, 0.0, 1.0], scalar_values=[0.25] * 3)
    half = {"crps": 1.0, "pinball": 0.5}[name]
    assert report[name] == report[f"{name}_scalar"] == pytest.approx(half * (2 / 16 + 9 / 16) / 3)
    assert report[f"{name}_constant"] == pytest.approx(half * (2 / 9 + 4 / 9) / 3, abs=1e-5)
    graded = score(name, [[0.25]] * 3, [0.0, 0.5, 1.0], scalar_values=[0.25] * 3)
    assert graded[f"{name}_scalar"] == pytest.approx(half * (0.25 + 0.25 + 0.75) / 3)
    # the training set has seen a third value
    training = score(name, [[0.25]] * 3, [0.0, 0.0, 1.0], training_returns=[0.0, 0.5, 1.0])
    assert training[name] == pytest.approx(half * (0.25 + 0.25 + 0.75) / 3)
