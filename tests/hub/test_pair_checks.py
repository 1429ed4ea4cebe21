"""What `pull_pair` refuses, by name, or warns of where it is allowed."""

import pytest
from hub_changes import CRITIC, POLICY, change_json, replace_weights, upload
from tiny_pairs import make_adapter, save_policy

from modeling_dvpo.hub import (
    BaseModelMovedOnError,
    CriticMovedOnError,
    PairMismatchError,
    PolicyMovedOnError,
    TokenizerMismatchError,
    pull_pair,
    push_critic,
)

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


def both_ways(given, error, match, allow, **options):
    """An error, or a warning where it is allowed."""
    with pytest.raises(error, match=match) as caught:
        pull_pair(given, **options)
    assert caught.value.check == allow and f"allow='{allow}'" in str(caught.value)
    with pytest.warns(UserWarning, match=match):
        assert pull_pair(given, allow=allow, **options).warnings


def test_a_policy_that_moved_on(hub, last, tmp_path):
    judged = hub.commits(POLICY)[0].sha
    replace_weights(hub, POLICY, tmp_path)
    match = f"user/policy .* is not the policy that the critic judges: model.safetensors is .*commit {judged}"
    both_ways(CRITIC, PolicyMovedOnError, match, "policy")
    both_ways(POLICY, PolicyMovedOnError, match, "policy")
    assert pull_pair(CRITIC, policy_revision=judged).warnings == ()


def test_a_policy_whose_own_record_is_old(hub, last, tmp_path):
    replace_weights(hub, POLICY, tmp_path)
    change_json(hub, CRITIC, "dvpo_pair.json", lambda record: record.pop("partner"))
    with pytest.raises(PolicyMovedOnError, match="is not the policy that its record was made for"):
        pull_pair(POLICY, CRITIC)


def test_a_critic_with_other_weights(hub, last, tmp_path):
    replace_weights(hub, CRITIC, tmp_path)
    match = "user/critic .* is not the critic that its record was made for: model.safetensors"
    both_ways(CRITIC, CriticMovedOnError, match, "critic")


def test_a_critic_with_another_scale(hub, last):
    change_json(hub, CRITIC, "config.json", lambda config: config.update(return_scale=3.0))
    both_ways(CRITIC, CriticMovedOnError, "is not the critic .*config.json is", "critic")


def test_a_critic_that_the_policy_does_not_name(hub, last):
    def other(record):
        record["partner"]["files"]["model.safetensors"] = "0" * 64

    change_json(hub, POLICY, "dvpo_pair.json", other)
    both_ways(CRITIC, CriticMovedOnError, "is not the critic that the record of user/policy", "critic")
    both_ways(POLICY, CriticMovedOnError, "is not the critic that the record of user/policy", "critic")


def test_a_missing_shard(hub, last):
    hub.add_commit(CRITIC, {"model.safetensors": None, "model-00001-of-00001.safetensors": b"\0"})
    match = "model.safetensors is missing; model-00001-of-00001.safetensors is new"
    with pytest.raises(CriticMovedOnError, match=match):
        pull_pair(CRITIC)


@pytest.mark.parametrize("repo", [POLICY, CRITIC])
def test_another_tokenizer_on_one_side(hub, last, repo):
    def longer(tokenizer):
        tokenizer["model"]["vocab"]["zzz"] = len(tokenizer["model"]["vocab"])

    change_json(hub, repo, "tokenizer.json", longer)
    both_ways(CRITIC, TokenizerMismatchError, "differs from that of user/policy .* in vocabulary", "tokenizer")


def test_another_chat_template_on_both_sides(hub, last):
    for repo in (POLICY, CRITIC):
        hub.add_commit(repo, {"chat_template.jinja": b"{{ messages }}"})
    match = "is not the one it was pushed with: chat_template changed"
    both_ways(CRITIC, TokenizerMismatchError, match, "tokenizer")


def test_other_merges_of_the_same_vocabulary(hub, last):
    def fewer(tokenizer):
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]

    change_json(hub, CRITIC, "tokenizer.json", fewer)
    both_ways(CRITIC, TokenizerMismatchError, "in encoding", "tokenizer")


def test_no_tokenizer(hub, last):
    gone = {name: None for name in hub.files(CRITIC) if name.startswith(("tokenizer", "chat_template"))}
    hub.add_commit(CRITIC, gone)
    both_ways(CRITIC, TokenizerMismatchError, "has no tokenizer to compare", "tokenizer")


def test_records_that_contradict_each_other(hub, last):
    change_json(hub, POLICY, "dvpo_pair.json", lambda record: record["value"].update(lam=0.5))
    both_ways(CRITIC, PairMismatchError, "differ in value.lam", "record")


def test_a_record_that_contradicts_the_config(hub, last):
    change_json(hub, CRITIC, "dvpo_pair.json", lambda record: record["value"].update(gamma=0.5))
    both_ways(CRITIC, PairMismatchError, "say different things of gamma", "record")


def test_a_copy_of_the_policy_elsewhere(hub, last):
    hub.add_commit("org/copy", hub.files(POLICY))
    with pytest.warns(UserWarning, match="pushed for user/policy, and the policy came from org/copy"):
        pull_pair("org/copy", CRITIC)


def test_allow_takes_known_words(hub):
    with pytest.raises(ValueError, match="allow has everything; it takes tokenizer, policy, critic, base_model"):
        pull_pair(CRITIC, allow=["tokenizer", "everything"])


def test_a_base_with_other_weights(hub, tmp_path, tiny_tokenizer):
    base = save_policy(tmp_path / "base", tiny_tokenizer)
    upload(hub, "user/base", base)
    upload(hub, POLICY, base)
    critic = make_adapter(base)
    push_critic(critic, CRITIC, tokenizer=tiny_tokenizer, policy=POLICY, base_model="user/base", card=False)
    pull_pair(CRITIC)
    replace_weights(hub, "user/base", base)
    match = "user/base .* has other weights than when the adapter was pushed"
    both_ways(CRITIC, BaseModelMovedOnError, match, "base_model")
