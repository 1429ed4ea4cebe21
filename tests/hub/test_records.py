"""The record of a pair: what it says, and how two are compared."""

import json

import pytest

from modeling_dvpo.hub import NotAPairError
from modeling_dvpo.hub.records import (
    RECORD_FILE,
    changed_files,
    contradictions,
    make_record,
    parse_record,
    record_bytes,
    recorded_facts,
)
from modeling_dvpo.hub.targets import default_message, keep_pins


def test_recorded_facts_leave_out_what_is_unknown():
    config = {
        "num_value_heads": 3,
        "num_quantiles": 200,
        "value_head_type": "linear",
        "return_mean": 0.0,
        "return_scale": 1.0,
        "critic_loss": None,
        "critic_training": {"gamma": 0.0, "kl_in_reward": False, "target": None, "seed": 0, "evaluation": {"crps": 1}},
        "hidden_size": 8,
    }
    assert recorded_facts(config) == {
        "value": {
            "heads": 3,
            "quantiles": 200,
            "head_type": "linear",
            "return_mean": 0.0,
            "return_scale": 1.0,
            "gamma": 0.0,
            "kl_in_reward": False,
        },
        "training": {"seed": 0},
    }
    assert recorded_facts({}) == {}


def test_a_record_survives_being_written():
    record = make_record(
        role="critic",
        repo="a/b",
        model_type=None,
        files={"model.safetensors": "1"},
        paths=["model.safetensors", "größe.json"],
        facts={"value": {"heads": 3}},
        tokenizer=None,
        base_model=None,
        partner=None,
    )
    assert parse_record(record_bytes(record), "a/b") == record
    assert set(record) == {"format", "role", "repo", "files", "value", "paths"}
    assert RECORD_FILE in record["paths"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format"', b"\xff"])
def test_no_record(content):
    with pytest.raises(NotAPairError, match="dvpo_pair.json of a/b cannot be read"):
        parse_record(content, "a/b")


def test_changed_files():
    recorded, found = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"a": "1" * 64, "b": "4" * 64, "d": "5" * 64}
    assert changed_files(recorded, recorded) == []
    assert changed_files(recorded, found) == ["b is 444444444444…, recorded 222222222222…", "c is missing", "d is new"]


def test_contradictions():
    one = {"value": {"gamma": 1.0, "lam": 0.9}, "tokenizer": {"vocabulary": "1"}, "training": {"seed": 0}}
    other = {"value": {"gamma": 1.0, "lam": 0.8, "target": "index"}, "tokenizer": {"vocabulary": "2"}}
    assert contradictions(one, json.loads(json.dumps(one))) == []
    assert contradictions(one, other) == ["tokenizer.vocabulary", "training.seed", "value.lam", "value.target"]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ({"commit": "old"}, True),
        ({"commit": "old", "files": {"m": "2"}}, False),
        ({"commit": "old", "repo": "a/c"}, False),
        ({"commit": "old", "revision": "trial"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_commit_that_stands_for_the_same_files_is_kept(before, kept):
    """Else an edited card elsewhere would make a commit here."""
    same = {"repo": "a/b", "files": {"m": "1"}}
    now = {"partner": {**same, "commit": "new"}}
    pinned = keep_pins(now, None if before is None else {"partner": {**same, **before}})
    assert pinned == {"partner": {**same, "commit": "old" if kept else "new"}} and now["partner"]["commit"] == "new"


def test_the_record_of_the_one_pushed_first_names_no_commit_and_gets_none():
    now = {"partner": {"repo": "a/b", "files": {"m": "1"}}}
    assert keep_pins(now, {}) == keep_pins(now, {"partner": now["partner"]}) == now


def test_default_message():
    assert default_message("critic", {"training": {"step": 0}}) == "Upload critic of step 0"
    assert default_message("policy", {}) == "Upload policy"
