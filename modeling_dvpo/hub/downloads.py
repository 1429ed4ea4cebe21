"""Repositories to disk, every file compared with what the Hub says it is.

`hf_hub_download` notices a file of the wrong size, but not one of the right size with other bytes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from ..digests import file_sha256, git_blob_id
from .client import (
    errors_in_words,
    in_brief,
    may_pass,
    retrying,
)
from .commits import RemoteState, remote_state
from .errors import CorruptDownloadError, UnreachableError
from .model_files import files_in, is_wanted


@dataclass(frozen=True)
class Snapshot:
    """A repository on disk.

    Attributes:
        commit: None where it is not known, in offline mode with a `local_dir`.
        files: path in the repository -> file.
        checked: whether the files were compared with the Hub; False: taken from the cache without asking it.
    """

    repo_id: str
    revision: str
    commit: str | None
    directory: Path
    files: Mapping[str, Path] = field(repr=False)
    checked: bool = True


def download(
    api: HfApi,
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir=None,
    local_dir=None,
    wanted: Callable[[str], bool] = is_wanted,
) -> Snapshot:
    """Download what is wanted of a repository, or find it in the cache where the Hub cannot be asked.

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
    names = sorted(path for path in state.files if wanted(path))
    with errors_in_words(repo_id, f"download {repo_id}"):
        directory = _fetch(api, state, names, cache_dir, local_dir)
        for path in names:
            _check(api, state, path, directory, cache_dir, local_dir)
    files = {path: directory / path for path in names}
    return Snapshot(repo_id, revision, state.commit, directory, files)


def _fetch(api: HfApi, state: RemoteState, names: list[str], cache_dir, local_dir) -> Path:
    """All files, as the client finds them to be right; it knows their sizes."""
    places = {"cache_dir": cache_dir, "local_dir": local_dir}
    patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in names]
    options = {"revision": state.commit, "allow_patterns": patterns, **places}
    try:
        directory = Path(retrying(api.snapshot_download, state.repo_id, **options))
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, GatedRepoError, RepositoryNotFoundError):
        raise
    except OSError:  # one of the wrong size, and the client does not say which
        for name in names:
            directory = _root(Path(_once_more(api, state, name, places)), name)
    if local_dir is None:
        _remember_revision(directory, state)
    return directory


def _remember_revision(directory: Path, state: RemoteState) -> None:
    """What the branch was, for offline mode; the client notes it only when it is asked for the branch itself."""
    if state.revision != state.commit:
        note = directory.parent.parent / "refs" / state.revision
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(state.commit)


def _root(path: Path, name: str) -> Path:
    return path.parents[len(Path(name).parts) - 1]


def _once_more(api: HfApi, state: RemoteState, name: str, places: dict, **options) -> str:
    try:
        return retrying(api.hf_hub_download, state.repo_id, name, revision=state.commit, **options, **places)
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise
    except OSError as error:
        raise CorruptDownloadError(
            f"{name} of {state.repo_id} came incomplete twice ({str(error).splitlines()[0]}). Nothing of it is kept: "
            "try again, perhaps over another connection."
        ) from error


def _check(api: HfApi, state: RemoteState, name: str, directory: Path, cache_dir, local_dir) -> None:
    expected = state.files[name]
    if (directory / name).is_file() and expected.is_same(directory / name):
        return
    places = {"cache_dir": cache_dir, "local_dir": local_dir}
    path = Path(_once_more(api, state, name, places, force_download=True))
    if expected.is_same(path):
        return
    # left where it is, the next from_pretrained would load it
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)
    raise CorruptDownloadError(
        f"{name} of {state.repo_id} ({state.commit[:8]}) came twice with other bytes than the Hub has of it "
        f"({expected.sha256 or expected.blob_id}). What came is deleted: try again, perhaps over another connection."
    )


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
    return Snapshot(repo_id, revision, commit, directory, files, checked=False)


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
    snapshot = folder / "snapshots" / (note.read_text().strip() if note.is_file() else revision)
    return snapshot if snapshot.is_dir() else None
