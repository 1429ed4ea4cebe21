"""The reference has every public name, with a docstring that names the arguments there are."""

import importlib
import inspect
import re
from functools import cache

import pytest
from docs_scripts import load

import modeling_dvpo
from modeling_dvpo import hub, hub_cards, inspection

OFFERED = [(package, name) for package in (modeling_dvpo, hub, hub_cards, inspection) for name in package.__all__]
ROOMS = ("modeling_dvpo.critic", "modeling_dvpo.inference")
ALONE = ("returns", "auto", "metrics.scores", "metrics.calibration", "metrics.report")


@cache
def reference() -> tuple[dict[str, list[str]], str]:
    """Modules by package, and the text of all pages."""
    script = load("reference")
    return script.packages(), "".join(script.pages().values())


def documented_modules() -> list[str]:
    return [module for modules in reference()[0].values() for module in modules]


def public(module) -> list:
    """Functions and classes that a module defines for others."""
    return [
        thing
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
    ]


def has_docstring(thing) -> bool:
    written = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # a dataclass or named tuple without one gets its signature
    return bool(written) and not written.startswith(f"{thing.__name__}(")


@pytest.mark.parametrize("package, name", OFFERED, ids=lambda given: getattr(given, "__name__", given))
def test_what_a_package_offers(package, name):
    thing = getattr(package, name)
    if not callable(thing):  # the version
        return
    assert f"::: {thing.__module__}\n" in reference()[1]
    assert f"[`{name}`][{thing.__module__}.{name}]" in reference()[1]
    assert has_docstring(thing)


def test_every_public_function_and_class_of_the_core():
    packages, text = reference()
    modules = [module for room in ROOMS for module in packages[room]] + [f"modeling_dvpo.{name}" for name in ALONE]
    things = [thing for module in modules for thing in public(importlib.import_module(module))]
    assert len(things) > 60
    assert [module for module in modules if f"::: {module}\n" not in text] == []
    assert [f"{thing.__module__}.{thing.__name__}" for thing in things if not has_docstring(thing)] == []


def test_every_module_has_a_docstring():
    modules = [importlib.import_module(name) for name in documented_modules()]
    assert len(modules) > 100
    assert [module.__name__ for module in modules if not module.__doc__] == []


def named_arguments(docstring: str) -> list[str]:
    """The names in the section Args, `a, b: ...` being two."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    lines = re.findall(r"^ {4}(\*{0,2}\w[\w, *]*):", section[1], re.MULTILINE) if section else []
    return [name.strip(" *") for line in lines for name in line.split(",")]


def test_docstrings_name_arguments_that_there_are():
    written = "Does.\n\nArgs:\n    a, b: two.\n        c: more.\n    d: one.\n\nReturns:\n    x: y"
    assert named_arguments(written) == ["a", "b", "d"]
    wrong, seen = [], 0
    for module in map(importlib.import_module, documented_modules()):
        for thing in public(module):
            functions = [member for member in vars(thing).values() if inspect.isfunction(member)]
            for documented in [thing, *(functions if inspect.isclass(thing) else ())]:
                for name in named_arguments(documented.__doc__ or ""):
                    seen += 1
                    # "others: as ..." is how a docstring speaks of the rest
                    if name not in inspect.signature(documented).parameters and name != "others":
                        wrong.append(f"{module.__name__}.{documented.__qualname__}: {name}")
    assert seen > 300
    assert wrong == []
