"""Repositories with their whole history in memory: files, commits, references."""

import hashlib
import itertools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property

from .answers import HubError

LARGE = ["7z", "arrow", "bin", "bz2", "ckpt", "gz", "h5", "model", "msgpack", "npy", "npz", "onnx", "ot", "parquet"]
LARGE += ["pb", "pickle", "pkl", "pt", "pth", "safetensors", "tar", "tflite", "tgz", "wasm", "xz", "zip", "zst"]
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()

_serial = itertools.count()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. Of a large one git keeps a pointer, so that its blob id is the pointer's."""

    content: bytes = field(repr=False)
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def blob_id(self) -> str:
        return git_hash(self.pointer if self.lfs else self.content)


@dataclass(frozen=True)
class Commit:
    """A commit with its whole tree."""

    sha: str
    parent: str | None
    title: str
    description: str
    author: str
    tree: Mapping[str, StoredFile] = field(repr=False)
    date: str = field(default_factory=now)


class Repository:
    """A model, dataset or space repository; new ones hold `.gitattributes`, as on the Hub."""

    def __init__(self, kind: str, id: str, *, private: bool = False):
        self.kind, self.id, self.private = kind, id, private
        self.gated: str | bool = False
        self.commits: dict[str, Commit] = {}
        self.references: dict[str, str] = {}  # refs/heads/…, refs/tags/…, refs/pr/… to commit
        self.objects: dict[str, bytes] = {}  # large files by sha256, committed or only uploaded
        self.discussions: dict[int, dict] = {}
        self.commit(
            "refs/heads/main", {".gitattributes": StoredFile(GITATTRIBUTES)}, "initial commit", author=self.owner
        )

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def page(self) -> str:
        """Path of its page, and first part of the paths of its files."""
        return "/" + ("" if self.kind == "models" else self.kind + "/") + self.id

    def reference(self, revision: str) -> str | None:
        """Full name of the branch, tag or pull request that is meant."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.references), None)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or full commit id."""
        reference = self.reference(revision)
        commit = self.commits.get(self.references[reference] if reference else revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def history(self, revision: str) -> list[Commit]:
        """The commit of a revision and all before it, newest first."""
        history = [self.at(revision)]
        while history[-1].parent is not None:
            history.append(self.commits[history[-1].parent])
        return history

    def file(self, revision: str, path: str) -> tuple[Commit, StoredFile]:
        commit = self.at(revision)
        if path not in commit.tree:
            raise HubError(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit.sha})
        return commit, commit.tree[path]

    def commit(
        self, reference: str, tree: Mapping[str, StoredFile], title: str, description: str = "", *, author: str
    ):
        """A new commit on top of a branch or pull request, or the first of one."""
        sha = hashlib.sha1(f"{self.id} {next(_serial)} {secrets.token_hex(8)}".encode()).hexdigest()
        commit = Commit(sha, self.references.get(reference), title, description, author, dict(sorted(tree.items())))
        self.commits[sha] = commit
        self.references[reference] = sha
        self.objects |= {file.sha256: file.content for file in tree.values() if file.lfs}
        return commit

    def is_large(self, revision: str, path: str, sample: bytes) -> bool:
        """Whether the Hub wants this file as a large one: by `.gitattributes`, or as binary."""
        attributes = self.at(revision).tree.get(".gitattributes")
        lines = attributes.content.decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        return b"\0" in sample or matches(path, patterns)


def matches(path: str, patterns: list[str]) -> bool:
    """Whether a path falls under patterns of a `.gitattributes` or `.gitignore`; negation is not known here."""
    parts = path.split("/")
    for pattern in patterns:
        pattern, whole = pattern.rstrip("/"), "/" in pattern.rstrip("/")
        leading = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if any(fnmatch(part, pattern.lstrip("/")) for part in (leading if whole else parts)):
            return True
    return False
