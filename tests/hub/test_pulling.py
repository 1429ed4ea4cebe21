"""`pull_pair`: by whichever of the two is given, from wherever."""

import json
import re

import pytest
import torch
from hub_changes import CRITIC, POLICY, change_json, upload
from tiny_critics import tiny_batch
from tiny_pairs import assert_is_the_run, make_adapter, save_critic, save_policy, save_run

from modeling_dvpo.cli import main
from modeling_dvpo.hub import AccessError, NotAPairError, PairMismatchError, pull_pair, push_critic, push_pair

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


class TestGiven:
    def test_the_policy(self, hub, last):
        pair = pull_pair(POLICY)
        assert (pair.policy_repo, pair.critic_repo, pair.warnings) == (POLICY, CRITIC, ())
        assert (pair.policy_commit, pair.critic_commit) == (hub.commits(POLICY)[0].sha, hub.commits(CRITIC)[0].sha)
        assert pair.record["value"]["gamma"] == 0.99
        assert_is_the_run(pair, last)

    def test_the_critic(self, hub, last):
        assert_is_the_run(pull_pair(CRITIC), last)

    def test_both(self, hub, last):
        assert_is_the_run(pull_pair(POLICY, CRITIC), last)

    def test_both_the_wrong_way_round(self, hub, last):
        with pytest.raises(NotAPairError, match="user/critic is a critic, and critic='user/policy' was given, too"):
            pull_pair(CRITIC, POLICY)

    def test_a_directory_to_put_them_in(self, hub, last, tmp_path):
        pair = pull_pair(CRITIC, local_dir=tmp_path / "pair")
        assert (pair.policy, pair.critic) == (tmp_path / "pair" / "policy", tmp_path / "pair" / "critic")
        assert_is_the_run(pair, last)

    @pytest.mark.parametrize("base", [POLICY, "user/base"])
    def test_an_adapter_in_a_directory_stands_on_its_base_beside_it(
        self, base, hub, tmp_path, tiny_tokenizer, capsys, monkeypatch
    ):
        """It still named the Hub's, which was downloaded a second time, though the policy lay beside it."""
        policy = save_policy(tmp_path / "base", tiny_tokenizer)
        for repo in {POLICY, base}:
            upload(hub, repo, policy)
        critic = make_adapter(policy)
        push_critic(critic, CRITIC, tokenizer=tiny_tokenizer, policy=POLICY, base_model=base, card=False)
        for _ in range(2):  # the second time it is there, changed
            main(["pull", CRITIC, "--local-dir", str(tmp_path / "pair")])
            said = capsys.readouterr().out
            beside = str((tmp_path / "pair" / "policy").resolve())
            expected = beside if base == POLICY else base
            config = json.loads((tmp_path / "pair" / "critic" / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"] == expected and "They belong together" in said
            where = "which lies here" if base == POLICY else "which is loaded from the Hub or its cache"
            assert f"  an adapter of {expected}, {where}" in said
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", base == POLICY)
        _, loaded, _ = pull_pair(CRITIC, local_dir=tmp_path / "pair").load()
        assert torch.equal(loaded(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)

    def test_a_cache(self, hub, last, tmp_path):
        assert pull_pair(CRITIC, cache_dir=tmp_path / "cache").policy.is_relative_to(tmp_path / "cache")

    def test_the_second_time_nothing_is_downloaded(self, hub, last):
        pull_pair(CRITIC)
        before = hub.count("GET", "/storage/")
        pull_pair(CRITIC)
        assert hub.count("GET", "/storage/") == before

    def test_private_repositories_and_a_token(self, hub, last, monkeypatch):
        for repo in (POLICY, CRITIC):
            hub.repository(repo).private = True
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(AccessError, match="user/critic does not exist, or is private"):
            pull_pair(CRITIC)
        assert_is_the_run(pull_pair(CRITIC, token=hub.read_token), last)

    def test_a_gated_repository(self, hub, last):
        hub.repository(CRITIC).gated = "auto"
        with pytest.raises(AccessError, match="user/critic is gated. Ask for access on its page"):
            pull_pair(CRITIC, token=hub.add_token("stranger"))
        assert_is_the_run(pull_pair(CRITIC), last)

    def test_an_earlier_revision(self, hub, last, tmp_path, tiny_tokenizer):
        before = hub.commits(POLICY)[0].sha
        push_pair(save_run(tmp_path / "later", tiny_tokenizer, seed=4), None, POLICY, CRITIC, card=False)
        assert_is_the_run(pull_pair(POLICY, revision=before), last)
        assert_is_the_run(pull_pair(POLICY), tmp_path / "later" / "last")

    def test_a_revision_that_is_not_there(self, hub, last):
        with pytest.raises(AccessError, match="user/policy has no such revision"):
            pull_pair(POLICY, revision="v9")

    def test_no_such_repository(self, hub):
        with pytest.raises(AccessError, match="download user/nothing: user/nothing does not exist"):
            pull_pair("user/nothing")

    def test_something_else(self, hub):
        hub.add_commit("user/other", {"model.gguf": b"\0"})
        with pytest.raises(NotAPairError, match="holds neither a critic nor a policy"):
            pull_pair("user/other")

    def test_only_the_model_is_downloaded(self, hub, last):
        hub.add_commit(POLICY, {"huge.gguf": b"\0", "pytorch_model.bin": b"\0", "original/model.safetensors": b"\0"})
        names = {path.name for path in pull_pair(POLICY).policy.rglob("*")}
        assert "model.safetensors" in names and not {"huge.gguf", "pytorch_model.bin", "original"} & names


class TestWithoutRecord:
    def test_a_policy_names_no_critic(self, hub, tmp_path, tiny_tokenizer):
        folder = save_policy(tmp_path / "policy", tiny_tokenizer)
        upload(hub, POLICY, folder)
        with pytest.raises(NotAPairError, match=re.escape(f"pull_pair('{POLICY}', critic='owner/critic')")):
            pull_pair(POLICY)

    def test_a_critic_pushed_alone_names_no_policy(self, hub, tmp_path, tiny_tokenizer):
        push_critic(save_critic(tmp_path / "critic", tiny_tokenizer), CRITIC, card=False)
        with pytest.raises(NotAPairError, match="user/critic has no dvpo_pair.json that names its policy"):
            pull_pair(CRITIC)

    def test_two_that_fit_by_chance(self, hub, last):
        hub.add_commit(CRITIC, {"dvpo_pair.json": None})
        with pytest.raises(PairMismatchError, match="user/critic .* has no dvpo_pair.json, so nothing says"):
            pull_pair(POLICY, CRITIC)
        with pytest.warns(UserWarning, match="has no dvpo_pair.json"):
            assert len(pull_pair(POLICY, CRITIC, allow="record").warnings) == 1

    def test_a_record_that_cannot_be_read(self, hub, last):
        hub.add_commit(CRITIC, {"dvpo_pair.json": b"{"})
        with pytest.raises(NotAPairError, match="dvpo_pair.json of user/critic cannot be read"):
            pull_pair(CRITIC)

    def test_a_record_of_the_future(self, hub, last):
        change_json(hub, CRITIC, "dvpo_pair.json", lambda record: record.update(format=2))
        with pytest.raises(NotAPairError, match="has format 2, and this modeling_dvpo reads 1: upgrade it"):
            pull_pair(CRITIC)
