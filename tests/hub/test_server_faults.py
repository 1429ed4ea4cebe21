"""Faults of the Hub server, and what the real client makes of each: the ground on which our own checks stand.

Several of these record what the client does *not* do. When a new release of it makes one fail, look whether our own
code still needs to make up for it.
"""

import huggingface_hub
import pytest
from hub_server.faults import (
    Before,
    Corrupt,
    CutDownload,
    CutUpload,
    Delay,
    DropAnswer,
    Refuse,
    Trouble,
    Truncate,
    too_many_requests,
)
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
)
from huggingface_hub.utils import httpx

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"
WEIGHTS = bytes(range(256)) * 400
FILES = {"a.bin": WEIGHTS, "a.txt": b"text" * 5000}
# where the content of each comes from
SOURCES = [("a.bin", "/storage/models/"), ("a.txt", "/resolve/")]


@pytest.fixture
def api(hub, waits):
    """The client's API, with an empty repository to work on."""
    api = HfApi()
    api.create_repo(REPO)
    return api


def push(api: HfApi, path: str = "a.bin", **settings):
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=FILES[path])]
    return api.create_commit(REPO, operations, commit_message="push", **settings)


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# --- uploads


@pytest.mark.parametrize("trouble", [CutUpload(1000), Refuse(500), Refuse(503), DropAnswer()])
def test_an_upload_in_trouble_is_tried_again(hub, api, waits, trouble):
    rule = hub.faults.add("PUT", "/storage/", trouble, times=2, after=0)
    push(api)
    assert rule.hits == 2 and waits == [1, 2]
    assert hub.files(REPO)["a.bin"] == WEIGHTS
    uploads = [request.upload for request in hub.requests if request.method == "PUT"]
    assert uploads == [1000 if isinstance(trouble, CutUpload) else len(WEIGHTS)] * 2 + [len(WEIGHTS)]


@pytest.mark.parametrize("trouble", [CutUpload(1000), Refuse(500)])
def test_after_six_attempts_an_upload_fails(hub, api, waits, trouble):
    rule = hub.faults.add("PUT", "/storage/", trouble, times=None)
    with pytest.raises(RuntimeError, match="Error while uploading 'a.bin'"):
        push(api)
    assert rule.hits == 6 and waits == [1, 2, 4, 8, 8]
    assert hub.count("POST", "/commit/") == 0


def test_bytes_changed_on_the_way_up_are_refused_and_not_sent_again(hub, api):
    class Flip(Trouble):
        def before(self, request):
            request.body = b"?" + request.body[1:]

    hub.faults.add("PUT", "/storage/", Flip())
    with pytest.raises(RuntimeError) as failure:
        push(api)
    assert isinstance(failure.value.__cause__, BadRequestError) and "BadDigest" in str(failure.value.__cause__)
    assert hub.count("PUT", "/storage/") == 1 and "a.bin" not in hub.files(REPO)


# --- commits


def test_a_lost_answer_hides_a_commit_that_happened(hub, api, waits):
    hub.faults.add("POST", "/commit/", DropAnswer())
    with pytest.raises(httpx.RemoteProtocolError):  # neither HfHubHTTPError nor OSError
        push(api)
    assert hub.files(REPO)["a.bin"] == WEIGHTS
    assert hub.count("POST", "/commit/") == 1 and waits == []
    # once more: no second commit, even with a parent that is not the newest any more
    theirs = hub.add_commit(REPO, {"b.txt": b"theirs"})
    assert push(api, parent_commit=hub.commits(REPO)[-1].sha).oid == theirs.sha  # not that of our own commit
    assert hub.count("POST", "/commit/") == 1


def test_after_a_lost_answer_deleting_again_fails(hub, api):
    hub.add_commit(REPO, FILES)
    hub.faults.add("POST", "/commit/", DropAnswer())
    for error in (httpx.RemoteProtocolError, RemoteEntryNotFoundError):
        with pytest.raises(error):
            api.create_commit(REPO, [CommitOperationDelete("a.bin")], commit_message="delete")
    assert "a.bin" not in hub.files(REPO)


def test_after_a_lost_answer_a_second_pull_request_opens(hub, api):
    hub.faults.add("POST", "/commit/.*create_pr=1", DropAnswer())
    with pytest.raises(httpx.RemoteProtocolError):
        push(api, create_pr=True)
    assert push(api, create_pr=True).pr_num == 2


@pytest.mark.parametrize("trouble", [Refuse(503), too_many_requests(3), CutUpload(100)])
def test_a_commit_is_tried_once(hub, api, waits, trouble):
    hub.faults.add("POST", "/commit/", trouble)
    with pytest.raises(httpx.RemoteProtocolError if isinstance(trouble, CutUpload) else HfHubHTTPError):
        push(api)
    assert waits == [] and len(hub.commits(REPO)) == 1
    push(api)
    assert hub.files(REPO)["a.bin"] == WEIGHTS


def test_other_calls_of_a_push_wait_as_they_are_told(hub, api, waits):
    hub.faults.add("POST", "/preupload/", too_many_requests(7), times=2)
    hub.faults.add("POST", "/objects/batch", Refuse(503, {"Retry-After": "5"}))
    push(api)
    assert waits == [8, 8, 6]  # a second more than asked for


def test_looking_and_creating_are_tried_once(hub, api, waits):
    hub.faults.add("GET", "/api/models/", too_many_requests(1))
    hub.faults.add("POST", "/api/repos/create", Refuse(503))
    with pytest.raises(HfHubHTTPError, match="429 Too Many Requests.*'api' rate limit"):
        api.model_info(REPO)
    with pytest.raises(HfHubHTTPError, match="503"):
        api.create_repo("other")
    assert waits == []


def test_a_commit_slips_in_between(hub, api):
    hub.faults.add("POST", "/commit/", Before(lambda: hub.add_commit(REPO, {"a.bin": b"theirs"})), times=2)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        push(api, parent_commit=api.model_info(REPO).sha)
    assert hub.files(REPO)["a.bin"] == b"theirs"
    push(api)  # without a parent theirs is overwritten
    assert hub.files(REPO)["a.bin"] == WEIGHTS


def test_a_commit_has_no_time_limit(hub, api, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    rule = hub.faults.add("POST", "/commit/", Delay(0.5))
    push(api)
    assert rule.hits == 1


# --- downloads


@pytest.mark.parametrize(("path", "source"), SOURCES)
def test_a_download_cut_short_is_tried_again(hub, api, waits, path, source):
    hub.add_commit(REPO, FILES)
    rule = hub.faults.add("GET", source, CutDownload(1000), times=5)
    assert content(api.hf_hub_download(REPO, path)) == FILES[path]
    assert rule.hits == 5 and waits == [1] * 5
    # from the beginning, as less than a piece of 10 MiB had come
    assert all("range" not in request.headers for request in hub.requests)


def test_a_download_is_resumed_after_whole_pieces(hub, api, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", "/storage/", CutDownload(2500))
    assert content(api.hf_hub_download(REPO, "a.bin")) == WEIGHTS
    assert hub.requests[-1].headers["range"] == "bytes=2000-" and hub.requests[-1].status == 206


def test_a_download_that_ends_early_for_ever_fails(hub, api, waits):
    hub.add_commit(REPO, FILES)
    rule = hub.faults.add("GET", "/storage/", CutDownload(0), times=None)
    with pytest.raises(httpx.RemoteProtocolError):
        api.hf_hub_download(REPO, "a.bin")
    assert rule.hits == 6 and waits == [1] * 5


@pytest.mark.parametrize(
    ("trouble", "error"), [(CutDownload(1000, reset=True), httpx.ReadError), (Refuse(503), HfHubHTTPError)]
)
@pytest.mark.parametrize(("path", "source"), SOURCES)
def test_a_reset_or_an_error_of_the_server_ends_a_download(hub, api, waits, path, source, trouble, error):
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", source, trouble)
    with pytest.raises(error):
        api.hf_hub_download(REPO, path)
    assert waits == []
    assert content(api.hf_hub_download(REPO, path)) == FILES[path]


def test_a_download_waits_when_told_and_when_slow(hub, api, waits, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", "/storage/", too_many_requests(2))
    hub.faults.add("GET", "/storage/", Delay(0.5), after=1)
    assert content(api.hf_hub_download(REPO, "a.bin")) == WEIGHTS
    assert waits == [3, 1]


@pytest.mark.parametrize(("path", "source"), SOURCES)
def test_a_size_that_is_not_the_announced_one_is_noticed(hub, api, path, source):
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", source, Truncate(1000))
    with pytest.raises(OSError, match=f"should be of size {len(FILES[path])} but has size 1000"):
        api.hf_hub_download(REPO, path)


@pytest.mark.parametrize(("path", "source"), SOURCES)
def test_changed_bytes_of_the_same_size_are_not_noticed(hub, api, path, source):
    """They stay in the cache and are served from it; only a comparison of checksums or a forced download helps."""
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", source, Corrupt(position=5))
    damaged = content(api.hf_hub_download(REPO, path))
    assert damaged != FILES[path] and damaged[6:] == FILES[path][6:]
    assert content(huggingface_hub.snapshot_download(REPO) + f"/{path}") == damaged
    verification = api.verify_repo_checksums(REPO)
    assert [one["path"] for one in verification.mismatches] == [path]
    assert verification.mismatches[0]["algorithm"] == ("sha256" if path == "a.bin" else "git-sha1")
    assert content(api.hf_hub_download(REPO, path, force_download=True)) == FILES[path]
    assert api.verify_repo_checksums(REPO).mismatches == []


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_stale_file_is_served_silently_where_the_hub_refuses(hub, api, waits, status):
    hub.add_commit(REPO, {"a.txt": b"old"})
    old = api.hf_hub_download(REPO, "a.txt")
    hub.add_commit(REPO, {"a.txt": b"new"})
    hub.faults.add("HEAD", "/resolve/", Refuse(status), times=None)
    assert api.hf_hub_download(REPO, "a.txt") == old
    hub.faults.clear()
    assert content(api.hf_hub_download(REPO, "a.txt")) == b"new"


def test_without_a_cached_file_the_hub_is_asked_seven_times(hub, api, waits):
    hub.add_commit(REPO, FILES)
    rule = hub.faults.add("HEAD", "/resolve/", Refuse(503), times=None)
    with pytest.raises(LocalEntryNotFoundError):  # which is a FileNotFoundError
        api.hf_hub_download(REPO, "a.bin")
    assert rule.hits == 7 and waits == [1, 2, 4, 8, 8]


def test_a_snapshot_asks_once_for_the_revision_and_often_for_the_tree(hub, api, waits):
    hub.add_commit(REPO, FILES)
    hub.faults.add("GET", "/revision/", Refuse(503))
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(REPO)
    hub.faults.add("GET", "/tree/", Refuse(503), times=2)
    assert content(api.snapshot_download(REPO) + "/a.bin") == WEIGHTS
    assert waits == [1, 2]
