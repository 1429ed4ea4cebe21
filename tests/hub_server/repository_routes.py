"""Accounts and repositories: who am I, create, delete, list, describe, settings."""

import yaml

from .answers import Answer, HubError
from .card_routes import metadata_of
from .repositories import Commit, Repository
from .routing import API, KIND, REVISION, route


def find(hub, request, kind: str | None, repo: str, need: str = "read") -> Repository:
    """The repository, where the request may do with it what it needs; see `Accounts.check`."""
    return hub.accounts.check(request, hub.repositories.get((kind or "models", repo)), need)


@route("GET", "/api/whoami-v2")
def who_am_i(hub, request):
    account = hub.accounts.require(request)
    organizations = [{"type": "org", "name": name, "fullname": name} for name in account.organizations]
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
    user = {"type": "user", "id": account.user, "name": account.user, "fullname": account.user}
    return Answer.json({**user, "orgs": organizations, "auth": access})


def named(hub, request) -> tuple[str, str]:
    """Kind and id of the repository that the body of a request to create or delete one names."""
    body = request.json()
    namespace = body.get("organization") or hub.accounts.require(request).user
    return body.get("type", "model") + "s", f"{namespace}/{body['name']}"


@route("POST", "/api/repos/create")
def create(hub, request):
    kind, repo = named(hub, request)
    hub.accounts.require_write(request, repo.split("/")[0], f"create a {kind[:-1]}")
    existing = hub.repositories.get((kind, repo))
    if existing is not None:
        message = f"You already created this {kind[:-1]} repo: {repo}"
        raise HubError(409, message, url=hub.endpoint + existing.page)
    private = request.json().get("visibility") == "private"
    hub.repositories[kind, repo] = Repository(kind, repo, private=private)
    created = hub.repositories[kind, repo]
    return Answer.json({"url": hub.endpoint + created.page, "name": repo, "id": repo})


@route("DELETE", "/api/repos/delete")
def delete(hub, request):
    kind, repo = named(hub, request)
    find(hub, request, kind, repo, "write")
    del hub.repositories[kind, repo]
    return Answer(200, b"OK")


@route("GET", rf"/api/{KIND}")
def list_repositories(hub, request, kind):
    account = hub.accounts.of(request)
    described = []
    for repository in hub.repositories.values():
        hidden = repository.private and not (account and account.owns(repository.owner))
        if repository.kind == kind and not hidden:
            described.append(description(repository, repository.at("main")))
    for author in request.values("author"):
        described = [one for one in described if one["author"] == author]
    for text in request.values("search"):
        described = [one for one in described if text.lower() in one["id"].lower()]
    for tag in request.values("filter"):
        described = [one for one in described if tag in one["tags"]]
    limit = int(request.values("limit")[0]) if request.values("limit") else None
    return Answer.json([{key: one[key] for key in one if key != "siblings"} for one in described[:limit]])


@route("GET", API)
@route("GET", rf"{API}/revision/{REVISION}")
def describe(hub, request, kind, repo, revision="main"):
    repository = find(hub, request, kind, repo, "see")
    whole = description(repository, repository.at(revision), blobs=request.flag("blobs"))
    wanted = request.values("expand")
    return Answer.json({key: value for key, value in whole.items() if not wanted or key in ("id", *wanted)})


@route("GET", rf"{API}/auth-check(?P<write>/write)?")
def check_access(hub, request, kind, repo, write):
    find(hub, request, kind, repo, "write" if write else "read")
    return Answer.json({})


@route("PUT", rf"{API}/settings")
def change_settings(hub, request, kind, repo):
    repository = find(hub, request, kind, repo, "write")
    body = request.json()
    repository.gated = body.get("gated", repository.gated)
    if "visibility" in body:
        repository.private = body["visibility"] == "private"
    return Answer.json({"private": repository.private, "gated": repository.gated})


def description(repository: Repository, commit: Commit, *, blobs: bool = False) -> dict:
    """What the Hub tells about a repository at a commit; metadata comes from its card."""
    siblings = []
    for path, file in commit.tree.items():
        sibling = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(file.content), "blobId": file.blob_id}
            if file.lfs:
                size = {"size": len(file.content), "pointerSize": len(file.pointer)}
                sibling["lfs"] = {"sha256": file.sha256, **size}
        siblings.append(sibling)
    card = card_data(commit)
    index = card.pop("model-index", None)
    return {
        "_id": commit.sha[:24],
        "id": repository.id,
        "author": repository.owner,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repository.created,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags(card),
        "siblings": siblings,
        **({"cardData": card} if card else {}),
        **({"model-index": index} if index else {}),
        **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card},
    }


def card_data(commit: Commit) -> dict:
    card = commit.tree.get("README.md")
    try:
        return (metadata_of(card.content.decode()) if card else None) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}


def tags(card: dict) -> list[str]:
    """The tags by which the Hub's search finds a repository."""

    def listed(key):
        value = card.get(key) or []
        return [str(one) for one in (value if isinstance(value, list) else [value])]

    found = [tag for key in ("library_name", "tags", "pipeline_tag", "language") for tag in listed(key)]
    relation = card.get("base_model_relation")
    for base in listed("base_model"):
        found += [f"base_model:{base}", *([f"base_model:{relation}:{base}"] if relation else [])]
    found += [f"dataset:{dataset}" for dataset in listed("datasets")]
    return found + [f"license:{license}" for license in listed("license")]
