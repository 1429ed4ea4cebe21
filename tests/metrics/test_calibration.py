"""Calibration against hand-worked values, closed forms, scipy and slow definitions written out here."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import normal_atoms

from modeling_dvpo.metrics.calibration import (
    interval_coverage,
    pit,
    pit_distance,
    pit_histogram,
    reliability,
    wilson_interval,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
atoms = st.lists(st.one_of(numbers, st.sampled_from([0.0, 1.0])), min_size=1, max_size=9)


def draws(of, count=20_000):
    return of(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def coin_atoms(probability):
    return (torch.arange(200) >= 200 * (1 - probability) - 1e-9).double()


class TestCalibration:
    """The same critic, right or wrong in a known way, read by PIT and coverage."""

    def assert_calibrated(self, q, y, distance):
        q = q.expand(len(y), -1)
        u = pit(q, y, torch.Generator().manual_seed(1))
        assert scipy.stats.kstest(u, "uniform").pvalue > 0.01
        assert pit_distance(q, y) < distance
        for coverage in (0.5, 0.8, 0.9):
            assert interval_coverage(q, y, coverage) == pytest.approx(coverage, abs=0.01)

    def test_calibrated_normal(self):
        self.assert_calibrated(normal_atoms(50), draws(torch.randn), 0.015)

    @pytest.mark.parametrize("probability", [0.1, 0.5, 0.97])
    def test_calibrated_coin(self, probability):
        """Returns 0 or 1: unrandomised, the 80 % interval would hold all or nothing."""
        self.assert_calibrated(coin_atoms(probability), (draws(torch.rand) < probability).double(), 0.01)

    def test_too_narrow_and_shifted_are_seen(self):
        y = draws(torch.randn)
        # sd 1/2: the 80 % interval is ±1.2816/2, which holds 2Φ(.6408) − 1 = .478
        narrow = normal_atoms(200, 0.0, 0.5).expand(len(y), -1)
        assert interval_coverage(narrow, y, 0.8) == pytest.approx(0.478, abs=0.015)
        shifted = normal_atoms(200, 1.0).expand(len(y), -1)
        # sup |Φ(x) − Φ(x − 1)| = 2Φ(1/2) − 1
        assert pit_distance(shifted, y) == pytest.approx(0.383, abs=0.015)

    def test_tolerance_forgives_a_networks_wobble(self):
        y = (draws(torch.rand) < 0.3).double()
        q = (coin_atoms(0.3) + 0.02 * draws(torch.randn, 200)).expand(len(y), -1)
        assert pit_distance(q, y) > 0.2
        assert pit_distance(q, y, tolerance=0.1) < 0.01
        assert interval_coverage(q, y, 0.8, tolerance=0.1) == pytest.approx(0.8, abs=0.01)

    def test_certain_and_right_is_calibrated(self):
        y = torch.tensor([0.0, 1.0, 1.0])
        assert pit_distance(y[:, None].expand(-1, 4), y) == pytest.approx(0.0, abs=1e-12)

    def test_pit_distance_is_the_mean_over_randomisations(self):
        q, y = torch.randn(3, 4).round(), torch.randn(3, 6).round()
        grid = torch.arange(1, 9) / 8
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([pit(q, y, generator) for _ in range(4000)]).flatten()
        slow = ((draws[:, None] <= grid).double().mean(0) - grid).abs().max()
        assert pit_distance(q, y) == pytest.approx(slow.item(), abs=0.01)

    @settings(max_examples=100, deadline=None)
    @given(atoms, atoms, st.floats(0.05, 0.95))
    def test_stay_in_range(self, quantiles, returns, coverage):
        q, y = torch.tensor(quantiles), torch.tensor(returns)
        u = pit(q, y)
        assert u.shape == y.shape and ((0 <= u) & (u <= 1)).all()
        assert 0 <= interval_coverage(q, y, coverage) <= 1 + 1e-12
        assert 0 <= pit_distance(q, y) <= 1

    def test_coverage_is_a_share(self):
        with pytest.raises(ValueError, match="coverage is 80"):
            interval_coverage(torch.zeros(1, 2), torch.zeros(1), 80)


class TestHistogramAndReliability:
    # M = 2: y = 0 meets the first atom, PIT over [0, 1/2]; y = 5 is above all, [3/4, 1]; y = 1/2 between, [1/4, 3/4]
    quantiles, returns = torch.tensor([0.0, 1.0]).expand(3, 2), torch.tensor([0.0, 5.0, 0.5])

    def test_histogram_by_hand(self):
        # fifths of [0, 1/2]: .4 .4 .2; of [1/4, 3/4]: .3 .4 .3 from the second on; of [3/4, 1]: .2 .8 at the end
        expected = torch.tensor([0.4, 0.4 + 0.3, 0.2 + 0.4, 0.3 + 0.2, 0.8]).double() / 3
        torch.testing.assert_close(pit_histogram(self.quantiles, self.returns, 5), expected)

    def test_coverage_by_hand(self):
        # the central 80 % keeps [.1, .5] of [0, 1/2]: .8; [.75, .9] of [3/4, 1]: .6; all of [1/4, 3/4]
        assert interval_coverage(self.quantiles, self.returns, 0.8) == pytest.approx((0.8 + 0.6 + 1.0) / 3)

    def test_reliability_by_hand(self):
        # at .3: .6 of [0, 1/2] and .1 of [1/4, 3/4]; at .9: all, all, and .6 of [3/4, 1]
        table = reliability(self.quantiles, self.returns, (0.3, 0.9))
        assert [row["level"] for row in table] == [0.3, 0.9]
        assert [row["observed"] for row in table] == pytest.approx([0.7 / 3, 2.6 / 3])

    def test_is_numpys_histogram_of_many_randomisations(self):
        generator = torch.Generator().manual_seed(0)
        q, y = torch.randn(5, 4, generator=generator).round(), torch.randn(5, 3, generator=generator).round()
        draws = torch.stack([pit(q, y, generator) for _ in range(4000)]).flatten()
        counts, _ = np.histogram(draws, bins=7, range=(0, 1))
        assert pit_histogram(q, y, 7).tolist() == pytest.approx(counts / len(draws), abs=0.01)

    @settings(max_examples=100, deadline=None)
    @given(atoms, atoms, st.integers(1, 12))
    def test_agree_with_each_other_and_sum_to_one(self, quantiles, returns, bins):
        q, y = torch.tensor(quantiles), torch.tensor(returns)
        histogram = pit_histogram(q, y, bins)
        assert histogram.shape == (bins,) and (histogram >= 0).all() and histogram.sum().item() == pytest.approx(1)
        levels = [place / bins for place in range(1, bins)]
        observed = [row["observed"] for row in reliability(q, y, levels)]
        assert observed == pytest.approx(histogram.cumsum(0)[:-1].tolist(), abs=1e-12)

    def test_a_calibrated_coin_is_flat_and_a_wrong_one_is_not(self):
        y = (draws(torch.rand) < 0.3).double()
        right, wrong = (coin_atoms(probability).expand(len(y), -1) for probability in (0.3, 0.7))
        assert pit_histogram(right, y).tolist() == pytest.approx([0.1] * 10, abs=0.005)
        # 70 % of returns are 0, spread over [0, .3]: 7/30 a bin; 30 % are 1, over [.3, 1]: 3/70
        expected = [7 / 30] * 3 + [3 / 70] * 7
        assert pit_histogram(wrong, y).tolist() == pytest.approx(expected, abs=0.005)

    def test_tolerance_is_passed_on(self):
        q, y = torch.tensor([[0.05, 0.95]]), torch.tensor([0.0])
        assert pit_histogram(q, y, 2, tolerance=0.1).tolist() == [1.0, 0.0]
        assert reliability(q, y, (0.25,))[0]["observed"] == 1.0
        assert reliability(q, y, (0.25,), tolerance=0.1)[0]["observed"] == 0.5

    def test_errors(self):
        with pytest.raises(ValueError, match="bins is 0"):
            pit_histogram(self.quantiles, self.returns, 0)
        with pytest.raises(ValueError, match="levels are"):
            reliability(self.quantiles, self.returns, (0.5, 1.0))


class TestWilsonInterval:
    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
    def test_is_scipys(self, trials, confidence):
        inside, count = trials
        expected = scipy.stats.binomtest(inside, count).proportion_ci(confidence, method="wilson")
        assert wilson_interval(inside, count, confidence) == pytest.approx(tuple(expected), abs=1e-12)

    def test_by_hand(self):
        # z = 1.959964, share 1/2, n = 10: centre 1/2, half width z √(1/40 + z²/400) / (1 + z²/10) = .263414
        assert wilson_interval(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)

    def test_parts_of_trials_and_no_trials(self):
        low, high = wilson_interval(7.5, 10)
        assert wilson_interval(7, 10)[0] < low < wilson_interval(8, 10)[0] and low < 0.75 < high
        assert wilson_interval(0, 0) == (0.0, 1.0)
        assert wilson_interval(0, 5)[0] == 0.0 and wilson_interval(5, 5)[1] == 1.0

    def test_errors(self):
        with pytest.raises(ValueError, match="inside is 11 of 10"):
            wilson_interval(11, 10)
        with pytest.raises(ValueError, match="confidence is 95"):
            wilson_interval(1, 10, 95)
