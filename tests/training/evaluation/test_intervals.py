import pytest
import torch

from modeling_dvpo.metrics.calibration import wilson_interval
from modeling_dvpo.training.evaluation.intervals import share_interval


def test_by_hand():
    """Units {1, 1, 0} and {0}: mean 1/2; deviations of the units ½ + ½ − ½ = ½ and −½; variance (¼ + ¼)/16 · 2/1,
    which is 1/16; p(1 − p) = ¼, so 4 trials."""
    found = share_interval(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([7, 7, 7, 2]))
    assert found == pytest.approx(wilson_interval(2.0, 4.0))


def test_states_that_share_their_luck_count_once():
    """50 units of 20 equal states are worth 50 trials, not 1,000."""
    generator = torch.Generator().manual_seed(0)
    outcomes = (torch.rand(50, generator=generator) < 0.8).double()
    units = torch.arange(50).repeat_interleave(20)
    found = share_interval(outcomes[units], units)
    share = outcomes.mean().item()
    assert found == pytest.approx(wilson_interval(share * 49, 49.0))  # of a variance estimated from 50


def test_independent_states_count_each():
    generator = torch.Generator().manual_seed(1)
    shares = (torch.rand(4000, generator=generator) < 0.8).double()
    low, high = share_interval(shares, torch.arange(4000) // 4)
    expected_low, expected_high = wilson_interval(shares.sum().item(), 4000.0)
    assert high - low == pytest.approx(expected_high - expected_low, rel=0.1)


def test_holds_the_truth_as_often_as_it_says():
    """Responses of random length whose states agree with probability 0.7 with the first."""
    generator = torch.Generator().manual_seed(2)
    held = 0
    for _ in range(300):
        lengths = torch.randint(1, 15, (120,), generator=generator)
        units = torch.arange(120).repeat_interleave(lengths)
        first = torch.rand(120, generator=generator) < 0.8
        own = torch.rand(len(units), generator=generator) < 0.8
        same = torch.rand(len(units), generator=generator) < 0.7
        low, high = share_interval(torch.where(same, first[units], own).double(), units)
        held += low <= 0.8 <= high
    assert 0.91 < held / 300 < 0.985


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_variance_the_units_count(share):
    found = share_interval(torch.full((30,), share), torch.arange(30) // 3)
    assert found == pytest.approx(wilson_interval(10 * share, 10.0))


def test_one_unit_is_one_trial():
    found = share_interval(torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3))
    assert found == pytest.approx(wilson_interval(2 / 3, 1.0))


def test_no_more_trials_than_returns():
    """Shares of 8 returns each may be steadier than single returns, but are never worth more than 8 trials a state."""
    shares, units = torch.tensor([0.5, 0.5, 0.5, 0.5 + 1e-4]), torch.arange(4)
    mean = shares.double().mean().item()
    assert share_interval(shares, units) == pytest.approx(wilson_interval(4 * mean, 4.0))
    assert share_interval(shares, units, trials_per_state=8) == pytest.approx(wilson_interval(32 * mean, 32.0))
