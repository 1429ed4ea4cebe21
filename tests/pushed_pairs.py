"""Fixtures: a pair on the Hub, made once and put into every test's own Hub."""

from pathlib import Path

import pytest
from conftest import tiny_tokenizer
from hub_changes import CRITIC, POLICY
from hub_server.fixtures import pointed_at
from hub_server.server import HubServer
from huggingface_hub import constants
from tiny_pairs import save_run

from modeling_dvpo.hub import client, push_pair


@pytest.fixture(scope="session")
def pushed_run(tmp_path_factory):
    """`last/` of a run, and the Hub's repositories after it was pushed."""
    folder = tmp_path_factory.mktemp("pushed")
    last = save_run(folder / "run", tiny_tokenizer._get_wrapped_function()())
    with HubServer() as server, pointed_at(server, folder / "home", server.token):
        push_pair(last, None, POLICY, CRITIC, card=False)
        return last, server.repositories


@pytest.fixture
def last(hub, pushed_run) -> Path:
    """A run whose pair is on the Hub; its files are not to be changed."""
    last, repositories = pushed_run
    for (kind, name), repository in repositories.items():
        hub.repositories[kind, name] = copy_of(repository)
    return last


def copy_of(repository):
    copy = object.__new__(type(repository))
    copy.__dict__ = {
        name: dict(value) if isinstance(value, dict) else value for name, value in vars(repository).items()
    }
    return copy


@pytest.fixture
def quick(monkeypatch, waits):
    """Nobody sleeps between attempts."""
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)


@pytest.fixture
def offline(monkeypatch):
    """A function that switches offline mode on."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
