"""One commit per push: what it adds and deletes, on which parent, and whether it happened when the answer is lost."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..digests import file_sha256, git_blob_id
from .client import (
    WAITS,
    errors_in_words,
    in_brief,
    in_words,
    may_pass,
    retrying,
    status_of,
    wait_after,
)
from .errors import (
    ConcurrentCommitError,
    CorruptDownloadError,
    PushFailedError,
    UnpublishableError,
)

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


@dataclass(frozen=True)
class Pushed:
    """Where something is on the Hub now.

    Attributes:
        commit: of the branch, or of the pull request.
        url: of the repository, or of the pull request.
        changed: False where everything was there already, so that no commit was made.
        left_out: files of the given directory that are no part of the model and stayed behind.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    changed: bool
    left_out: tuple[str, ...] = ()


def remote_state(api: HfApi, repo_id: str, revision: str = "main") -> RemoteState:
    """The files at the head of a branch, tag or pull request, or at a commit; raises the client's errors."""
    info = retrying(api.model_info, repo_id, revision=revision, files_metadata=True)
    files = {
        sibling.rfilename: RemoteFile(sibling.size, sibling.blob_id, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings
    }
    return RemoteState(repo_id, revision, info.sha, bool(info.private), files)


def open_repository(api: HfApi, repo_id: str, *, revision: str = "main", private: bool | None = None) -> RemoteState:
    """The state to commit on; repository and branch are made where there is none.

    Args:
        private: of a new repository (None: public). One that exists must be as asked for.

    Raises:
        AccessError, UnreachableError, UnpublishableError: as their docstrings say.
    """
    with errors_in_words(repo_id, f"push to {repo_id}"):
        try:
            state = remote_state(api, repo_id)
        except RepositoryNotFoundError:
            retrying(api.create_repo, repo_id, private=private, exist_ok=True)
            state = remote_state(api, repo_id)
        if private is not None and state.private != private:
            is_, asked = ("private", "public") if state.private else ("public", "private")
            raise UnpublishableError(
                f"{repo_id} is {is_}, and private={private} asks for a {asked} repository. Nothing was pushed: change "
                "the repository's settings on the Hub, or leave `private` out."
            )
        if revision != "main":
            try:
                state = remote_state(api, repo_id, revision)
            except RevisionNotFoundError:
                retrying(api.create_branch, repo_id, branch=revision, exist_ok=True)
                state = remote_state(api, repo_id, revision)
    return state


def read_remote(api: HfApi, state: RemoteState, path: str) -> bytes | None:
    """Content of a small file; None where the repository has none.

    Raises:
        CorruptDownloadError: it came wrong twice.
    """
    if path not in state.files:
        return None
    with errors_in_words(state.repo_id, f"read {path} of {state.repo_id}"):
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    local = retrying(api.hf_hub_download, state.repo_id, path, revision=state.commit, local_dir=folder)
                except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError):
                    raise
                except OSError:  # of the wrong size
                    continue
                content = Path(local).read_bytes()
            if state.files[path].is_same(content):
                return content
    raise CorruptDownloadError(
        f"{path} of {state.repo_id} ({state.commit[:8]}) came twice with other bytes than the Hub has of it. Try "
        "again, perhaps over another connection."
    )


def commit_files(
    api: HfApi,
    state: RemoteState,
    files: Mapping[str, Content],
    *,
    is_stale: Callable[[str], bool],
    message: str,
    create_pr: bool = False,
) -> Pushed:
    """Bring `files` into the repository in one commit on top of `state`, with what is stale deleted.

    Nothing happens where nothing would change. A commit whose answer was lost is recognised by what the repository
    holds, so that trying again is safe.

    Args:
        is_stale: whether a path that the repository has, and `files` has not, goes.
        create_pr: propose it as a pull request; an open one with the same content is found again.

    Raises:
        ConcurrentCommitError: somebody else's commit came first; it is left alone.
        PushFailedError: the Hub failed for good; the repository is as it was.
        AccessError: the token may not write.
    """
    repo_id, changed = state.repo_id, state.lacks(files)
    deleted = [path for path in state.files if path not in files and is_stale(path)]
    url = f"{api.endpoint}/{repo_id}"
    if not changed and not deleted:
        return Pushed(repo_id, state.revision, state.commit, url, changed=False)

    def found(before: bool = False) -> Pushed | None:
        """Our content, where it arrived."""
        if not create_pr:
            now = remote_state(api, repo_id, state.revision)
            same = now.commit != state.commit and not now.lacks(files) and not any(p in now.files for p in deleted)
            return Pushed(repo_id, state.revision, now.commit, url, changed=True) if same else None
        for proposal in _open_pull_requests(api, repo_id):
            now = remote_state(api, repo_id, proposal.git_reference)
            if not now.lacks(files) and not any(path in now.files for path in deleted):
                return Pushed(repo_id, proposal.git_reference, now.commit, proposal.url, changed=not before)
        return None

    with errors_in_words(repo_id, f"push to {repo_id}"):
        if create_pr and (proposed := found(before=True)):
            return proposed
        operations = [
            *(CommitOperationAdd(path, _as_given(files[path])) for path in changed),
            *(CommitOperationDelete(path, is_folder=False) for path in deleted),
        ]
        _upload(api, state, [o for o in operations if isinstance(o, CommitOperationAdd)], create_pr)

    for wait in (*WAITS, None):
        try:
            info = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                revision=state.revision,
                parent_commit=state.commit,
                create_pr=create_pr,
            )
            where = info.pr_revision if create_pr else state.revision
            pushed = Pushed(repo_id, where, info.oid, info.pr_url if create_pr else url, changed=True)
            break
        except HTTPError as error:
            if status_of(error) != 412 and not may_pass(error):
                raise in_words(error, repo_id, f"commit to {repo_id}") from error
            pushed = _after_failure(found, api, state, error, create_pr)
            if pushed:
                break
            if wait is None:
                raise PushFailedError(
                    f"The Hub did not take the commit to {repo_id} ({in_brief(error)}). "
                    f"{state.revision} is as it was, at {state.commit[:8]}. Run the same push "
                    "again later: weights that arrived are not sent twice."
                ) from error
            wait_after(error, wait)
    _check_arrived(api, pushed, files)
    return pushed


def tag_commit(api: HfApi, pushed: Pushed, tag: str) -> None:
    """Name the commit; a tag that names another one is left alone.

    Raises:
        PushFailedError: the tag is taken, or could not be made.
    """
    where = f"{pushed.repo_id} is pushed, as {pushed.commit[:8]} on {pushed.revision}"
    try:
        retrying(api.create_tag, pushed.repo_id, tag=tag, revision=pushed.commit, exist_ok=True)
        named = remote_state(api, pushed.repo_id, f"refs/tags/{tag}").commit
    except HTTPError as error:
        raise PushFailedError(f"{where}, but the tag {tag} could not be made ({in_brief(error)}).") from error
    if named != pushed.commit:
        raise PushFailedError(
            f"{where}, but the tag {tag} names {named[:8]} already and was left there. Choose another tag, or delete "
            "that one on the Hub."
        )


def _as_given(content: Content):
    return str(content) if isinstance(content, Path) else content


def _open_pull_requests(api: HfApi, repo_id: str) -> list:
    return retrying(
        lambda: list(api.get_repo_discussions(repo_id, discussion_type="pull_request", discussion_status="open"))
    )


def _upload(api: HfApi, state: RemoteState, additions: list[CommitOperationAdd], create_pr: bool) -> None:
    """Send the large files; the repository does not change. The client repeats what may pass by itself."""
    try:
        api.preupload_lfs_files(
            state.repo_id, additions, revision=state.revision, create_pr=create_pr, free_memory=False
        )
    except RuntimeError as error:  # what the client makes of anything that stops an upload
        cause = error.__cause__ or error
        raise PushFailedError(
            f"{error} ({in_brief(cause)}) Nothing changed in {state.repo_id}: "
            f"{state.revision} is at {state.commit[:8]} as before. Run the same push again: files that arrived are "
            "not sent twice."
        ) from error
    # the client would leave these out of the commit with a line in its debug log
    if ignored := [addition.path_in_repo for addition in additions if getattr(addition, "_should_ignore", False)]:
        raise UnpublishableError(
            f"The .gitignore of {state.repo_id} keeps {', '.join(sorted(ignored))} out, so the model would arrive "
            "incomplete. Nothing was pushed: take these patterns out of .gitignore."
        )


def _after_failure(found, api, state: RemoteState, error, create_pr: bool) -> Pushed | None:
    """Our commit where it happened after all, None where trying again makes sense."""
    with errors_in_words(state.repo_id, f"learn whether the commit to {state.repo_id} happened; run the push again"):
        if pushed := found():
            return pushed
        if create_pr:
            return None
        now = remote_state(api, state.repo_id, state.revision)
    if now.commit != state.commit:
        raise ConcurrentCommitError(
            f"Somebody else committed {now.commit[:8]} to {state.repo_id} ({state.revision}) while this push was on "
            f"its way from {state.commit[:8]}. Theirs stays; nothing of this push is in the repository. Look at what "
            "they changed, then run the same push again."
        ) from error
    return None


def _check_arrived(api: HfApi, pushed: Pushed, files: Mapping[str, Content]) -> None:
    with errors_in_words(pushed.repo_id, f"look at what arrived in {pushed.repo_id} as {pushed.commit[:8]}"):
        lacking = remote_state(api, pushed.repo_id, pushed.commit).lacks(files)
    if lacking:
        raise PushFailedError(
            f"{pushed.repo_id} took the commit {pushed.commit[:8]}, but has not {', '.join(lacking[:5])} as they are "
            "here. Run the same push again."
        )
