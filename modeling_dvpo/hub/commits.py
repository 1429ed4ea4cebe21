"""What a push changes on the Hub: one commit, recognised when its answer is lost, its tag, and a collection."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .client import WAITS, errors_in_words, in_brief, in_words, may_pass, retrying, status_of, wait_after
from .errors import ConcurrentCommitError, PushFailedError, UnpublishableError
from .remote import Content, RemoteState, remote_state

NOTES = {"policy": "the policy", "critic": "the critic that judges it", "dataset": "what they were trained on"}


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
        additions = [CommitOperationAdd(path, _as_given(files[path])) for path in changed]
        deletions = [CommitOperationDelete(path, is_folder=False) for path in deleted]
        _upload(api, state, additions, create_pr)

    waits = iter(WAITS)
    while True:
        try:
            info = api.create_commit(
                repo_id,
                [*additions, *deletions],
                commit_message=message,
                revision=state.revision,
                parent_commit=state.commit,
                create_pr=create_pr,
            )
            where, page = info.pr_revision or state.revision, info.pr_url or url
            return _arrived(api, Pushed(repo_id, where, info.oid, page, changed=True), files)
        except HTTPError as error:
            if status_of(error) != 412 and not may_pass(error):
                raise in_words(error, repo_id, f"commit to {repo_id}") from error
            if pushed := _after_failure(found, api, state, error, create_pr):
                return _arrived(api, pushed, files)
            wait = next(waits, None)
            if wait is None:
                raise PushFailedError(
                    f"The Hub did not take the commit to {repo_id} ({in_brief(error)}). "
                    f"{state.revision} is as it was, at {state.commit[:8]}. Run the same push "
                    "again later: weights that arrived are not sent twice."
                ) from error
            wait_after(error, wait)


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


def group(api: HfApi, collection: str, *, critic: str, policy: str | None = None, dataset: str | None = None) -> str:
    """Put the repositories that are named into a collection; what is in it stays.

    Args:
        collection: a slug ("owner/title-0123456789abcdef01234567"), or a title: of a collection of the critic's
            owner, made where there is none.

    Returns:
        The collection's slug.

    Raises:
        PushFailedError: it could not be made or filled; the models are pushed by then.
    """
    owner = critic.split("/")[0]
    named = {"policy": policy, "critic": critic, "dataset": dataset}
    items = {role: repo_id for role, repo_id in named.items() if repo_id is not None}
    try:
        slug = _find_or_make(api, collection, owner, critic)
        for role, repo_id in items.items():
            item = {"item_id": repo_id, "item_type": "dataset" if role == "dataset" else "model", "note": NOTES[role]}
            retrying(api.add_collection_item, slug, **item, exists_ok=True)
        return slug
    except HTTPError as error:
        models = " and ".join(items[role] for role in ("policy", "critic") if role in items)
        raise PushFailedError(
            f"{models}: pushed, but the collection {collection!r} could not be filled ({in_brief(error)}). Run "
            "the same push again."
        ) from error


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


def _arrived(api: HfApi, pushed: Pushed, files: Mapping[str, Content]) -> Pushed:
    with errors_in_words(pushed.repo_id, f"look at what arrived in {pushed.repo_id} as {pushed.commit[:8]}"):
        lacking = remote_state(api, pushed.repo_id, pushed.commit).lacks(files)
    if lacking:
        raise PushFailedError(
            f"{pushed.repo_id} took the commit {pushed.commit[:8]}, but has not {', '.join(lacking[:5])} as they are "
            "here. Run the same push again."
        )
    return pushed


def _find_or_make(api: HfApi, collection: str, owner: str, critic: str) -> str:
    if "/" in collection:
        return retrying(api.get_collection, collection).slug
    own = retrying(lambda: list(api.list_collections(owner=owner)))
    if found := [one.slug for one in own if one.title == collection]:
        return found[0]
    private = retrying(api.model_info, critic).private
    return retrying(api.create_collection, collection, namespace=owner, private=private, exists_ok=True).slug
