"""The Hub server of the tests, by way of the real client: what other tests take for granted, and would not miss.

A fault that did not strike, or a card's rule that never fired, would let them pass for nothing.
"""

import hashlib
import os

import huggingface_hub
import pytest
from hub_server import HubServer
from hub_server.card_routes import check_card
from hub_server.client import pointed_at
from hub_server.faults import Corrupt, CutDownload, CutUpload, Delay, DropAnswer, Refuse, Truncate, too_many_requests
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from huggingface_hub.utils import get_session, httpx

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"
WEIGHTS = bytes(range(256)) * 20
FILES = {"a.bin": WEIGHTS, "a.txt": b"0123456789" * 500}


@pytest.fixture
def api(hub, waits):
    hub.add_commit(REPO, FILES)
    return HfApi()


def get(path="a.txt", **options):
    return get_session().get(huggingface_hub.hf_hub_url(REPO, path), follow_redirects=True, **options)


def commit(api):
    return api.create_commit(REPO, [CommitOperationAdd("b.bin", b"\0new")], commit_message="new")


class TestFaults:
    @pytest.mark.parametrize(
        ("trouble", "error"),
        [
            (CutDownload(1000), httpx.RemoteProtocolError),
            (CutDownload(1000, reset=True), httpx.ReadError),
            (DropAnswer(), httpx.RemoteProtocolError),
            (Delay(0.5), httpx.ReadTimeout),
        ],
    )
    def test_no_answer(self, hub, api, trouble, error):
        hub.faults.add("GET", "/resolve/", trouble)
        with pytest.raises(error):
            get(timeout=0.2)
        assert get().content == FILES["a.txt"]

    @pytest.mark.parametrize("path", FILES)
    def test_another_answer(self, hub, api, path):
        whole = FILES[path]
        for trouble, status, content in (
            (Corrupt(5), 200, whole[:5] + bytes([whole[5] ^ 0xFF]) + whole[6:]),
            (Truncate(1000), 200, whole[:1000]),
            (Refuse(503), 503, b"refused by a fault"),
            (too_many_requests(7), 429, b"Too many requests"),
        ):
            hub.faults.add("GET", "/storage/" if path == "a.bin" else "/resolve/", trouble)
            answer = get(path)
            assert (answer.status_code, answer.content) == (status, content)
            assert get(path).content == whole

    def test_times_and_after(self, hub, api):
        rule = hub.faults.add("GET", "a.txt", Refuse(500), times=2, after=1)
        assert [get().status_code for _ in range(5)] == [200, 500, 500, 200, 200]
        assert rule.hits == 2 and hub.count("GET", "a.txt") == 5

    def test_an_upload_that_is_cut_arrives_in_part(self, hub, api):
        hub.faults.add("PUT", "/storage/", CutUpload(2))
        commit(api)
        assert [request.upload for request in hub.requests if request.method == "PUT"] == [2, 4]


class TestWhatTheClientDoesNot:
    """The ground on which our own checks stand: should a new release of it do more, ours may do less."""

    @pytest.mark.parametrize(("path", "source"), [("a.bin", "/storage/models/"), ("a.txt", "/resolve/")])
    def test_changed_bytes_of_the_same_size_are_not_noticed(self, hub, api, path, source):
        hub.faults.add("GET", source, Corrupt())
        for _ in range(2):  # downloaded, and from the cache
            with open(api.hf_hub_download(REPO, path), "rb") as file:
                assert file.read() == bytes([FILES[path][0] ^ 0xFF]) + FILES[path][1:]

    @pytest.mark.parametrize("trouble", [Refuse(503), too_many_requests(3), DropAnswer()])
    def test_a_commit_is_tried_once_even_if_it_happened(self, hub, api, waits, trouble):
        hub.faults.add("POST", "/commit/", trouble)
        with pytest.raises((httpx.RemoteProtocolError, HfHubHTTPError)):
            commit(api)
        assert waits == [] and hub.count("POST", "/commit/") == 1
        assert ("b.bin" in hub.files(REPO)) == isinstance(trouble, DropAnswer)

    def test_what_a_gitignore_hides_is_left_out_silently(self, hub, api):
        hub.add_commit(REPO, {".gitignore": b"*.bin\n"})
        commit(api)
        assert "b.bin" not in hub.files(REPO)


def test_only_content_with_its_checksum_is_kept(hub, api):
    described = {"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}
    url, headers = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch", {"authorization": f"Bearer {hub.token}"}
    answer = get_session().post(url, json={"objects": [described]}, headers=headers).json()
    href = answer["objects"][0]["actions"]["upload"]["href"]
    assert [get_session().put(href, content=body).status_code for body in (b"wrong", b"right")] == [400, 200]
    operation = CommitOperationAdd("never-sent.safetensors", WEIGHTS + b"other")
    operation._is_uploaded, operation._upload_mode = True, "lfs"
    with pytest.raises(BadRequestError, match="pointed to a file that does not exist"):
        api.create_commit(REPO, [operation], commit_message="cheat")


RESULT = "{{task: {{type: x}}, dataset: {{type: d, name: D}}, metrics: [{}]}}"
INDEX = "model-index: [{{name: m, results: [{}]}}]"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("license: my-own", '"license" must be one of'),
        ("base_model_relation: critic", '"base_model_relation" must be one of'),
        ("base_model: https://example.org/model", '"base_model" with value'),
        ("tags: critic", '"tags" must be an array'),
        ("tags: [1]", "array of strings"),
        ("library_name: [a]", '"library_name" must be a string'),
        ("model-index: {name: m}", '"model-index" must be an array'),
        ("model-index: [{results: []}]", '"model-index[0].name" is required'),
        (INDEX.format("{task: {type: x}, metrics: []}"), 'results[0].dataset" is required'),
        (INDEX.format(RESULT.format("{type: accuracy}")), 'metrics[0].value" is required'),
        ("a: [", "YAML Metadata Error"),
        (
            "license: mit\nbase_model: org/base\ndatasets: org/d\n"
            + INDEX.format(RESULT.format("{type: a, value: 1}")),
            None,
        ),
    ],
)
def test_the_hubs_rules_for_cards(metadata, error):
    errors = check_card(f"---\n{metadata}\n---\n# A card\n")
    assert error in errors[0] if error else errors == []


def test_the_client_is_as_it_was_afterwards(tmp_path):
    def state():
        return dict(vars(constants)), huggingface_hub.hf_api.api.endpoint

    before, variables = state(), dict(os.environ)
    with HubServer() as hub, pointed_at(hub, tmp_path, hub.token):
        assert all(old != new for old, new in zip(before, state(), strict=True))
        HfApi().create_repo(REPO)
        assert hub.files(REPO)
    assert state() == before and dict(os.environ) == variables
