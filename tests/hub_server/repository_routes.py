"""Repositories: made, and told of."""

from .answers import Answer, HubError
from .repositories import Repository
from .routing import API, REVISION, route


def find(hub, request, kind: str | None, repo: str, need: str = "read") -> Repository:
    """The repository, where the request may do with it what it needs; see `Accounts.check`."""
    return hub.accounts.check(request, hub.repositories.get((kind or "models", repo)), need)


@route("POST", "/api/repos/create")
def create(hub, request):
    body = request.json()
    kind, owner = body.get("type", "model") + "s", body.get("organization") or hub.accounts.require(request).user
    repo = f"{owner}/{body['name']}"
    hub.accounts.require_write(request, owner, f"create a {kind[:-1]}")
    if (kind, repo) in hub.repositories:
        page = hub.endpoint + hub.repositories[kind, repo].page
        raise HubError(409, f"You already created this {kind[:-1]} repo: {repo}", url=page)
    hub.repositories[kind, repo] = Repository(kind, repo, private=body.get("visibility") == "private")
    return Answer.json({"url": hub.endpoint + hub.repositories[kind, repo].page, "name": repo, "id": repo})


@route("GET", API)
@route("GET", rf"{API}/revision/{REVISION}")
def describe(hub, request, kind, repo, revision="main"):
    """What the Hub tells about a repository at a commit, with what it tells of the files."""
    repository = find(hub, request, kind, repo, "see")
    commit = repository.at(revision)
    siblings = []
    for path, file in commit.tree.items():
        sibling = {"rfilename": path, "size": len(file.content), "blobId": file.blob_id}
        if file.lfs:
            size = {"size": len(file.content), "pointerSize": len(file.pointer)}
            sibling["lfs"] = {"sha256": file.sha256, **size}
        siblings.append(sibling)
    described = {"_id": commit.sha[:24], "id": repository.id, "author": repository.owner, "sha": commit.sha}
    described |= {"lastModified": commit.date, "private": repository.private, "gated": repository.gated}
    return Answer.json({**described, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})
