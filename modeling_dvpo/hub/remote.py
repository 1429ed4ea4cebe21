"""A repository on the Hub: what it holds, read and downloaded, every file compared with what the Hub says it is.

`hf_hub_download` notices a file of the wrong size, but not one of the right size with other bytes.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name

from ..digests import file_sha256, git_blob_id
from .client import errors_in_words, in_brief, may_pass, retrying
from .errors import CorruptDownloadError, UnreachableError
from .model_files import files_in, is_wanted

Content = Path | bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub knows it; large ones have a `sha256`, others git's `blob_id` of their content."""

    size: int
    blob_id: str
    sha256: str | None

    def is_same(self, content: Content) -> bool:
        """Whether it has this very content."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size != self.size:
            return False
        if self.sha256 is not None:
            own = file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
            return own == self.sha256
        return git_blob_id(content.read_bytes() if isinstance(content, Path) else content) == self.blob_id


@dataclass(frozen=True)
class RemoteState:
    """A repository at one commit."""

    repo_id: str
    revision: str
    commit: str
    private: bool
    files: Mapping[str, RemoteFile] = field(repr=False)

    def lacks(self, files: Mapping[str, Content]) -> list[str]:
        """Paths which it has not, or with other content."""
        return [path for path in files if path not in self.files or not self.files[path].is_same(files[path])]


def remote_state(api: HfApi, repo_id: str, revision: str = "main") -> RemoteState:
    """The files at the head of a branch, tag or pull request, or at a commit; raises the client's errors."""
    info = retrying(api.model_info, repo_id, revision=revision, files_metadata=True)
    files = {
        sibling.rfilename: RemoteFile(sibling.size, sibling.blob_id, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings
    }
    return RemoteState(repo_id, revision, info.sha, bool(info.private), files)


def read_remote(api: HfApi, state: RemoteState, path: str) -> bytes | None:
    """Content of a small file; None where the repository has none.

    Raises:
        CorruptDownloadError: it came wrong twice.
    """
    if path not in state.files:
        return None
    with errors_in_words(state.repo_id, f"read {path} of {state.repo_id}"), tempfile.TemporaryDirectory() as folder:

        def fetch(names: list[str]) -> str:
            api.hf_hub_download(state.repo_id, path, revision=state.commit, local_dir=folder)
            return folder

        return (_fetched(state, [path], fetch) / path).read_bytes()


@dataclass(frozen=True)
class Snapshot:
    """A repository on disk.

    Attributes:
        commit: None where it is not known, in offline mode with a `local_dir`.
        files: path in the repository -> file.
    """

    repo_id: str
    revision: str
    commit: str | None
    directory: Path
    files: Mapping[str, Path] = field(repr=False)


def download(api: HfApi, repo_id: str, *, revision: str | None = None, cache_dir=None, local_dir=None) -> Snapshot:
    """Download what a pull wants of a repository, or find it in the cache where the Hub cannot be asked.

    Args:
        local_dir: put the files there instead of into the cache.

    Raises:
        CorruptDownloadError: a file came wrong twice; what came is deleted.
        UnreachableError: the Hub cannot be asked and the cache lacks it.
        AccessError: no such repository or revision, or it may not be seen.
    """
    revision = revision or constants.DEFAULT_REVISION
    try:
        state = remote_state(api, repo_id, revision)
    except (HTTPError, OfflineModeIsEnabled) as error:
        if not isinstance(error, OfflineModeIsEnabled) and not may_pass(error):
            with errors_in_words(repo_id, f"download {repo_id}"):
                raise
        return _from_disk(api, repo_id, revision, cache_dir, local_dir, error)
    names = sorted(filter(is_wanted, state.files))
    places = {"cache_dir": cache_dir, "local_dir": local_dir}

    def fetch(names: list[str]) -> str:
        patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in names]
        return api.snapshot_download(repo_id, revision=state.commit, allow_patterns=patterns, **places)

    with errors_in_words(repo_id, f"download {repo_id}"):
        directory = _fetched(state, names, fetch)
    if local_dir is None:
        _remember_revision(directory, state)
    return Snapshot(repo_id, revision, state.commit, directory, {path: directory / path for path in names})


def _fetched(state: RemoteState, names: list[str], fetch: Callable[[list[str]], str | Path]) -> Path:
    """The directory that `fetch` puts files into, every one as the Hub has it; it may come wrong once.

    Raises:
        CorruptDownloadError: it came wrong twice.
    """
    wrong, why = names, ""
    for _ in range(2):
        try:
            directory = Path(retrying(fetch, wrong))
        except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError):
            raise
        except OSError as error:  # of the wrong size, and the client does not say which
            why = str(error).splitlines()[0]
            continue
        wrong = [name for name in wrong if not _is_kept(directory / name, state.files[name])]
        if not wrong:
            return directory
        why = f"{', '.join(wrong[:5])} with other bytes than the Hub has"
    raise CorruptDownloadError(
        f"A download of {state.repo_id} ({state.commit[:8]}) came wrong twice: {why}. Nothing wrong is kept: try "
        "again, perhaps over another connection."
    )


def _is_kept(path: Path, expected: RemoteFile) -> bool:
    """Whether the file is as expected; if not it is deleted, as the next from_pretrained would load it."""
    if path.is_file() and expected.is_same(path):
        return True
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    return False


def _remember_revision(directory: Path, state: RemoteState) -> None:
    """What the branch was, for offline mode; the client notes it only when it is asked for the branch itself."""
    if state.revision != state.commit:
        note = directory.parent.parent / "refs" / state.revision
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(state.commit, encoding="utf-8")


def _from_disk(api: HfApi, repo_id: str, revision: str, cache_dir, local_dir, error) -> Snapshot:
    """What an earlier download left."""
    if local_dir is not None:
        directory = Path(local_dir) if Path(local_dir).is_dir() and files_in(Path(local_dir)) else None
        commit = None
    else:
        directory = _cached(repo_id, revision, cache_dir)
        commit = directory.name if directory else None
    if directory is None:
        place = local_dir or cache_dir or constants.HF_HUB_CACHE
        offline = isinstance(error, OfflineModeIsEnabled)
        why = "offline mode is on (HF_HUB_OFFLINE)" if offline else f"the Hub does not answer ({in_brief(error)})"
        raise UnreachableError(
            f"{why[0].upper()}{why[1:]}, and {place} has no {repo_id} ({revision}). Pull it once while the Hub can be "
            "reached; later pulls find it there."
        ) from error
    files = {path: directory / path for path in files_in(directory) if is_wanted(path)}
    for path, file in files.items():
        if not _is_its_blob(file):
            raise CorruptDownloadError(
                f"{path} of {repo_id} in {directory} is not what was downloaded: its bytes have changed. Pull again "
                "while the Hub can be asked, and it is downloaded anew."
            )
    return Snapshot(repo_id, revision, commit, directory, files)


def _is_its_blob(file: Path) -> bool:
    """Whether a file of the cache has the content that its blob is named after; True where no blob has such a name."""
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return file_sha256(file) == name
    if re.fullmatch("[0-9a-f]{40}", name):
        return git_blob_id(file.read_bytes()) == name
    return True


def _cached(repo_id: str, revision: str, cache_dir) -> Path | None:
    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    note = folder / "refs" / revision
    snapshot = folder / "snapshots" / (note.read_text(encoding="utf-8").strip() if note.is_file() else revision)
    return snapshot if snapshot.is_dir() else None
