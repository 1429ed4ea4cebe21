"""What a file is, in one short string, so that two can be compared without having both."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

CHUNK = 2**24  # bytes


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; remembered until the file changes."""
    path = Path(path).resolve()
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def other_files(recorded: Mapping[str, str], directory: Path) -> list[str]:
    """Names of the files that are missing in `directory`, or have another SHA-256 than recorded."""
    return [
        name
        for name, digest in recorded.items()
        if not (directory / name).is_file() or file_sha256(directory / name) != digest
    ]


def git_blob_id(content: bytes) -> str:
    """The id under which git, and so the Hub, keeps a file that is not a large one."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
