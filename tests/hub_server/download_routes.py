"""Files: `resolve` on the Hub itself, large ones from the storage it redirects to."""

import re

from .answers import Answer, HubError
from .repository_routes import find
from .routing import PAGE, REVISION, route


@route("GET", rf"{PAGE}/resolve/{REVISION}/(?P<path>.+)")
def resolve(hub, request, kind, repo, revision, path):
    repository = find(hub, request, kind, repo)
    commit, file = repository.file(revision, path)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if not file.lfs:
        return part_of(file.content, request, {**headers, "ETag": f'"{file.blob_id}"'})
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    location = f"{hub.storage}/storage/{repository.kind}/{repository.id}/{file.sha256}"
    return Answer(302, b"Found", {**headers, "Location": location, "Content-Type": "text/plain"})


@route("GET", r"/storage/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def fetch(hub, request, kind, repo, oid):
    if request.token is not None:
        raise HubError(400, "InvalidRequest: a signed URL does not take an Authorization header")
    content = hub.repositories[kind, repo].objects[oid]
    return part_of(content, request, {"ETag": f'"{oid[:32]}"', "Accept-Ranges": "bytes"})


def part_of(content: bytes, request, headers: dict[str, str]) -> Answer:
    """The whole content, or the range of it that the request asks for."""
    headers = {"Content-Type": "application/octet-stream", **headers}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None:
        return Answer(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= stop:
        raise HubError(416, "Requested Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})
