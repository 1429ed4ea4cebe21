"""From a YAML file and the command line to dataclasses: `script.py recipe.yaml --learning_rate 1e-5`.

Later wins: dataclass default, YAML, command line; what is given later also takes the place of what it contradicts
(`REPLACES`). A YAML file is read as if its entries stood on the command line, so both are checked alike; an empty
entry (null, []) means the default. An unknown key is an error that names the nearest.
"""

import argparse
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ..errors import ConfigError

# Shipped with the package; a name without a directory means one of these where there is no such file.
RECIPES = Path(__file__).resolve().parents[1] / "recipes"

# A setting -> what was given earlier and does not go with it: the other way to say the same, or what belonged to the
# value that it had.
REPLACES = {
    "model_name_or_path": ("revision", "gguf_file"),
    "critic": ("critic_revision",),
    "dataset": ("dataset_config",),
    "eval_dataset": ("eval_fraction",),
    "eval_split": ("eval_fraction",),
    "eval_fraction": ("eval_dataset", "eval_split"),
    "reward_funcs": ("reward_weights", "reward_source"),
    "reward_source": ("reward_funcs", "reward_weights"),
    "num_train_epochs": ("max_steps",),
    "lam": ("length_adaptive_lam",),
    "risk_measure": ("risk_level",),
}


def parse_config(dataclass_types, arguments: list[str] | None = None) -> tuple:
    """Parse `[recipe.yaml ...] [--key value ...]` into one instance of each dataclass.

    Args:
        dataclass_types: dataclasses with distinct field names.
        arguments: defaults to the command line.

    Raises:
        ConfigError: a file that is missing or no mapping, an unknown key or flag, a missing required key, a value of
            the wrong type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(dataclass_types, allow_abbrev=False, formatter_class=_HelpFormatter)
    names = [field.name for t in dataclass_types for field in dataclasses.fields(t) if field.init]
    settings: dict = {}
    while arguments and not arguments[0].startswith("-"):
        later = _read_yaml(arguments.pop(0), names)
        settings = _without_replaced(settings, later) | later
    given = [argument.split("=")[0][2:] for argument in arguments if argument.startswith("--")]
    settings = _without_replaced(settings, given)
    for argument in arguments:
        flag = argument.split("=")[0]
        # "--=" and "-- a" are values, "--a" is more likely a flag that is misspelt
        if re.fullmatch(r"--[A-Za-z][\w-]*", flag) and flag not in parser._option_string_actions:
            raise ConfigError(f"Unknown flag {flag!r}{_nearest(flag, [f'--{name}' for name in names])}")
    *parsed, rest = parser.parse_args_into_dataclasses(
        [*_as_flags(settings), *arguments], return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        raise ConfigError(f"Unexpected argument {rest[0]!r}; settings are given as --key value.")
    return tuple(parsed)


def _without_replaced(settings: dict, later: Iterable[str]) -> dict:
    """`settings` but for those that names given later take the place of."""
    replaced = {old for name in later for old in REPLACES.get(name, ())}
    return {name: value for name, value in settings.items() if name not in replaced}


def _read_yaml(path: str, names: list[str]) -> dict:
    file = Path(path)
    if not file.is_file() and file.name == path:
        file = RECIPES / path
    if not file.is_file():
        ours = ", ".join(sorted(recipe.name for recipe in RECIPES.glob("*.yaml")))
        raise ConfigError(
            f"There is no config file {path}, here or among our recipes ({ours}); settings outside a file are given "
            "as --key value."
        )
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML in UTF-8: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; it must be a mapping of key: value.")
    for key in settings:
        if key not in names:
            raise ConfigError(f"{path}: unknown key {key!r}{_nearest(str(key), names)}")
    return settings


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "; see --help for what there is."


def _as_flags(settings: dict) -> list[str]:
    flags = []
    for key, value in settings.items():
        if isinstance(value, list) and value:
            flags += [f"--{key}", *map(_as_text, value)]
        elif value is not None and value != []:
            flags.append(f"--{key}={_as_text(value)}")
    return flags


def _as_text(value) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


class _Parser(HfArgumentParser):
    def _parse_optional(self, arg_string: str):
        """Only what is a flag of ours is one: a value may begin with "-", a stop string say."""
        flag = arg_string.split("=")[0]
        return super()._parse_optional(arg_string) if flag in self._option_string_actions else None

    def error(self, message: str):
        raise ConfigError(message[0].upper() + message[1:] + "; see --help.")

    def format_help(self) -> str:
        """One section a dataclass, and each setting once."""
        formatter = self._get_formatter()
        formatter.add_usage("%(prog)s [recipe.yaml ...] [--key value ...]", (), ())
        for dataclass_type in self.dataclass_types:
            names = [field.name for field in dataclasses.fields(dataclass_type)]
            formatter.start_section((dataclass_type.__doc__ or "").splitlines()[0].rstrip("."))
            formatter.add_arguments(
                [a for a in self._actions if f"--{a.dest}" in a.option_strings and a.dest in names]
            )
            formatter.end_section()
        return formatter.format_help()


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action) -> str:
        kind = "true|false" if action.type is not None and "bool" in action.type.__name__ else action.type.__name__
        return f"--{action.dest} {kind}" + (" ..." if action.nargs == "+" else "")

    def _get_help_string(self, action) -> str | None:
        if action.required:
            return f"{action.help} (required)"
        return action.help if action.default in (None, []) else super()._get_help_string(action)
