"""From a YAML file and the command line to dataclasses: `script.py recipe.yaml --learning_rate 1e-5`.

Later wins: dataclass default, YAML, command line. An unknown key is an error that names the nearest known one.
"""

import dataclasses
import difflib
import sys
from pathlib import Path

import yaml
from transformers import HfArgumentParser


class ConfigError(ValueError):
    """A configuration that cannot be run; says which key, what came and what is needed."""


def parse_config(dataclass_types, arguments: list[str] | None = None) -> tuple:
    """Parse `[recipe.yaml ...] [--key value ...]` into one instance of each dataclass.

    Args:
        dataclass_types: dataclasses with distinct field names.
        arguments: defaults to the command line.

    Raises:
        ConfigError: a file that is missing or no mapping, an unknown key or flag, a missing required key.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    fields = {f.name: f for t in dataclass_types for f in dataclasses.fields(t) if f.init}
    settings = {}
    while arguments and not arguments[0].startswith("-"):
        settings.update(_read_yaml(arguments.pop(0), fields))
    for action in parser._actions:
        if action.dest in settings:
            action.required = False
    parser.set_defaults(**settings)
    flags = {argument.split("=")[0] for argument in arguments}
    missing = [f"--{a.dest}" for a in parser._actions if a.required and f"--{a.dest}" not in flags]
    if missing and not {"-h", "--help"} & set(arguments):
        raise ConfigError(f"Required: {', '.join(missing)}. Give it in the YAML file or on the command line.")
    *parsed, rest = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    for flag in rest:
        if flag.startswith("-"):
            raise ConfigError(_unknown(flag.lstrip("-").split("=")[0], fields, "flag"))
    if rest:
        raise ConfigError(f"Unexpected argument {rest[0]!r}; settings are given as --key value.")
    return tuple(parsed)


def _read_yaml(path: str, fields: dict) -> dict:
    if not Path(path).is_file():
        raise ConfigError(f"No config file {path}; settings that are not in a file are given as --key value.")
    settings = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; it must be a mapping of key: value.")
    for key, value in settings.items():
        if key not in fields:
            raise ConfigError(f"{path}: {_unknown(key, fields, 'key')}")
        # YAML 1.1 reads 1e-5 (no dot) as a string
        if isinstance(value, str) and "float" in str(fields[key].type):
            try:
                settings[key] = float(value)
            except ValueError:
                raise ConfigError(f"{path}: {key} is {value!r}; it must be a number.") from None
    return settings


def _unknown(key: str, fields: dict, kind: str) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    return f"unknown {kind} {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --help for what there is.")
