"""The model under a pulled adapter: by its Hub name, or where it lies beside the adapter."""

import json
from collections.abc import Mapping
from pathlib import Path

from .model_files import ADAPTER_CONFIG, is_weights, read_json
from .records import changed_files, digests, read_record
from .remote import Snapshot

NAME = "base_model_name_or_path"


def lies_beside(base: Mapping, other: Snapshot) -> bool:
    """Whether `other`, pulled with an adapter, is the model of the adapter's record, `base`, with those weights."""
    found = {path: digest for path, digest in digests(other.files).items() if is_weights(path)}
    return base["repo"] == other.repo_id and not changed_files(base["files"], found)


def stand_on_the_hubs(directory: Path, where: str) -> None:
    """Undo `stand_on` in what lies there from an earlier pull: its files are those of its record again."""
    base = read_record(directory, where).get("base_model") or {}
    if base.get("relation") == "adapter":
        stand_on(directory, base["repo"])


def stand_on(directory: Path, base: str) -> None:
    """Name the model under the adapter in `directory`; nothing else of adapter_config.json changes, not a byte."""
    path = directory / ADAPTER_CONFIG
    given = (read_json(path) or {}).get(NAME)
    if given is None or given == base:
        return
    text = path.read_text(encoding="utf-8")
    for written in (json.dumps(given), json.dumps(given, ensure_ascii=False)):
        before, name, after = text.partition(f'"{NAME}": {written}')
        if name:
            path.write_text(f'{before}"{NAME}": {json.dumps(base, ensure_ascii=False)}{after}', encoding="utf-8")
            return
