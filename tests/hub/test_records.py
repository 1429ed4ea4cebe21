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
    assert changed_files(recorded, found) == [
        "b is 444444444444…, recorded 222222222222…",
        "c is missing",
        "d is new",
    ]


def test_contradictions():
    one = {"value": {"gamma": 1.0, "lam": 0.9}, "tokenizer": {"vocabulary": "1"}, "training": {"seed": 0}}
    other = {"value": {"gamma": 1.0, "lam": 0.8, "target": "index"}, "tokenizer": {"vocabulary": "2"}}
    assert contradictions(one, json.loads(json.dumps(one))) == []
    assert contradictions(one, other) == ["tokenizer.vocabulary", "training.seed", "value.lam", "value.target"]


class TestPins:
    """A commit that stands for the same files is kept, so that an edited card elsewhere makes no commit here."""

    def test_of_the_same_files_are_kept(self):
        before = {"partner": {"repo": "a/b", "files": {"m": "1"}, "commit": "old"}}
        now = {"partner": {"repo": "a/b", "files": {"m": "1"}, "commit": "new"}}
        assert keep_pins(now, before) == before and now["partner"]["commit"] == "new"

    @pytest.mark.parametrize("change", [{"files": {"m": "2"}}, {"repo": "a/c"}, {"revision": "trial"}])
    def test_of_other_files_are_new(self, change):
        before = {"partner": {"repo": "a/b", "files": {"m": "1"}, "commit": "old"}}
        now = {"partner": {"repo": "a/b", "files": {"m": "1"}, "commit": "new", **change}}
        assert keep_pins(now, before) == now

    def test_there_were_none(self):
        now = {"partner": {"repo": "a/b", "files": {"m": "1"}, "commit": "new"}}
        assert keep_pins(now, None) == now == keep_pins(now, {})
        assert keep_pins(now, {"partner": {"repo": "a/b", "files": {"m": "1"}}}) == now

    def test_a_first_push_has_none_and_gets_none(self):
        now = {"partner": {"repo": "a/b", "files": {"m": "1"}}}
        assert "commit" not in keep_pins(now, {})["partner"]


def test_default_message():
    assert default_message("critic", {"training": {"step": 0}}) == "Upload critic of step 0"
    assert default_message("policy", {}) == "Upload policy"
