"""Looking into repositories: trees, paths, references, commits; making and deleting branches and tags."""

from urllib.parse import parse_qs

from .answers import Answer, HubError
from .repositories import Commit, StoredFile, git_hash
from .repository_routes import find
from .routing import API, REVISION, route


def file_entry(path: str, file: StoredFile) -> dict:
    entry = {"type": "file", "oid": file.blob_id, "size": len(file.content), "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return entry


def folders_of(commit: Commit) -> set[str]:
    parts = [path.split("/") for path in commit.tree]
    return {"/".join(names[:depth]) for names in parts for depth in range(1, len(names))}


def folder_entry(path: str, commit: Commit) -> dict:
    inside = [f"{name} {file.blob_id}" for name, file in commit.tree.items() if name.startswith(path + "/")]
    return {"type": "directory", "oid": git_hash("\n".join(inside).encode()), "size": 0, "path": path}


def with_last_commits(repository, commit: Commit, entries: list[dict]) -> list[dict]:
    """Entries that also say which commit last changed them."""
    history = repository.history(commit.sha)

    def files(of: Commit, path: str):
        return {name: file.blob_id for name, file in of.tree.items() if name == path or name.startswith(path + "/")}

    for entry in entries:
        path = entry["path"]
        last = history[-1]
        for newer, older in zip(history, history[1:], strict=False):
            if files(newer, path) != files(older, path):
                last = newer
                break
        entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return entries


@route("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
def tree(hub, request, kind, repo, revision, path):
    repository = find(hub, request, kind, repo)
    commit = repository.at(revision)
    prefix = path.rstrip("/") + "/" if path else ""
    entries = [folder_entry(folder, commit) for folder in sorted(folders_of(commit))]
    entries += [file_entry(name, file) for name, file in commit.tree.items()]
    entries = [entry for entry in entries if entry["path"].startswith(prefix)]
    if prefix and not entries:
        message = f'The path "{path}" does not exist on "{revision}"'
        raise HubError(404, message, "EntryNotFound", headers={"X-Repo-Commit": commit.sha})
    if not request.flag("recursive"):
        entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
    return Answer.json(with_last_commits(repository, commit, entries) if request.flag("expand") else entries)


@route("POST", rf"{API}/paths-info/{REVISION}")
def paths_info(hub, request, kind, repo, revision):
    repository = find(hub, request, kind, repo)
    commit = repository.at(revision)
    form = parse_qs(request.body.decode())
    paths = [path.rstrip("/") for path in form.get("paths", [])]
    entries = [file_entry(path, commit.tree[path]) for path in paths if path in commit.tree]
    entries += [folder_entry(path, commit) for path in paths if path in folders_of(commit)]
    expand = form.get("expand", ["false"])[0].lower() in ("1", "true")
    return Answer.json(with_last_commits(repository, commit, entries) if expand else entries)


@route("GET", rf"{API}/refs")
def references(hub, request, kind, repo):
    repository = find(hub, request, kind, repo)

    def under(prefix):
        return [
            {"name": name.removeprefix(prefix), "ref": name, "targetCommit": sha}
            for name, sha in repository.references.items()
            if name.startswith(prefix)
        ]

    answer = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    return Answer.json({**answer, **({"pullRequests": under("refs/pr/")} if request.flag("include_prs") else {})})


@route("GET", rf"{API}/commits/{REVISION}")
def commits(hub, request, kind, repo, revision):
    history = find(hub, request, kind, repo).history(revision)
    return Answer.json(
        [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.description,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in history
        ]
    )


@route("POST", rf"{API}/branch/(?P<branch>[^/]+)")
def create_branch(hub, request, kind, repo, branch):
    repository = find(hub, request, kind, repo, "write")
    start = repository.at(request.json().get("startingPoint", "main"))
    return new_reference(repository, f"refs/heads/{branch}", start)


@route("POST", rf"{API}/tag/{REVISION}")
def create_tag(hub, request, kind, repo, revision):
    repository = find(hub, request, kind, repo, "write")
    return new_reference(repository, f"refs/tags/{request.json()['tag']}", repository.at(revision))


def new_reference(repository, name: str, commit: Commit) -> Answer:
    if name in repository.references:
        raise HubError(409, f"Reference already exists: {name}")
    repository.references[name] = commit.sha
    return Answer.json({})


@route("DELETE", rf"{API}/(?P<what>branch|tag)/(?P<name>[^/]+)")
def delete_reference(hub, request, kind, repo, what, name):
    repository = find(hub, request, kind, repo, "write")
    reference = f"refs/{'heads' if what == 'branch' else 'tags'}/{name}"
    if reference == "refs/heads/main":
        raise HubError(403, "Cannot delete refs/heads/main")
    if reference not in repository.references:
        raise HubError(404, f"Reference not found: {reference}", "RevisionNotFound")
    del repository.references[reference]
    return Answer(200, b"OK")
