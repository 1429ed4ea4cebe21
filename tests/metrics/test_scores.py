"""Scores against hand-worked values, closed forms, scipy and slow definitions written out here."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import normal_atoms
from tiny_critics import tiny_batch, tiny_critic
from torch.testing import assert_close

from modeling_dvpo.metrics.calibration import pit
from modeling_dvpo.metrics.scores import (
    auc,
    constant_quantiles,
    crossing_rate,
    crps,
    explained_variance,
    explained_variance_by_position,
    head_disagreement,
    pinball_loss,
    position_bins,
    value_auc,
    wasserstein_1,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
atoms = st.lists(st.one_of(numbers, st.sampled_from([0.0, 1.0])), min_size=1, max_size=9)


class TestExplainedVariance:
    def test_by_hand(self):
        # residuals 1, -1, 2, 2: mean 1, variance (0 + 4 + 1 + 1)/4 = 3/2; returns 1, 1, 4, 6: mean 3, variance 18/4
        values, returns = torch.tensor([0.0, 2.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 4.0, 6.0])
        assert explained_variance(values, returns) == pytest.approx(1 - 1.5 / 4.5)

    def test_is_of_the_whole_set_not_of_its_parts(self):
        """A critic that knows only which of two groups a state is in explains nothing within either."""
        values = torch.tensor([0.0, 0.0, 10.0, 10.0])
        returns = torch.tensor([-1.0, 1.0, 9.0, 11.0])
        assert explained_variance(values, returns) == pytest.approx(1 - 1 / 26)
        assert explained_variance(values[:2], returns[:2]) == 0.0

    def test_constant_returns_explain_nothing(self):
        assert math.isnan(explained_variance(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.1])))

    def test_survives_a_large_offset_in_float64(self):
        values, returns = torch.tensor([0.0, 2.0, 2.0, 4.0]).double(), torch.tensor([1.0, 1.0, 4.0, 6.0]).double()
        assert explained_variance(values + 1e6, returns + 1e6) == pytest.approx(1 - 1.5 / 4.5, rel=1e-9)

    def test_shapes_are_named(self):
        with pytest.raises(ValueError, match=r"values \(2,\) and returns \(3,\)"):
            explained_variance(torch.zeros(2), torch.zeros(3))


class TestByPosition:
    def test_bins_by_hand(self):
        # S = 5: 0, 1/4, 1/2, 3/4, 1 in thirds; S = 1: 0; S = 2: 0, 1
        assert position_bins([5, 1, 2], 3).tolist() == [0, 0, 1, 2, 2, 0, 0, 2]

    def test_no_rounding_moves_a_state(self):
        """0.29 · 100 is 28.999999999999996: a state on an edge belongs to the part that begins there."""
        assert position_bins([101], 100).tolist() == [*range(100), 99]

    def test_explained_variance_by_hand(self):
        # first halves: states (0, 0), (4, 0): values 0, 4 for returns 2, 4: residuals 2, 0, so 1 - 1/1
        # second halves: values 1, 2 | 3 for returns 2, 2 | 4: residuals 1, 0, 1, variance 2/9; returns 8/9
        values = [torch.tensor([0.0, 1.0, 2.0]), torch.tensor([4.0, 3.0])]
        first, second = explained_variance_by_position(values, [2.0, torch.tensor([4.0, 4.0])], bins=2)
        assert first == {"from": 0.0, "to": 0.5, "states": 2, "explained_variance": 0.0}
        assert (second["from"], second["to"], second["states"]) == (0.5, 1.0, 3)
        assert second["explained_variance"] == pytest.approx(1 - 2 / 8)

    def test_empty_bins_and_no_responses_are_nan(self):
        table = explained_variance_by_position([torch.tensor([1.0, 2.0])], [1.0])
        assert [row["states"] for row in table] == [1] + 8 * [0] + [1]
        assert all(math.isnan(row["explained_variance"]) for row in table)
        assert sum(row["states"] for row in explained_variance_by_position([], [])) == 0

    def test_errors(self):
        with pytest.raises(ValueError, match="2 responses' values and 1 responses' returns"):
            explained_variance_by_position([torch.zeros(1)] * 2, [0.0])
        with pytest.raises(ValueError, match="bins is 0"):
            position_bins([3], 0)
        with pytest.raises(ValueError, match="shortest response has 0 states"):
            position_bins([3, 0])


class TestAuc:
    def test_by_hand(self):
        # flagged 1, 3 against 0, 1, 2: 1 beats one and ties with one, 3 beats three: (1.5 + 3)/6
        values, flags = torch.tensor([1.0, 0.0, 3.0, 1.0, 2.0]), torch.tensor([1, 0, 1, 0, 0])
        assert auc(values, flags) == 0.75
        assert auc(values, flags == 1) == 0.75
        assert auc(-values, flags) == 0.25
        assert auc(torch.ones(5), flags) == 0.5

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=2, max_size=30))
    def test_is_mann_whitneys(self, rows):
        values, flags = np.array([value for value, _ in rows]), np.array([flag for _, flag in rows])
        if flags.all() or not flags.any():
            assert math.isnan(auc(values, flags))
        else:
            statistic = scipy.stats.mannwhitneyu(values[flags], values[~flags]).statistic
            assert auc(values, flags) == pytest.approx(statistic / (flags.sum() * (~flags).sum()), abs=1e-12)

    def test_errors(self):
        with pytest.raises(ValueError, match="flags has 0.5"):
            auc(torch.zeros(2), torch.tensor([0.5, 1.0]))
        with pytest.raises(ValueError, match=r"values \(2,\) and flags \(3,\)"):
            auc(torch.zeros(2), torch.zeros(3))


class TestValueAuc:
    def test_takes_the_last_state_that_has_read_no_more(self):
        # four tokens: 25 % is one; three tokens: 25 % is 0.75, so none, and 50 % is one
        four, three = torch.tensor([0.0, 10.0, 20.0, 30.0, 40.0]), torch.tensor([15.0, 5.0, 16.0, 50.0])
        # 25 %: 10 < 15; 50 %: 20 > 5; 75 %: 30 > 16; 100 %: 40 < 50; 0 %: 0 < 15
        table = value_auc([four, three], torch.tensor([1, 0]), (25, 50, 75, 100, 0))
        assert table == {25: 0.0, 50: 1.0, 75: 1.0, 100: 0.0, 0: 0.0}

    def test_the_whole_response_is_its_last_state_exactly(self):
        """29 % of 200 tokens is 58 of them, and 100 % all, whatever 0.29 · 200 is in binary."""
        marks = [torch.arange(201.0), torch.full((201,), 57.5)]
        assert value_auc(marks, torch.tensor([1, 0]), (29,)) == {29: 1.0}
        assert value_auc(marks, torch.tensor([1, 0]), (28,)) == {28: 0.0}
        marks[1] = torch.full((201,), 199.5)
        assert value_auc(marks, torch.tensor([1, 0]), (99, 100)) == {99: 0.0, 100: 1.0}

    def test_one_state_is_taken_at_every_percent(self):
        assert value_auc([torch.tensor([1.0]), torch.tensor([0.0])], [True, False]) == dict.fromkeys(
            (0, 25, 50, 75, 100), 1.0
        )

    def test_errors(self):
        with pytest.raises(ValueError, match="percents are"):
            value_auc([torch.zeros(2)], [1], (0.25,))
        with pytest.raises(ValueError, match="1 responses and 2 flags"):
            value_auc([torch.zeros(2)], [1, 0])
        with pytest.raises(ValueError, match="at least one state"):
            value_auc([torch.zeros(0)], [1])


class TestConstantQuantiles:
    def test_by_hand(self):
        # levels 1/8, 3/8, 5/8, 7/8 of three returns: atoms floor(.375), floor(1.125), floor(1.875), floor(2.625)
        assert constant_quantiles(torch.tensor([[5.0, 1.0, 2.0]]), 4).tolist() == [1.0, 2.0, 2.0, 5.0]
        assert constant_quantiles([5.0, 1.0, 3.0], 1).tolist() == [3.0]

    @pytest.mark.parametrize("num_quantiles", [1, 4, 7])
    def test_is_where_fresh_heads_start(self, num_quantiles):
        returns = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
        critic = tiny_critic(num_quantiles=num_quantiles)
        critic.fit_return_scale(returns, fresh_heads=True)
        with torch.no_grad():
            critic.quantile_heads.weight.zero_()
        quantiles = critic(tiny_batch()).quantiles
        assert_close(quantiles, constant_quantiles(returns, num_quantiles).float().expand_as(quantiles))

    def test_no_constant_scores_better_on_its_own_returns(self):
        returns = torch.tensor([0.0, 0.0, 1.0, 4.0, 4.5, 9.0, 9.0]).double()
        best = constant_quantiles(returns, 5)
        score = pinball_loss(best.expand(7, -1), returns).mean()
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            other = best + 0.5 * torch.randn(5, generator=generator)
            assert pinball_loss(other.expand(7, -1), returns).mean() >= score - 1e-12

    def test_needs_returns(self):
        with pytest.raises(ValueError, match="no returns"):
            constant_quantiles([], 3)


class TestPinballAndCrps:
    def test_pinball_by_hand(self):
        # y = 1: q = 0 at τ=1/4 costs 1/4·1, q = 3 at τ=3/4 costs 1/4·2; crossed, (1 - 1/4)·2 and 3/4·1
        assert pinball_loss([0.0, 3.0], torch.tensor(1.0)).item() == (0.25 + 0.5) / 2
        assert pinball_loss([3.0, 0.0], torch.tensor(1.0)).item() == (1.5 + 0.75) / 2

    def test_crps_by_hand(self):
        # E|Z - 1| = (1 + 2)/2, E|Z - Z'| = 3/2; of a point the absolute error
        assert crps([0.0, 3.0], torch.tensor(1.0)).item() == 1.5 - 0.75
        assert crps(torch.tensor([[2.0], [5.0]]), torch.tensor([3.5, 1.0])).tolist() == [1.5, 4.0]

    def test_crps_of_the_normal(self):
        """Closed form for N(0, 1): y (2Φ(y) − 1) + 2φ(y) − 1/√π."""
        y = np.array([-1.3, 0.0, 0.4, 2.2])
        norm = scipy.stats.norm
        exact = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / math.sqrt(math.pi)
        assert_close(crps(normal_atoms(2000).expand(4, -1), y), torch.tensor(exact), atol=1e-4, rtol=0)

    @settings(max_examples=100, deadline=None)
    @given(atoms, atoms)
    def test_crps_is_its_definition(self, quantiles, returns):
        q, y = torch.tensor(quantiles).double(), torch.tensor(returns).double()
        slow = (q[:, None] - y).abs().mean() - (q[:, None] - q).abs().mean() / 2
        assert_close(crps(q, y), slow, atol=1e-9, rtol=1e-9)

    @settings(max_examples=100, deadline=None)
    @given(atoms, atoms)
    def test_pinball_is_its_definition(self, quantiles, returns):
        q, y = torch.tensor(quantiles).double(), torch.tensor(returns).double()
        levels = torch.linspace(0.05, 0.9, len(q)).double()
        difference = y - q[:, None]
        slow = (difference * (levels[:, None] - (difference < 0).double())).mean()
        assert_close(pinball_loss(q, y, levels), slow, atol=1e-9, rtol=1e-9)

    def test_levels_must_fit(self):
        with pytest.raises(ValueError, match=r"levels \(3,\) must be \(2,\)"):
            pinball_loss(torch.zeros(2), torch.tensor(1.0), torch.zeros(3))

    def test_is_lowest_for_the_true_distribution(self):
        """Propriety, on which every comparison of critics rests."""
        y = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
        scores = {sd: crps(normal_atoms(100, 0.0, sd)[None], y[None]).item() for sd in (0.5, 1.0, 2.0)}
        assert scores[1.0] < scores[0.5] and scores[1.0] < scores[2.0]


class TestWasserstein:
    def test_by_hand(self):
        # F⁻¹ = 0 | 3 at 1/2; G⁻¹ = 1 | 2 | 6 at thirds: 1/3·1 + 1/6·2 + 1/6·1 + 1/3·3
        assert_close(wasserstein_1([3.0, 0.0], [6.0, 1.0, 2.0]), torch.tensor(1 / 3 + 1 / 3 + 1 / 6 + 1).double())

    @settings(max_examples=100, deadline=None)
    @given(atoms, atoms)
    def test_is_scipys(self, left, right):
        expected = scipy.stats.wasserstein_distance(left, right)
        assert wasserstein_1(torch.tensor(left), torch.tensor(right)).item() == pytest.approx(expected, abs=1e-9)

    def test_broadcasts_over_states(self):
        q, y = torch.randn(4, 3, 7), torch.randn(4, 3, 5)
        together = wasserstein_1(q, y)
        assert together.shape == (4, 3)
        assert_close(together[2, 1], wasserstein_1(q[2, 1], y[2, 1]))


def test_crossing_rate_by_hand():
    # ties do not cross: of (0, 2, 1, 1) one pair of three, of (0, 1, 2, 3) none
    assert crossing_rate(torch.tensor([[0.0, 2.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]])) == pytest.approx(1 / 6)
    assert crossing_rate(torch.zeros(4, 1)) == 0.0


def test_head_disagreement_by_hand():
    # head means 1, 4, 4: mean 3, variance (4 + 1 + 1)/3
    heads = torch.tensor([[0.0, 2.0], [4.0, 4.0], [8.0, 0.0]])
    assert_close(head_disagreement(heads), torch.tensor(math.sqrt(2.0)).double())
    assert head_disagreement(heads[:1]).item() == 0.0


@pytest.mark.parametrize("function", [crps, pinball_loss, pit])
def test_mismatched_states_are_named(function):
    with pytest.raises(ValueError, match=r"quantiles \(2, 4\), returns \(3,\)"):
        function(torch.zeros(2, 4), torch.zeros(3))


@pytest.mark.parametrize("function", [crps, pinball_loss, wasserstein_1, pit])
def test_arrays_and_half_precision_are_read_in_float64(function):
    q, y = torch.randn(3, 4).bfloat16(), torch.randn(3, 5).bfloat16()
    torch.manual_seed(0)
    result = function(q, y)
    torch.manual_seed(0)  # `pit` draws
    assert result.dtype == torch.float64
    assert_close(function(q.double().numpy(), y.double().numpy()), result)
