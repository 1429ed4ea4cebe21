"""What of a run's names may be public: repositories of the Hub, and last parts of paths."""

import pytest
from hub_server.faults import Refuse

from modeling_dvpo.hub.client import PublicNames, hub_api, public_config

pytest_plugins = ["hub_server.fixtures"]


@pytest.fixture
def names(hub, tmp_path, monkeypatch):
    hub.add_commit("org/policy", {})
    hub.add_commit("org/rewards", {}, repo_type="dataset")
    (tmp_path / "org" / "local").mkdir(parents=True)
    hub.add_commit("org/local", {})
    monkeypatch.chdir(tmp_path)
    return PublicNames(hub_api())


@pytest.mark.parametrize(
    ("name", "kind", "public"),
    [
        ("org/policy", "model", True),
        ("org/rewards", "dataset", True),
        ("org/rewards", "model", False),
        ("outputs/policy", "model", False),  # by its form it could be one
        ("org/local", "model", False),  # a directory here, which transformers would have taken
        ("/home/alice/policy", "model", False),
        ("../policy", "model", False),
        ("~/policy", "model", False),
        ("C:\\models\\policy", "model", False),
        (None, "model", False),
        ("", "model", False),
    ],
)
def test_repository(names, name, kind, public):
    assert names.repository(name, kind) == (name if public else None)


def test_the_hub_is_asked_once(hub, names):
    for _ in range(3):
        names.repository("org/policy")
    assert hub.count("GET", "/api/models/org/policy") == 1


def test_a_hub_that_fails_for_a_moment_hides_no_name(hub, names, waits, monkeypatch):
    monkeypatch.setattr("modeling_dvpo.hub.client.time.sleep", lambda seconds: None)
    hub.faults.add("GET", "/api/models/org/policy", Refuse(503))
    assert names.repository("org/policy") == "org/policy"


def test_without_paths(names):
    value = {
        "noise": ["flip=0.2", "bias=-1/2"],
        "rewards": ["package.module:f", "/home/alice/rewards.py:f", "org/policy", "C:\\alice\\rm"],
        "n": 3,
        "none": None,
    }
    assert names.without_paths(value) == {
        "noise": ["flip=0.2", "2"],
        "rewards": ["package.module:f", "rewards.py:f", "org/policy", "rm"],
        "n": 3,
        "none": None,
    }


def test_public_config(names):
    training = {
        "parent": "/home/alice/policy",
        "parent_revision": "main",
        "policy": "org/policy",
        "dataset": "org/rewards",
        "reward_source": "/home/alice/judge",
        "gamma": 1.0,
    }
    config = {"model_type": "qwen3", "_name_or_path": "/home/alice/critic", "critic_training": training}
    assert public_config(config, names) == {
        "model_type": "qwen3",
        "critic_training": {"policy": "org/policy", "dataset": "org/rewards", "reward_source": "judge", "gamma": 1.0},
    }
    assert training["parent"] == "/home/alice/policy"  # the original is as it was
    assert public_config({"model_type": "qwen3"}, names) == {"model_type": "qwen3"}
