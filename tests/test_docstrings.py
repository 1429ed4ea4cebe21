"""Docstrings: their examples give what they show."""

import doctest
import importlib
import pkgutil

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
