"""Pushing while training: on time, in the background, and never at training's cost."""

import concurrent.futures
import shutil
import threading
import warnings

import pytest
from hub_changes import CRITIC, POLICY
from hub_server.faults import Before, Refuse
from tiny_pairs import nudge, save_critic, save_run

from modeling_dvpo.hub import PushEvery, PushFailedError, pull_pair, staging

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


@pytest.fixture
def critic(tmp_path, tiny_tokenizer):
    return save_critic(tmp_path / "run" / "last", tiny_tokenizer)


def wait(pushing):
    concurrent.futures.wait([pushing._on_its_way])


def pushing_to(repo=CRITIC, **options):
    return PushEvery(repo, card=False, **options)


def test_is_due_every_n_steps():
    assert [step for step in range(1, 10) if pushing_to(every=3).is_due(step)] == [3, 6, 9]
    assert not any(pushing_to().is_due(step) for step in range(10))
    with pytest.raises(ValueError, match="every is -1"):
        pushing_to(every=-1)


def test_pushes_what_is_saved_then_and_what_is_there_at_the_end(hub, critic):
    pushing = pushing_to(every=1)
    pushing(critic, 1)
    wait(pushing)
    first = hub.files(CRITIC)["model.safetensors"]
    assert first == (critic / "model.safetensors").read_bytes()
    nudge(critic)
    pushing.finish(critic, 2)
    assert hub.files(CRITIC)["model.safetensors"] == (critic / "model.safetensors").read_bytes() != first
    assert [commit.title for commit in hub.commits(CRITIC)[:2]] == ["Step 2", "Step 1"]
    assert [path.name for path in critic.parent.iterdir()] == ["last"]  # nothing is left beside it


def test_what_is_saved_while_a_push_is_on_its_way_is_not_mixed_in(hub, critic):
    saved = (critic / "model.safetensors").read_bytes()
    started, go_on = threading.Event(), threading.Event()

    def hold():
        started.set()
        assert go_on.wait(10)

    hub.faults.add("POST", "/preupload/", Before(hold))
    pushing = pushing_to(every=1)
    pushing(critic, 1)
    assert started.wait(10)
    shutil.rmtree(critic)  # as a save does that puts a new directory in its place
    with pytest.warns(UserWarning, match="Step 2 is not pushed to user/critic: the push before is still on its way"):
        pushing(critic, 2)
    go_on.set()
    wait(pushing)
    assert hub.files(CRITIC)["model.safetensors"] == saved


def test_a_failure_is_a_warning_at_the_next_push_and_an_error_at_the_end(hub, critic, quick):
    hub.faults.add("POST", "/commit/", Refuse(500), times=None)
    pushing = pushing_to(every=1)
    pushing(critic, 1)
    wait(pushing)
    with pytest.warns(UserWarning, match="A push to user/critic failed, and training goes on: .*PushFailedError"):
        pushing(critic, 2)
    wait(pushing)
    with (
        pytest.warns(UserWarning),
        pytest.raises(PushFailedError, match="run is complete.*dvpo push .*last user/critic"),
    ):
        pushing.finish(critic, 3)
    hub.faults.clear()
    pushing.finish(critic, 3)
    assert "config.json" in hub.files(CRITIC)


def test_a_pair(hub, tmp_path, tiny_tokenizer):
    last = save_run(tmp_path / "run", tiny_tokenizer)
    pushing_to((POLICY, CRITIC)).finish(last, 12)
    assert pull_pair(POLICY).warnings == ()


def test_rank_0_alone(hub, critic, monkeypatch):
    monkeypatch.setattr(staging.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(staging.dist, "get_rank", lambda: 1)
    pushing = pushing_to(every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pushing(critic, 1)
        pushing.finish(critic, 1)
    assert hub.requests == []
