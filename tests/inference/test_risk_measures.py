"""Functionals by name, as settings, scores and commands write them."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from modeling_dvpo.critic.quantiles import (
    cvar,
    expectation,
    spectral_risk,
    upper_tail_mean,
    wang_risk,
)
from modeling_dvpo.inference.risk_measures import (
    RISK_MEASURES,
    SHORT_NAMES,
    parse_risk_measure,
    quantiles_at,
    risk_measure,
)


def test_parameters_of_risk_measures():
    atoms = torch.randn(4, 9)
    assert risk_measure("expectation", None) is expectation
    assert_close(risk_measure("spectral", None)(atoms), spectral_risk(atoms, 1.0))
    assert_close(risk_measure("wang", -0.3)(atoms), wang_risk(atoms, -0.3))
    assert_close(risk_measure("cvar", None)(atoms), cvar(atoms, 0.1))
    for name in RISK_MEASURES:
        assert risk_measure(name, None)(atoms).shape == (4,)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("mean", 2.5), ("expectation", 2.5), ("cvar=0.5", 1.5), ("upper_tail=0.25", 4.0), ("lower_confidence=0", 2.5)],
)
def test_as_a_user_writes_them(spec, expected):
    assert parse_risk_measure(spec)(torch.tensor([4.0, 1.0, 3.0, 2.0])).item() == pytest.approx(expected)


def test_short_names_are_the_functionals():
    atoms = torch.randn(3, 40)
    assert_close(parse_risk_measure("upper_tail")(atoms), upper_tail_mean(atoms, 0.1))
    assert set(SHORT_NAMES.values()) <= RISK_MEASURES.keys() and not SHORT_NAMES.keys() & RISK_MEASURES.keys()


def test_a_function_is_kept():
    function = partial(cvar, alpha=0.3)
    assert parse_risk_measure(function) is function


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("median", "'median' is no risk measure: give one of mean, upper_tail, expectation, cvar"),
        ("mean=0.1", "expectation has no parameter"),
        ("cvar=low", 'must be a number, as in "cvar=0.25"'),
        ("cvar=", "must be a number"),
        (None, "None is no risk measure"),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_risk_measure(spec)


def test_a_parameter_out_of_range_is_the_functionals_to_refuse():
    with pytest.raises(ValueError, match=r"alpha is a share .* got 3"):
        parse_risk_measure("cvar=3")(torch.ones(4))


def test_quantiles_are_the_lowest_atoms_that_reach_a_level():
    found = quantiles_at(torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 5.0, 0.0, 5.0]]), [0.25, 0.3, 1.0])
    assert found.tolist() == [[1.0, 2.0, 4.0], [0.0, 0.0, 5.0]]
