"""Looking into repositories: files and commits; making branches and tags."""

from .answers import Answer, HubError
from .repositories import Commit, StoredFile
from .repository_routes import find
from .routing import API, REVISION, route


def file_entry(path: str, file: StoredFile) -> dict:
    entry = {"type": "file", "oid": file.blob_id, "size": len(file.content), "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return entry


@route("GET", rf"{API}/tree/{REVISION}")
def tree(hub, request, kind, repo, revision):
    """As the client asks for it: every file, without folders."""
    commit = find(hub, request, kind, repo).at(revision)
    return Answer.json([file_entry(path, file) for path, file in commit.tree.items()])


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
