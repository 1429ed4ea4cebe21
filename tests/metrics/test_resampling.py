import math

import pytest
import torch

from modeling_dvpo.metrics import resampling
from modeling_dvpo.metrics.resampling import bootstrap_interval


def test_interval_of_a_mean():
    """Of n groups with chance p, about 1.96 standard errors to either side; 1.64 for 90 %."""
    right = torch.tensor([1.0] * 300 + [0.0] * 100)
    error = (0.75 * 0.25 / 400) ** 0.5
    for confidence, width in ((0.95, 1.96), (0.9, 1.645)):
        low, high = bootstrap_interval(right, confidence=confidence)
        assert low == pytest.approx(0.75 - width * error, abs=0.006)
        assert high == pytest.approx(0.75 + width * error, abs=0.006)


def test_a_ratio_is_of_sums_not_of_ratios():
    """Groups of 1, 2, ... pairs, all alike: nothing varies, and the large ones count for more."""
    pairs = torch.arange(1.0, 40)
    assert bootstrap_interval(0.25 * pairs, pairs) == (0.25, 0.25)
    low, high = bootstrap_interval(torch.tensor([90.0] + [0.0] * 30), torch.tensor([90.0] + [1.0] * 30))
    assert low == 0.0 and high > 0.8  # whether the large one is drawn at all


def test_holds_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        chances = torch.rand(80, 1, generator=generator)
        pairs = torch.randint(0, 12, (80,), generator=generator)
        hits = ((torch.rand(80, 12, generator=generator) < chances) & (torch.arange(12) < pairs[:, None])).sum(1)
        low, high = bootstrap_interval(hits, pairs)
        held += low <= 0.5 <= high
    assert 0.9 < held / 200 < 0.99


def test_memory_does_not_matter(monkeypatch):
    figures = torch.rand(50, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_interval(figures)
    monkeypatch.setattr(resampling, "_CHUNK", 500)
    assert bootstrap_interval(figures) == pytest.approx(whole, abs=1e-12)


def test_what_is_not_defined():
    nothing = pytest.approx((math.nan, math.nan), nan_ok=True)
    assert bootstrap_interval(torch.zeros(3), torch.zeros(3)) == nothing
    assert bootstrap_interval(torch.tensor([1.0, math.nan])) == nothing
    assert bootstrap_interval(torch.zeros(0)) == nothing
    # resamples without a single pair are left out
    assert bootstrap_interval(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])) == (1.0, 1.0)


def test_errors():
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_interval(torch.zeros(2), confidence=95)
    with pytest.raises(ValueError, match=r"numerators \(2,\) and denominators \(3,\)"):
        bootstrap_interval(torch.zeros(2), torch.ones(3))
