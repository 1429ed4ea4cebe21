"""The mean and deviation that a fresh online critic's units follow."""

import json
from dataclasses import asdict

import pytest
import torch

from modeling_dvpo.training.algorithms.returns_seen import ReturnsSeen


def seen_of(*parts):
    seen = ReturnsSeen()
    for part in parts:
        seen.add(torch.as_tensor(part))
    return seen


@pytest.mark.parametrize("cuts", [[1000], [1, 999], [300, 300, 400]])
def test_parts_are_one_sample(cuts):
    returns = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1e3
    seen = seen_of(*returns.split(cuts))
    assert (seen.count, seen.low, seen.high) == (1000, returns.min().item(), returns.max().item())
    assert seen.mean == pytest.approx(returns.mean().item(), rel=1e-14)
    assert seen.scale == pytest.approx(returns.std(correction=0).item(), rel=1e-11)


def test_the_first_step_does_not_fix_the_units():
    """One success in 512 gives a scale of .044, in which later successes were at +22.6 for ever.

    After a step with 256 of 512, 257 in 1024 are: p = .251, √(p (1 - p)) = .434, a success at 1.73.
    """
    seen = seen_of([1.0] + [0.0] * 511)
    assert seen.scale == pytest.approx(0.0442, abs=1e-4) and (1 - seen.mean) / seen.scale == pytest.approx(
        22.6, abs=0.1
    )
    seen.add(torch.tensor([1.0] * 256 + [0.0] * 256))
    assert seen.scale == pytest.approx(0.434, abs=1e-3) and (1 - seen.mean) / seen.scale == pytest.approx(
        1.73, abs=0.01
    )


def test_equal_returns_have_a_scale_of_one():
    seen = seen_of([0.1] * 7, torch.full((1001,), 0.1, dtype=torch.float64))
    assert seen_of([0.1] * 7).scale == 1.0 and seen_of([0.0] * 4, [0.0] * 3).scale == 1.0
    assert seen.scale < 1e-8, "0.1 in float32 is not 0.1"


def test_a_checkpoint_keeps_it_bit_for_bit():
    seen = seen_of(torch.rand(100), torch.rand(7))
    again = ReturnsSeen(**json.loads(json.dumps(asdict(seen))))
    for each in (seen, again):
        each.add(torch.arange(9))
    assert again == seen
