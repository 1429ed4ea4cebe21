"""The Hub server of the tests, driven by the real client; what the client itself does when things go wrong."""

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"


@pytest.fixture
def api(hub):
    """The client's API, with an empty repository to work on."""
    api = HfApi()
    api.create_repo(REPO)
    return api


def test_an_upload_comes_back(hub, api, tmp_path):
    files = {"a.txt": b"hello", "sub/model.safetensors": bytes(range(256)) * 20, "sub/b.json": b"{}"}
    for path, content in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    commit = api.upload_folder(repo_id=REPO, folder_path=tmp_path / "folder")
    assert hub.files(REPO).items() >= files.items()
    assert [one.sha for one in hub.commits(REPO)][0] == commit.oid
    snapshot = huggingface_hub.snapshot_download(REPO)
    for path, content in files.items():
        with open(f"{snapshot}/{path}", "rb") as file:
            assert file.read() == content
    assert hub.count("PUT", "/storage/upload/") == 1 and hub.count("GET", "/storage/models/") == 1
