import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modeling_dvpo.critic.quantiles import (
    cvar,
    distorted_expectation,
    expectation,
    lower_confidence,
    quantile_levels,
    spectral_risk,
    upper_tail_mean,
    value_at_risk,
    wang_risk,
)

atom_lists = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12)
shares = st.floats(0.01, 1.0)

RISKS = {
    "cvar": lambda z: cvar(z, 0.3),
    "upper_tail_mean": lambda z: upper_tail_mean(z, 0.3),
    "spectral": lambda z: spectral_risk(z, 2.0),
    "wang": lambda z: wang_risk(z, 0.7),
    "value_at_risk": lambda z: value_at_risk(z, 0.3),
    "expectation": expectation,
    "lower_confidence": lambda z: lower_confidence(z, 0.5),
}


def test_levels_are_midpoints():
    torch.testing.assert_close(quantile_levels(4), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert quantile_levels(3, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ValueError, match="num_quantiles must be a whole number of at least 1, got 0"):
        quantile_levels(0)


def test_cvar_counts_the_boundary_atom_fractionally():
    """(1 + 2/2) / 1.5 = 4/3; rounding to whole atoms gives 1 or 3/2. Unsorted on purpose."""
    assert cvar(torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.375).item() == pytest.approx(4 / 3)
    # From above: (4 + 3/2) / 1.5 = 11/3.
    assert upper_tail_mean(torch.tensor([3.0, 1.0, 4.0, 2.0]), 0.375).item() == pytest.approx(11 / 3)


def test_value_at_risk_is_the_smallest_atom_that_covers_the_share():
    atoms = torch.tensor([30.0, 10.0, 40.0, 20.0])
    assert [value_at_risk(atoms, a).item() for a in (0.01, 0.25, 0.26, 0.5, 0.75, 1.0)] == [10, 10, 20, 20, 30, 40]
    # 0.07 * 100 is above 7 in binary; the 7th atom is meant all the same.
    assert value_at_risk(torch.arange(1.0, 101.0), 0.07).item() == 7


def test_gradient_follows_the_sorting_permutation():
    atoms = torch.tensor([3.0, 1.0, 4.0, 2.0], requires_grad=True)
    cvar(atoms, 0.375).backward()
    torch.testing.assert_close(atoms.grad, torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]))
    atoms.grad = None
    value_at_risk(atoms, 0.75).backward()
    torch.testing.assert_close(atoms.grad, torch.tensor([1.0, 0.0, 0.0, 0.0]))


@settings(deadline=None, max_examples=60)
@given(atom_lists, shares)
def test_tail_means_match_the_atom_by_atom_definition(atoms, share):
    z = torch.tensor(atoms, dtype=torch.float64)
    assert cvar(z, share).item() == pytest.approx(reference.cvar(z, share).item(), abs=1e-6)
    assert upper_tail_mean(z, share).item() == pytest.approx(reference.utm(z, share).item(), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(atom_lists, shares, shares, st.floats(-50, 50))
def test_cvar_is_monotone_translates_and_ends_at_the_mean(atoms, one, two, constant):
    z = torch.tensor(atoms, dtype=torch.float64)
    low, high = sorted((one, two))
    assert cvar(z, low) <= cvar(z, high) + 1e-9
    assert cvar(z + constant, low).item() == pytest.approx((cvar(z, low) + constant).item(), abs=1e-8)
    assert cvar(z, 1.0).item() == pytest.approx(z.mean().item(), abs=1e-9)
    assert value_at_risk(z, low) >= cvar(z, low) - 1e-9


@pytest.mark.parametrize("name", RISKS)
def test_every_functional_ignores_order_translates_and_scales(name):
    torch.manual_seed(0)
    risk, z = RISKS[name], torch.randn(5, 7, dtype=torch.float64)
    shuffled = z[:, torch.randperm(7)]
    torch.testing.assert_close(risk(shuffled), risk(z))
    torch.testing.assert_close(risk(3 * z + 2), 3 * risk(z) + 2)
    assert risk(z).shape == (5,)
    assert risk(z.bfloat16()).dtype == torch.float32 and risk(z).dtype == torch.float64
    torch.testing.assert_close(risk(z.float()), risk(z).float())
    assert torch.autograd.gradcheck(risk, z.requires_grad_())


def test_functionals_against_a_normal_distribution():
    """Closed forms for N(1, 2²): CVaR = μ - σ φ(Φ⁻¹(α))/α, Wang = μ - σ·shift, lower confidence = μ - c σ."""
    z = 1 + 2 * torch.special.ndtri(quantile_levels(4000, dtype=torch.float64))
    expected = 1 - 2 * stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1
    assert cvar(z, 0.1).item() == pytest.approx(expected, abs=2e-3)
    assert wang_risk(z, 0.8).item() == pytest.approx(1 - 2 * 0.8, abs=5e-3)
    assert lower_confidence(z, 1.5).item() == pytest.approx(1 - 3, abs=5e-3)
    assert value_at_risk(z, 0.1).item() == pytest.approx(1 + 2 * stats.norm.ppf(0.1), abs=2e-3)


def test_spectral_risk_special_cases():
    z = torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)
    assert spectral_risk(z, 0.0).item() == pytest.approx(7 / 3)
    assert spectral_risk(z, 1e-12).item() == pytest.approx(7 / 3)
    # Weights 3 : 2 : 1 from the lowest: (3·1 + 2·2 + 1·4) / 6 = 11/6.
    assert spectral_risk(z, torch.tensor([3.0, 2.0, 1.0])).item() == pytest.approx(11 / 6)
    # The exponential spectrum integrated over each third by hand.
    eta = 2.0
    left = [math.exp(-eta * edge) for edge in (0, 1 / 3, 2 / 3, 1)]
    mass = [(left[i] - left[i + 1]) / (1 - left[3]) for i in range(3)]
    assert spectral_risk(z, eta).item() == pytest.approx(mass[0] * 1 + mass[1] * 2 + mass[2] * 4)
    assert spectral_risk(z, -eta).item() == pytest.approx(mass[2] * 1 + mass[1] * 2 + mass[0] * 4)
    assert spectral_risk(z, -2000.0).item() == pytest.approx(4.0)


def test_lower_confidence_of_equal_atoms_has_a_finite_gradient():
    atoms = torch.full((4,), 2.5, requires_grad=True)
    lower_confidence(atoms, 2.0).backward()
    assert lower_confidence(atoms, 2.0).item() == 2.5
    torch.testing.assert_close(atoms.grad, torch.full((4,), 0.25))


def test_assume_sorted_skips_the_sort():
    unsorted = torch.tensor([3.0, 1.0])
    assert cvar(unsorted, 0.5).item() == 1 and cvar(unsorted, 0.5, assume_sorted=True).item() == 3
    assert value_at_risk(unsorted, 0.5, assume_sorted=True).item() == 3
    assert distorted_expectation(unsorted, lambda u: u**2, assume_sorted=True).item() == pytest.approx(0.75 + 0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: cvar(z, 0.0), r"alpha is a share of the atoms and must lie in \(0, 1\], got 0.0"),
        (lambda z: upper_tail_mean(z, 1.5), "beta is a share"),
        (lambda z: value_at_risk(z, float("nan")), "alpha is a share"),
        (lambda z: cvar(z[:0], 0.1), r"needs atoms in its last dimension, got shape \(0,\)"),
        (lambda z: expectation(z.long()), "floating point, got torch.int64"),
        (lambda z: spectral_risk(z, torch.ones(5)), r"spectrum has shape \(5,\).*\(3,\)"),
        (lambda z: spectral_risk(z, torch.tensor([1.0, -1.0, 1.0])), "weights >= 0"),
        (lambda z: spectral_risk(z, float("inf")), "spectrum must be finite"),
        (lambda z: wang_risk(z, float("nan")), "shift must be finite"),
        (lambda z: lower_confidence(z, float("inf")), "width must be finite"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3))
