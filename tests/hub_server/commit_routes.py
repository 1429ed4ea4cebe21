"""`/commit`: a commit from lines of JSON, on a branch or as a new pull request; and the list of those."""

import base64
import json

from .answers import Answer, HubError
from .card_routes import check_card
from .repositories import Commit, Repository, StoredFile, now
from .repository_routes import find
from .routing import API, REVISION, route


@route("POST", rf"{API}/commit/{REVISION}")
def commit(hub, request, kind, repo, revision):
    proposal = request.flag("create_pr")
    repository = find(hub, request, kind, repo, "propose" if proposal else "write")
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    base = repository.at(revision)
    parent = header.get("parentCommit")
    if parent and not base.sha.startswith(parent.lower()):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    reference = repository.reference(revision)
    if not proposal and (reference is None or reference.startswith("refs/tags/")):
        raise HubError(400, f"Cannot commit to {revision}: it is neither a branch nor a pull request")

    tree = dict(base.tree)
    for line in lines:
        if line["key"] != "header":
            change(repository, tree, line["key"], line["value"])
    if tree.get("README.md") != base.tree.get("README.md") and "README.md" in tree:
        if errors := check_card(tree["README.md"].content.decode()):
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))

    author = hub.accounts.require(request).user
    title, description = header["summary"], header.get("description", "")
    pull_request_url = None
    if proposal:
        number = open_pull_request(repository, base, title, description, author)
        reference = f"refs/pr/{number}"
        pull_request_url = f"{hub.endpoint}{repository.page}/discussions/{number}"
    made = repository.commit(reference, tree, title, description, author=author)
    url = f"{hub.endpoint}{repository.page}/commit/{made.sha}"
    answer = {"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""}
    return Answer.json({**answer, "pullRequestUrl": pull_request_url})


def change(repository: Repository, tree: dict[str, StoredFile], key: str, value: dict) -> None:
    """Applies one line of a commit to the tree."""
    path = value["path"]
    if key == "file":
        tree[path] = StoredFile(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        content = repository.objects.get(value["oid"])
        if content is None or value.get("size", len(content)) != len(content):
            raise HubError(
                400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}"
            )
        tree[path] = StoredFile(content, lfs=True)
    elif key == "deletedFile":
        if path not in tree:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        del tree[path]
    else:
        raise HubError(400, f"Unknown operation in a commit: {key}")


def open_pull_request(repository: Repository, base: Commit, title: str, description: str, author: str) -> int:
    """Number of a new pull request that starts at this commit."""
    number = len(repository.discussions) + 1
    repository.discussions[number] = {
        "num": number,
        "title": title,
        "author": {"name": author},
        "createdAt": now(),
        "status": "open",
        "repo": {"name": repository.id, "type": repository.kind[:-1]},
        "isPullRequest": True,
        "filesWithConflicts": [],
        "changes": {"base": "refs/heads/main"},
        "events": [],
    }
    repository.references[f"refs/pr/{number}"] = base.sha
    return number


@route("GET", rf"{API}/discussions")
def list_discussions(hub, request, kind, repo):
    discussions = list(find(hub, request, kind, repo).discussions.values())
    return Answer.json({"discussions": discussions, "count": len(discussions), "start": 0})
