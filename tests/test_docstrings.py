"""Docstrings: examples run, and every public name has one."""

import doctest
import importlib
import pkgutil

import pytest

import modeling_dvpo

PACKAGES = ["modeling_dvpo", "modeling_dvpo.critic", "modeling_dvpo.inference", "modeling_dvpo.metrics"]
MODULES = [
    f"{package}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__[:1])
]


def test_examples_give_what_they_show():
    results = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 1  # there are examples at all


@pytest.mark.parametrize("name", sorted(modeling_dvpo.__all__))
def test_public_names_are_documented(name):
    documented = getattr(modeling_dvpo, name).__doc__
    # a dataclass without a docstring of its own gets its signature
    assert documented and not documented.startswith(f"{name}(")
