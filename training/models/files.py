"""What a checkpoint's weights are, told by its files."""

import hashlib
import json
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from modeling_dvpo.digests import file_sha256
from modeling_dvpo.ranks import is_main

from ..engine.distributed import gather_lists
from ..errors import ConfigError
from .policies import base_of

# what weights are kept in; a later one counts only where there is none of those before
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def weights_of_policy(source) -> tuple[str, dict[str, str]]:
    """A policy's fingerprint, 16 hexadecimal digits, and the SHA-256 of the files that it stands for, by name.

    Those of an adapter's base are called `base/<name>`. As `files_of` for the rest.
    """
    files, _ = files_of(source)
    base = base_of(source)
    if base is not source:
        files |= {f"base/{name}": digest for name, digest in files_of(base)[0].items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16], files


def files_of(source) -> tuple[dict[str, str], str | None]:
    """SHA-256 of a checkpoint's weight files by name, and its commit where it is from the Hub.

    Of a GGUF file that is there alone, whatever else is.

    The weights must have been loaded: what the Hub's cache holds of them is read. Every rank must call it.
    """
    if not is_main():
        return gather_lists([])[0]
    folder, commit = Path(source.model_name_or_path), None
    if not folder.is_dir():
        folder = _snapshot(source)
        commit = folder.name
    patterns = WEIGHTS if source.gguf_file is None else (source.gguf_file, *WEIGHTS)
    found = next((paths for pattern in patterns if (paths := sorted(folder.glob(pattern)))), [])
    return gather_lists([({path.name: file_sha256(path) for path in found}, commit)])[0]


def _snapshot(source) -> Path:
    """Where the Hub's cache holds a checkpoint or adapter; named after its commit."""
    for name in filter(None, (CONFIG_NAME, "adapter_config.json", source.gguf_file)):
        options = {"revision": source.revision, "_raise_exceptions_for_missing_entries": False}
        if found := cached_file(source.model_name_or_path, name, **options):
            return Path(found).parent
    raise ConfigError(f"{source.model_name_or_path} has neither {CONFIG_NAME} nor adapter_config.json.")
