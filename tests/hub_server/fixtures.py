"""Pytest fixtures: a Hub with the client pointed at it, and a client that does not wait."""

import time
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest

from .client import pointed_at
from .server import HubServer


@pytest.fixture
def hub(tmp_path):
    """A fresh Hub; `huggingface_hub` and `transformers` of this process use it, logged in as `user`."""
    with HubServer() as server, pointed_at(server, tmp_path / "hf_home", server.token):
        yield server
    assert server.crashes == [], "\n".join(server.crashes)


@pytest.fixture
def waits():
    """The client does not sleep between its attempts; how long it would have, in seconds, is listed here."""
    waits = []
    clock = SimpleNamespace(**{**vars(time), "sleep": waits.append})
    with (
        mock.patch.object(huggingface_hub.utils._http, "time", clock),
        mock.patch.object(huggingface_hub.file_download, "time", clock),
    ):
        yield waits
