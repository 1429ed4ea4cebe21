"""Where a model or a data set came from: a Hub repository, or something on the user's disk whose path stays there."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .errors import CardError

# "owner/name" with one of these as owner is a directory that has since gone, or lies on another machine.
DIRECTORIES = {
    "..", ".", "checkpoint", "checkpoints", "ckpt", "ckpts", "data", "dataset", "datasets", "exp", "experiments",
    "home", "local", "logs", "model", "models", "mnt", "out", "output", "outputs", "results", "root", "runs",
    "save", "saved", "scratch", "spaces", "temp", "tmp", "users", "workspace",
}  # fmt: skip
FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zst", ".zip", ".py", ".bin")
LONGEST_CHAIN = 16


@dataclass(frozen=True)
class Origin:
    """A model or a data set by the name it may have on a card.

    Attributes:
        name: the Hub id, or the last part of a local path.
        on_hub: `name` is a Hub id; where that is in doubt it is False.
        revision: branch, tag or commit on the Hub.
        path: where it is on this disk, if it is; never printed.
    """

    name: str
    on_hub: bool
    revision: str | None = None
    path: Path | None = field(default=None, repr=False)


def origin_of(name: str | None, near, revision: str | None = None) -> Origin | None:
    """What `name` in a config or in settings meant; None where there is none.

    Args:
        near: the saved model that names it: relative paths are looked for from the working directory and from
            every directory above this one.
    """
    if not name:
        return None
    path = _on_disk(name, near)
    if path is None and _is_hub_id(name):
        return Origin(name, True, revision)
    return Origin(last_part(name), False, path=path)


def hub_origin(repo_id: str) -> Origin:
    """An origin that the user vouches for.

    Raises:
        CardError: it is no id of a repository.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CardError(f"{repo_id!r} is no id of a Hub repository (owner/name): {error}") from error
    return Origin(repo_id, True)


def last_part(name: str) -> str:
    """A local path without the directories above it; whatever has no path in it stays as it is."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] or name


def config_of(origin: Origin | None) -> dict:
    """The config of a model on this disk or in the Hub's cache; empty where it is in neither."""
    if origin is None:
        return {}
    if origin.on_hub:
        cached = try_to_load_from_cache(origin.name, "config.json", revision=origin.revision)
        file = Path(cached) if isinstance(cached, str) else None
    else:
        file = origin.path / "config.json" if origin.path and origin.path.is_dir() else None
    return read_object(file) if file and file.is_file() else {}


def hub_ancestor(origin: Origin | None) -> Origin | None:
    """The nearest Hub model that a local one was fine-tuned from, as far as the configs on this disk say."""
    for _ in range(LONGEST_CHAIN):
        if origin is None or origin.on_hub:
            return origin
        training = config_of(origin).get("critic_training") or {}
        origin = origin_of(training.get("parent"), origin.path, training.get("parent_revision"))
    return None


def read_object(file: Path) -> dict:
    """A JSON file that holds an object.

    Raises:
        CardError: it does not.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CardError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CardError(f"{file} holds {type(content).__name__}, and a JSON object is needed.")
    return content


def _on_disk(name: str, near) -> Path | None:
    above = [Path(near).resolve(), *Path(near).resolve().parents] if near else []
    for place in (Path.cwd(), *above):
        candidate = place / Path(name).expanduser()
        try:
            if candidate.exists():
                return candidate
        except OSError:  # a name too long for a path, or a directory that may not be read
            return None
    return None


def _is_hub_id(name: str) -> bool:
    owner, slash, _ = name.partition("/")
    if not slash or owner.lower() in DIRECTORIES or name.lower().endswith(FILE_SUFFIXES):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
