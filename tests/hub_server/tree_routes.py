"""Looking into repositories, and their files; making branches and tags.

A file is asked for on the Hub itself, which sends the client to the storage for a large one.
"""

from .answers import Answer, HubError
from .repositories import Commit, StoredFile
from .repository_routes import find
from .routing import API, PAGE, REVISION, route

BYTES = {"Content-Type": "application/octet-stream"}


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


@route("GET", rf"{PAGE}/resolve/{REVISION}/(?P<path>.+)")
def resolve(hub, request, kind, repo, revision, path):
    repository = find(hub, request, kind, repo)
    commit, file = repository.file(revision, path)
    headers = {"X-Repo-Commit": commit.sha}
    if not file.lfs:
        return Answer(200, file.content, {**headers, **BYTES, "ETag": f'"{file.blob_id}"'})
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    location = f"{hub.storage}/storage/{repository.kind}/{repository.id}/{file.sha256}"
    return Answer(302, b"Found", {**headers, "Location": location, "Content-Type": "text/plain"})


@route("GET", r"/storage/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def fetch(hub, request, kind, repo, oid):
    if request.token is not None:
        raise HubError(400, "InvalidRequest: a signed URL does not take an Authorization header")
    content = hub.repositories[kind, repo].objects[oid]
    return Answer(200, content, {**BYTES, "ETag": f'"{oid[:32]}"'})
