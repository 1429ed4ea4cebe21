"""A scalar critic of two-valued returns, read as a distribution of two points."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from modeling_dvpo.metrics.calibration import interval_coverage, pit_distance
from modeling_dvpo.metrics.report import CriticReport, critic_report
from modeling_dvpo.metrics.scores import crps, explained_variance, wasserstein_1
from modeling_dvpo.metrics.two_valued import ATOMS, as_distribution, two_values


@pytest.mark.parametrize(
    ("returns", "values"),
    [
        ([0.0, 1.0, 1.0], (0.0, 1.0)),
        ([[3.0, -1.0], [3.0, 3.0]], (-1.0, 3.0)),
        ([0.0, 0.5, 1.0], ()),
        ([2.0, 2.0, 2.0], ()),
        ([0.0, 1.0], ()),  # of two returns all are two-valued
        ([], ()),
    ],
)
def test_two_values(returns, values):
    assert two_values(torch.tensor(returns)) == values


def test_only_a_scalar_critic_of_such_returns_is_read_so():
    scalar, quantiles = torch.tensor([[0.25]]), torch.tensor([[0.0, 0.5]])
    assert as_distribution(scalar, ()) is scalar
    assert as_distribution(quantiles, (0.0, 1.0)) is quantiles


def test_by_hand():
    """Returns of -1 or 3: 0 is a quarter of the way, so three quarters of the atoms are at -1; outside it is
    clipped."""
    found = as_distribution(torch.tensor([[0.0], [-5.0], [7.0]]), (-1.0, 3.0))
    assert found.shape == (3, ATOMS) and found.dtype == torch.float64
    assert (found[0] == -1).sum() == 0.75 * ATOMS and (found[0] == 3).sum() == 0.25 * ATOMS
    assert found[1].unique().tolist() == [-1.0] and found[2].unique().tolist() == [3.0]


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(-5, 5), st.floats(0.1, 9), st.integers(0, 6))
def test_scores_are_those_of_two_points(share, low, gap, highs):
    """CRPS is the Brier score times the gap, (high − low)(p − b)², and Wasserstein-1 (high − low)|p − f|."""
    high = low + gap
    atoms = as_distribution(torch.tensor([low + share * gap], dtype=torch.float64), (low, high))
    assert_close(atoms.mean(), torch.tensor(low + share * gap).double())
    for outcome, b in ((low, 0), (high, 1)):
        brier = gap * (share - b) ** 2
        assert crps(atoms, torch.tensor(outcome, dtype=torch.float64)).item() == pytest.approx(
            brier, abs=gap / (4 * ATOMS**2) + 1e-9
        )
    samples = torch.tensor([high] * highs + [low] * (6 - highs), dtype=torch.float64)
    assert wasserstein_1(atoms, samples).item() == pytest.approx(gap * abs(share - highs / 6), abs=gap / ATOMS)


class TestReport:
    def two_kinds(self, continuations=()):
        """States that succeed with .2 and .7, a critic that knows it, and what happened."""
        generator = torch.Generator().manual_seed(0)
        chances = torch.tensor([0.2, 0.7]).repeat(4000)
        shape = (8000, *continuations)
        happened = torch.rand(shape, generator=generator) < chances.reshape(8000, *(1 for _ in continuations))
        return chances[:, None, None], happened.float()

    @pytest.mark.parametrize("continuations", [(), (8,)])
    def test_a_scalar_critic_that_is_right_is_calibrated(self, continuations):
        values, returns = self.two_kinds(continuations)
        report = critic_report(values, returns)
        assert report["coverage_80"] == pytest.approx(0.8, abs=0.02) and report["pit_ks"] < 0.02
        assert report["crps"] == pytest.approx((0.2 * 0.8 + 0.7 * 0.3) / 2, abs=0.01)  # E (p − b)² = p (1 − p)
        assert report["crps"] < 0.55 * report["mae"] or continuations
        assert ("wasserstein_1" in report) == bool(continuations)
        assert "crossing_rate" not in report  # of numbers that its heads do not have

    def test_it_is_scored_as_a_distributional_critic_that_says_the_same(self):
        values, returns = self.two_kinds()
        spread = as_distribution(values[:, 0], (0.0, 1.0))[:, None]
        found, same = critic_report(values, returns), critic_report(spread, returns)
        assert found == pytest.approx({name: same[name] for name in found}, abs=1e-9)
        assert found["coverage_90"] == interval_coverage(spread[:, 0], returns, 0.9, tolerance=0.1)
        assert found["pit_ks"] == pytest.approx(pit_distance(spread[:, 0], returns, tolerance=0.1))

    def test_what_is_about_its_mean_is_of_the_value_itself(self):
        """A value outside the returns is clipped as a chance, not forgiven as a value."""
        values, returns = torch.tensor([1.5, 1.5, -0.5, -0.5]), torch.tensor([1.0, 1.0, 0.0, 1.0])
        report = critic_report(values[:, None, None], returns)
        assert report["explained_variance"] == explained_variance(values, returns)
        assert report["mae"] == pytest.approx((0.5 + 0.5 + 0.5 + 1.5) / 4) and report["bias"] == pytest.approx(-0.25)
        assert report["crps"] == pytest.approx(1 / 4)  # certain, and wrong once

    def test_a_part_of_a_set_is_read_as_the_whole(self):
        """Where a subset has one of the two values, or two of the many that there are."""
        values = torch.tensor([0.25, 0.25, 0.25])[:, None, None]
        part = CriticReport(torch.ones(3), values=(0.0, 1.0))
        part.add(values, torch.ones(3))
        assert part.compute()["crps"] == pytest.approx(0.75**2)
        graded = CriticReport(torch.tensor([0.0, 1.0, 1.0]), values=())
        graded.add(values, torch.tensor([0.0, 1.0, 1.0]))
        assert graded.compute()["crps"] == graded.compute()["mae"] and "coverage_80" not in graded.compute()

    def test_returns_of_many_values_leave_it_a_point(self):
        values, _ = self.two_kinds()
        report = critic_report(values, torch.randn(8000, generator=torch.Generator().manual_seed(1)))
        assert report["crps"] == pytest.approx(report["mae"]) and "coverage_80" not in report
