"""The Hub server of the tests, driven by the real client over HTTP."""

import hashlib

import huggingface_hub
import pytest
from hub_server.faults import CutUpload
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"
WEIGHTS = bytes(range(256)) * 20


@pytest.fixture
def api(hub):
    """The client's API, with an empty repository to work on."""
    api = HfApi()
    api.create_repo(REPO)
    return api


def write_files(folder, files: dict[str, bytes]):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_folder_goes_up_and_comes_down(hub, tmp_path, repo_type):
    files = {"a.txt": b"hello", "sub/model.safetensors": WEIGHTS, "sub/b.json": b"{}", "picture": b"\0\1"}
    huggingface_hub.create_repo(REPO, repo_type=repo_type)
    folder = write_files(tmp_path / "folder", files)
    commit = huggingface_hub.upload_folder(repo_id=REPO, folder_path=folder, repo_type=repo_type)
    held = hub.files(REPO, repo_type=repo_type)
    assert {path: held[path] for path in held if path != ".gitattributes"} == files
    assert hub.commits(REPO, repo_type=repo_type)[0].sha == commit.oid
    snapshot = huggingface_hub.snapshot_download(REPO, repo_type=repo_type)
    assert {path: open(f"{snapshot}/{path}", "rb").read() for path in files} == files
    # by its name the one, for its zero byte the other, and nobody's token went to the storage
    large = [request for request in hub.requests if request.path.startswith("/storage/")]
    assert [request.method for request in large].count("PUT") == 2
    assert [request.method for request in large].count("GET") == 2
    assert all(request.token is None for request in large) and hub.requests[0].token == hub.token


def test_a_large_file_in_parts(hub, api, waits):
    hub.part_size = 1000
    hub.faults.add("PUT", "/storage/upload/.*/2$", CutUpload(300))
    api.upload_file(repo_id=REPO, path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors")
    uploads = [request.upload for request in hub.requests if request.method == "PUT"]
    assert uploads == [1000, 300, 1000, 1000, 1000, 1000, 120]
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS
    complete = next(request for request in hub.requests if "/complete/" in request.path)
    wrong = complete.body.replace(b"}]", b'}, {"partNumber": 7, "etag": "x"}]')
    assert huggingface_hub.utils.get_session().post(hub.endpoint + complete.path, content=wrong).status_code == 400


def test_content_that_is_there_already_is_not_sent_again(hub, api):
    api.upload_file(repo_id=REPO, path_or_fileobj=WEIGHTS, path_in_repo="a.bin")
    api.upload_file(repo_id=REPO, path_or_fileobj=WEIGHTS, path_in_repo="b.bin")
    assert hub.count("PUT", "/storage/") == 1
    assert hub.files(REPO)["b.bin"] == WEIGHTS


def test_files_that_did_not_change_make_no_commit(hub, api):
    for _ in range(2):
        api.create_commit(REPO, [add("a.txt", b"same"), add("a.bin", WEIGHTS)], commit_message="same")
    assert [commit.title for commit in hub.commits(REPO)] == ["same", "initial commit"]
    assert api.create_commit(REPO, [], commit_message="nothing").oid == hub.commits(REPO)[0].sha
    assert hub.count("POST", "/commit/") == 1


def test_only_content_with_its_checksum_is_accepted(hub, api):
    session = huggingface_hub.utils.get_session()
    url = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch"
    headers = {"authorization": f"Bearer {hub.token}"}
    described = {"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}
    answer = session.post(url, json={"objects": [described]}, headers=headers).json()
    href = answer["objects"][0]["actions"]["upload"]["href"]
    assert session.put(href, content=b"wrong").status_code == 400
    assert session.put(href, content=b"right").status_code == 200
    # a body in chunks, of no length known before
    assert session.put(href, content=iter([b"ri", b"ght"])).status_code == 200


def test_a_commit_of_a_large_file_never_uploaded_is_refused(hub, api):
    operation = add("model.safetensors", WEIGHTS)
    operation._is_uploaded, operation._upload_mode = True, "lfs"
    with pytest.raises(BadRequestError, match="pointed to a file that does not exist"):
        api.create_commit(REPO, [operation], commit_message="cheat")
    assert len(hub.commits(REPO)) == 1


def test_delete_and_copy(hub, api):
    files = [add("a.bin", WEIGHTS), add("a.txt", b"text"), add("old/x", b"x"), add("old/y/z", b"z")]
    api.create_commit(REPO, files, commit_message="files")
    operations = [CommitOperationCopy("a.bin", "b.bin"), CommitOperationCopy("a.txt", "b.txt")]
    operations += [CommitOperationDelete("a.bin"), CommitOperationDelete("old/")]
    api.create_commit(REPO, operations, commit_message="move")
    held = hub.files(REPO)
    assert sorted(held) == [".gitattributes", "a.txt", "b.bin", "b.txt"]
    assert held["b.bin"] == WEIGHTS and held["b.txt"] == b"text"
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("a.bin", REPO)


def test_files_to_ignore_are_left_out(hub, api, tmp_path):
    folder = write_files(tmp_path, {".gitignore": b"*.log\nlogs/\n", "a.txt": b"a", "x.log": b"", "logs/b.txt": b"b"})
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert sorted(hub.files(REPO)) == [".gitattributes", ".gitignore", "a.txt"]


def test_a_commit_on_an_old_parent_is_refused(hub, api):
    parent = api.model_info(REPO).sha
    hub.add_commit(REPO, {"a.txt": b"theirs"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refusal:
        api.create_commit(REPO, [add("a.txt", b"mine")], commit_message="mine", parent_commit=parent)
    assert refusal.value.response.status_code == 412
    assert hub.files(REPO)["a.txt"] == b"theirs"
    api.create_commit(REPO, [add("a.txt", b"mine")], commit_message="mine", parent_commit=hub.commits(REPO)[0].sha)
    assert hub.files(REPO)["a.txt"] == b"mine"


def test_old_revisions_resolve(hub, api):
    commits = [hub.add_commit(REPO, {"a.txt": text}) for text in (b"one", b"two")]
    api.create_tag(REPO, tag="v1", revision=commits[0].sha)
    api.create_branch(REPO, branch="dev/x", revision="v1")
    hub.add_commit(REPO, {"a.txt": b"on dev"}, revision="dev/x")
    for revision, expected in {"main": b"two", "v1": b"one", commits[0].sha: b"one", "dev/x": b"on dev"}.items():
        with open(api.hf_hub_download(REPO, "a.txt", revision=revision), "rb") as file:
            assert file.read() == expected, revision
    assert [commit.commit_id for commit in api.list_repo_commits(REPO, revision="v1")][0] == commits[0].sha


def test_branches_and_tags(hub, api):
    api.create_branch(REPO, branch="dev")
    api.create_tag(REPO, tag="v1")
    with pytest.raises(HfHubHTTPError, match="already exists"):
        api.create_branch(REPO, branch="dev")
    api.create_branch(REPO, branch="dev", exist_ok=True)
    api.create_tag(REPO, tag="v1", exist_ok=True)
    references = api.list_repo_refs(REPO)
    assert [branch.name for branch in references.branches] == ["main", "dev"]
    assert [tag.ref for tag in references.tags] == ["refs/tags/v1"]
    api.delete_branch(REPO, branch="dev")
    api.delete_tag(REPO, tag="v1")
    for gone in ("dev", "v1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision=gone)
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1")


def test_a_pull_request(hub, api):
    commit = api.create_commit(REPO, [add("a.bin", WEIGHTS)], commit_message="new", create_pr=True)
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert "a.bin" not in hub.files(REPO) and hub.files(REPO, "refs/pr/1")["a.bin"] == WEIGHTS
    api.upload_file(repo_id=REPO, path_or_fileobj=b"more", path_in_repo="b.txt", revision="refs/pr/1")
    assert api.list_repo_refs(REPO, include_pull_requests=True).pull_requests[0].ref == "refs/pr/1"
    hub.add_commit(REPO, {"c.txt": b"theirs"})
    api.merge_pull_request(REPO, 1)
    assert {"a.bin", "b.txt", "c.txt"} <= hub.files(REPO).keys()
    details = api.get_discussion_details(REPO, 1)
    assert (details.status, details.merge_commit_oid) == ("merged", hub.commits(REPO)[0].sha)
    second = api.create_pull_request(REPO, "another", description="why")
    assert (second.num, second.events[0].content) == (2, "why")
    assert [discussion.num for discussion in api.get_repo_discussions(REPO)] == [1, 2]


def test_who_may_do_what(hub, api):
    other = HfApi(token=hub.add_token("other"))
    reader = HfApi(token=hub.read_token)
    stranger = HfApi(token=False)
    file = {"repo_id": REPO, "path_or_fileobj": b"a", "path_in_repo": "a.txt"}
    assert [one.whoami()["name"] for one in (api, other)] == ["user", "other"]
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    for one, status in {reader: 403, other: 403, stranger: 401}.items():
        with pytest.raises(HfHubHTTPError) as refusal:
            one.upload_file(**file)
        assert refusal.value.response.status_code == status
    assert other.upload_file(**file, create_pr=True).pr_num == 1  # anybody may propose
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_nobody").whoami()

    api.update_repo_settings(REPO, private=True)
    assert reader.model_info(REPO).private and not list(other.list_models(author="user"))
    for one, status in {other: 404, stranger: 401}.items():
        with pytest.raises(RepositoryNotFoundError) as refusal:
            one.model_info(REPO)
        assert refusal.value.response.status_code == status
    member = HfApi(token=hub.add_token("third", organizations=("lab",)))
    assert member.create_repo("lab/model").repo_id == "lab/model"
    with pytest.raises(HfHubHTTPError, match="don't have the rights"):
        member.create_repo("other/model")


def test_a_gated_repository_shows_itself_but_not_its_files(hub, api):
    hub.add_commit(REPO, {"a.txt": b"a"})
    api.update_repo_settings(REPO, gated="auto")
    other = HfApi(token=hub.add_token("other"))
    assert other.model_info(REPO).gated == "auto"
    with pytest.raises(GatedRepoError):
        other.hf_hub_download(REPO, "a.txt")
    api.hf_hub_download(REPO, "a.txt")


def test_what_is_not_there(hub, api):
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "missing.txt")
    assert not api.file_exists(REPO, "missing.txt")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "a.txt", revision="missing")
    for name in ("user/missing", "missing"):
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(name, "a.txt")
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(name)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "missing"))
    with pytest.raises(HfHubHTTPError, match="no route"):
        api.super_squash_history(REPO)


def test_repositories_come_and_go(hub, api):
    with pytest.raises(HfHubHTTPError, match="You already created") as refusal:
        api.create_repo(REPO)
    assert refusal.value.response.status_code == 409
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert api.create_repo("bare").repo_id == "user/bare"
    assert [model.id for model in api.list_models(author="user")] == [REPO, "user/bare"]
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    api.delete_repo(REPO, missing_ok=True)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_what_the_hub_tells_of_files(hub, api):
    first = hub.add_commit(REPO, {"sub/a.bin": WEIGHTS, "b.txt": b"b"}, message="first")
    second = hub.add_commit(REPO, {"b.txt": b"c"}, message="second")
    siblings = {sibling.rfilename: sibling for sibling in api.model_info(REPO, files_metadata=True).siblings}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert siblings["sub/a.bin"].size == 5120 and siblings["sub/a.bin"].lfs.sha256 == sha256
    # of `git hash-object` for a file with the single letter c
    assert siblings["b.txt"].blob_id == "3410062ba67c5ed59b854387a8bc0ec012479368" and siblings["b.txt"].lfs is None
    top = {entry.path for entry in api.list_repo_tree(REPO)}
    assert top == {".gitattributes", "b.txt", "sub"}
    everything = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert everything["sub/a.bin"].lfs.sha256 == sha256
    assert everything["sub/a.bin"].last_commit.oid == everything["sub"].last_commit.oid == first.sha
    assert everything["b.txt"].last_commit.title == "second"
    assert [entry.path for entry in api.list_repo_tree(REPO, "sub")] == ["sub/a.bin"]
    assert [entry.path for entry in api.get_paths_info(REPO, ["sub", "b.txt", "missing"])] == ["b.txt", "sub"]
    assert set(api.list_repo_files(REPO, revision=second.sha)) == {".gitattributes", "b.txt", "sub/a.bin"}


def test_parts_of_files(hub, api):
    hub.add_commit(REPO, {"a.bin": WEIGHTS, "a.txt": b"0123456789"})
    session = huggingface_hub.utils.get_session()
    for path, content in {"a.bin": WEIGHTS, "a.txt": b"0123456789"}.items():
        url = huggingface_hub.hf_hub_url(REPO, path)
        answers = [session.get(url, headers={"Range": f"bytes={part}"}) for part in ("2-4", "7-", "-3", "99999-")]
        assert [answer.status_code for answer in answers] == [206, 206, 206, 416]
        assert [answer.content for answer in answers[:3]] == [content[2:5], content[7:], content[-3:]]
        assert answers[0].headers["Content-Range"] == f"bytes 2-4/{len(content)}"
