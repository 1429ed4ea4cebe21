"""Names that mean something to others: of the Hub's repositories, not of this machine's directories."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub import HfApi

from .client import errors_in_words, retrying

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class PublicNames:
    """Sorts names that a run was given into public ones and paths; remembers what the Hub said."""

    def __init__(self, api: HfApi):
        self.api, self._known = api, {}

    def repository(self, name: str | None, repo_type: str = "model") -> str | None:
        """The name, if it is a repository that the Hub has, and no directory here; else None.

        "outputs/policy" may be both by its form, so the Hub is asked.
        """
        if not name or os.path.exists(name) or not REPO_ID.fullmatch(name):
            return None
        if (name, repo_type) not in self._known:
            with errors_in_words(name, f"ask the Hub whether it has {name}"):
                self._known[name, repo_type] = retrying(self.api.repo_exists, name, repo_type=repo_type)
        return name if self._known[name, repo_type] else None

    def without_paths(self, value):
        """A setting with every path in it cut down to its last part; public names stay."""
        if isinstance(value, dict):
            return {key: self.without_paths(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.without_paths(one) for one in value]
        if not isinstance(value, str) or not _may_be_path(value):
            return value
        return self.repository(value) or self.repository(value, "dataset") or _last_part(value)


def _may_be_path(value: str) -> bool:
    return "/" in value or "\\" in value or value.startswith("~") or os.path.exists(value)


def _last_part(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name or Path(path).name


def public_config(config: dict, names: PublicNames) -> dict:
    """A config.json without the paths that the run had in it: unknown parents and data sets are absent."""
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "name_or_path")}
    training = config.get("critic_training")
    if not training:
        return config
    clean = {}
    for key, value in training.items():
        if key in ("parent", "policy"):
            value = names.repository(value)
        elif key == "dataset":
            value = names.repository(value, "dataset")
        else:
            value = names.without_paths(value)
        clean[key] = value
    gone = {key for key in ("parent", "policy", "dataset") if clean.get(key) is None}
    if "parent" in gone:
        gone.add("parent_revision")
    return {**config, "critic_training": {key: value for key, value in clean.items() if key not in gone}}
