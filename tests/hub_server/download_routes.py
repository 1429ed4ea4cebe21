"""Files: `resolve` on the Hub itself, large ones from the storage it redirects to."""

from .answers import Answer, HubError
from .repository_routes import find
from .routing import PAGE, REVISION, route

BYTES = {"Content-Type": "application/octet-stream"}


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
