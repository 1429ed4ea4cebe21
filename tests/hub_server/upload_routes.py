"""Before a commit: which files are large, and the upload of those to the storage."""

import base64
import hashlib
import secrets
from dataclasses import dataclass

from .answers import Answer, HubError
from .repositories import Repository, matches
from .repository_routes import find
from .routing import API, PAGE, REVISION, route


@dataclass
class Upload:
    """A large file on its way; whoever knows its ticket may send it, as with a signed URL."""

    repository: Repository
    oid: str
    size: int

    def store(self, content: bytes) -> None:
        if len(content) != self.size or hashlib.sha256(content).hexdigest() != self.oid:
            raise HubError(400, f"BadDigest: the content is not that of {self.oid} with {self.size} bytes")
        self.repository.objects[self.oid] = content


@route("POST", rf"{API}/preupload/{REVISION}")
def preupload(hub, request, kind, repo, revision):
    repository = find(hub, request, kind, repo, "propose" if request.flag("create_pr") else "write")
    body = request.json()
    tree = repository.at(revision).tree
    ignored = body.get("gitIgnore")
    if ignored is None:
        ignored = tree[".gitignore"].content.decode() if ".gitignore" in tree else ""
    patterns = [line.strip() for line in ignored.splitlines() if line.strip() and not line.startswith("#")]
    files = []
    for file in body["files"]:
        path, sample = file["path"], base64.b64decode(file["sample"])
        large = repository.is_large(revision, path, sample)
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": matches(path, patterns)}
        if path in tree:
            answer["oid"] = tree[path].sha256 if tree[path].lfs else tree[path].blob_id
        files.append(answer)
    return Answer.json({"files": files, "commitOid": repository.at(revision).sha})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
def batch(hub, request, kind, repo):
    repository = find(hub, request, kind, repo, "propose")
    objects = [{"oid": one["oid"], "size": one["size"]} for one in request.json()["objects"]]
    for described in objects:
        if described["oid"] not in repository.objects:
            described["actions"] = actions(hub, repository, described["oid"], described["size"])
    return Answer.json({"transfer": "basic", "objects": objects})


def actions(hub, repository: Repository, oid: str, size: int) -> dict:
    ticket = secrets.token_hex(8)
    hub.uploads[ticket] = Upload(repository, oid, size)
    verify = f"{hub.endpoint}{repository.page}.git/info/lfs/verify"
    return {"upload": {"href": f"{hub.storage}/storage/upload/{ticket}"}, "verify": {"href": verify}}


@route("PUT", "/storage/upload/(?P<ticket>[0-9a-f]+)")
def receive(hub, request, ticket):
    hub.uploads[ticket].store(request.body)
    return Answer(200)


@route("POST", rf"{PAGE}\.git/info/lfs/verify")
def verify(hub, request, kind, repo):
    repository = find(hub, request, kind, repo, "propose")
    content = repository.objects.get(request.json()["oid"])
    if content is None or len(content) != request.json()["size"]:
        raise HubError(404, "LFS object not found or of another size")
    return Answer.json({})
