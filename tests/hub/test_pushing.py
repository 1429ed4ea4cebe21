"""`push_critic`: what arrives, what goes, what is refused; everything through the real client over HTTP."""

import json
import shutil

import pytest
import torch
from hub_changes import CRITIC, digests_of, record_of, replace_weights, upload, values
from hub_server.faults import CutUpload
from tiny_critics import tiny_batch
from tiny_pairs import TRAINING, make_adapter, make_critic, nudge, save_critic, save_policy
from transformers import AutoTokenizer

from modeling_dvpo import CriticLossConfig
from modeling_dvpo.hub import (
    AccessError,
    OtherModelError,
    PolicyMovedOnError,
    TokenizerMismatchError,
    UnpublishableError,
    UnreadableTokenizerError,
    pull_pair,
    push_critic,
)

pytest_plugins = ["hub_server.fixtures"]


@pytest.fixture
def critic(tmp_path, tiny_tokenizer):
    return save_critic(tmp_path / "critic", tiny_tokenizer)


class TestWhatArrives:
    def test_a_directory(self, hub, critic):
        pushed = push_critic(critic, CRITIC)
        files = hub.files(CRITIC)
        assert pushed.changed and len(hub.commits(CRITIC)) == 2
        for path in critic.iterdir():
            if path.name != "config.json":  # without the paths
                assert files[path.name] == path.read_bytes(), path.name
        assert torch.equal(values(CRITIC), values(critic))
        assert AutoTokenizer.from_pretrained(CRITIC).get_vocab() == AutoTokenizer.from_pretrained(critic).get_vocab()
        again = push_critic(critic, CRITIC)
        assert not again.changed and again.commit == pushed.commit and len(hub.commits(CRITIC)) == 2

    def test_a_model_with_its_tokenizer(self, hub, tiny_tokenizer):
        critic = make_critic()
        push_critic(critic, CRITIC, tokenizer=tiny_tokenizer)
        assert torch.equal(values(CRITIC), critic(tiny_batch()).quantiles)
        assert "tokenizer.json" in hub.files(CRITIC) and "tokenizer" in record_of(hub)
        assert not push_critic(critic, CRITIC, tokenizer=tiny_tokenizer).changed

    def test_what_a_run_leaves_beside_it_stays_here(self, hub, critic):
        (critic / "optimizer.pt").write_bytes(b"pickle")
        (critic / "checkpoint-3").mkdir()
        (critic / "checkpoint-3" / "model.safetensors").write_bytes(b"old")
        pushed = push_critic(critic, CRITIC)
        assert pushed.left_out == ("checkpoint-3/model.safetensors", "optimizer.pt")
        assert not {"optimizer.pt", "checkpoint-3/model.safetensors"} & set(hub.files(CRITIC))

    def test_no_path_of_this_machine(self, hub, critic):
        push_critic(critic, CRITIC)
        for path, content in hub.files(CRITIC).items():
            assert b"alice" not in content and str(critic.parent).encode() not in content, path

    def test_a_relative_path_that_looks_like_a_repository(self, hub, tmp_path, tiny_tokenizer):
        training = {
            **TRAINING,
            "parent": "outputs/policy",
            "dataset": "outputs/rewards",
            "reward_source": ["a/b.py:f"],
        }
        push_critic(save_critic(tmp_path / "critic", tiny_tokenizer, training=training), CRITIC, card=False)
        for path in ("config.json", "dvpo_pair.json"):
            assert b"outputs" not in hub.files(CRITIC)[path] and b"a/b" not in hub.files(CRITIC)[path]
        assert record_of(hub)["value"]["reward_source"] == ["b.py:f"]

    def test_a_private_branch_with_a_tag(self, hub, critic):
        pushed = push_critic(critic, CRITIC, private=True, revision="trial", tag="v1")
        assert hub.repository(CRITIC).private and "config.json" not in hub.files(CRITIC)
        assert record_of(hub, revision="trial") == record_of(hub, revision="v1")
        assert pushed.revision == "trial"

    def test_a_pull_request(self, hub, critic):
        pushed = push_critic(critic, CRITIC, create_pr=True)
        assert pushed.revision == "refs/pr/1" and "config.json" not in hub.files(CRITIC)
        assert torch.equal(values(CRITIC, revision="refs/pr/1"), values(critic))

    def test_the_token_that_was_given(self, hub, critic, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(AccessError):
            push_critic(critic, CRITIC)
        push_critic(critic, CRITIC, token=hub.token)
        assert "config.json" in hub.files(CRITIC)

    def test_an_unknown_option(self, hub, critic):
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            push_critic(critic, CRITIC, colour="red")


class TestRecord:
    def test_says_what_the_values_mean(self, hub, critic):
        push_critic(critic, CRITIC)
        record = record_of(hub)
        assert (record["format"], record["role"], record["repo"], record["model_type"]) == (
            1,
            "critic",
            CRITIC,
            "qwen3",
        )
        assert record["files"] == digests_of(hub, CRITIC)
        value = record["value"]
        assert (value["heads"], value["quantiles"], value["gamma"], value["lam"]) == (2, 5, 0.99, 0.9)
        assert value["reward_source"] == "column 'reward'" and value["return_range"] == [-1.0, 2.0]
        assert value["loss"] == CriticLossConfig(risk=0.2).to_dict()
        assert record["training"]["seed"] == 7 and record["versions"]["torch"] == "2.13.0"
        assert {"vocabulary", "encoding", "chat_template"} < set(record["tokenizer"])

    def test_what_is_unknown_is_absent(self, hub, tmp_path, tiny_tokenizer):
        push_critic(save_critic(tmp_path / "critic", tiny_tokenizer, training={}), CRITIC, card=False)
        record = record_of(hub)
        assert not {"base_model", "partner", "training", "versions"} & set(record)
        assert set(record["value"]) == {"heads", "quantiles", "head_type", "return_mean", "return_scale", "loss"}

    def test_names_parent_and_data_set_that_are_on_the_hub(self, hub, tmp_path, tiny_tokenizer):
        hub.add_commit("user/base", {"config.json": b"{}"})
        hub.add_commit("user/data", {"a.jsonl": b"{}"}, repo_type="dataset")
        training = {**TRAINING, "parent": "user/base", "parent_revision": "abc", "dataset": "user/data"}
        push_critic(save_critic(tmp_path / "critic", tiny_tokenizer, training=training), CRITIC)
        record = record_of(hub)
        assert record["base_model"] == {"repo": "user/base", "relation": "finetune", "revision": "abc"}
        assert record["training"]["dataset"] == "user/data"

    def test_takes_the_users_word(self, hub, critic):
        push_critic(critic, CRITIC, base_model="org/base", dataset="org/data")
        record = record_of(hub)
        assert record["base_model"] == {"repo": "org/base", "relation": "finetune"}
        assert record["training"]["dataset"] == "org/data"


class TestWhatGoes:
    """Leftovers that transformers would load in place of the new weights, deleted in the same commit."""

    def replaced(self, hub, first, second, more=None):
        hub.add_commit(CRITIC, {"notes.txt": b"mine", "sub/model.safetensors": b"theirs"})
        push_critic(first, CRITIC, card=False)
        hub.add_commit(CRITIC, more or {})
        commits = len(hub.commits(CRITIC))
        push_critic(second, CRITIC, card=False)
        assert len(hub.commits(CRITIC)) == commits + 1
        files = hub.files(CRITIC)
        assert (files.pop("notes.txt"), files.pop("sub/model.safetensors")) == (b"mine", b"theirs")
        assert set(files) == {path.name for path in second.iterdir()} | {".gitattributes", "dvpo_pair.json"}
        assert torch.equal(values(CRITIC), values(second))

    @pytest.mark.parametrize(("before", "now"), [("5GB", "20KB"), ("20KB", "5GB"), ("20KB", "60KB")])
    def test_other_shards(self, hub, tmp_path, tiny_tokenizer, before, now):
        first = save_critic(tmp_path / "first", tiny_tokenizer, max_shard_size=before)
        second = save_critic(tmp_path / "second", tiny_tokenizer, seed=1, max_shard_size=now)
        assert len(list(first.glob("model*.safetensors"))) != len(list(second.glob("model*.safetensors")))
        self.replaced(hub, first, second)

    def test_a_chat_template_and_other_tokenizer_files(self, hub, critic, tmp_path, tiny_tokenizer):
        more = {"vocab.json": b"{}", "merges.txt": b"", "pytorch_model.bin": b"\0"}
        tiny_tokenizer.chat_template = None
        self.replaced(hub, critic, save_critic(tmp_path / "plain", tiny_tokenizer, seed=1), more)

    def test_without_a_tokenizer_the_one_that_is_there_stays(self, hub, critic):
        push_critic(critic, CRITIC)
        push_critic(make_critic(seed=1), CRITIC)
        assert hub.files(CRITIC)["tokenizer.json"] == (critic / "tokenizer.json").read_bytes()
        assert torch.equal(values(CRITIC), make_critic(seed=1)(tiny_batch()).quantiles)

    def test_figures_of_an_earlier_evaluation(self, hub, critic, tmp_path):
        evaluation = tmp_path / "evaluation"
        evaluation.mkdir()
        content = {"format": 1, "critic": str(critic), "sets": [], "figures": {"pit": "pit.png"}}
        (evaluation / "evaluation.json").write_text(json.dumps(content))
        (evaluation / "pit.png").write_bytes(b"\x89PNG\0")
        push_critic(critic, CRITIC, evaluation=evaluation)
        files = hub.files(CRITIC)
        assert files["pit.png"] == b"\x89PNG\0" and json.loads(files["evaluation.json"])["critic"] == CRITIC
        push_critic(critic, CRITIC)
        assert not {"pit.png", "evaluation.json"} & set(hub.files(CRITIC))

    def test_a_version_in_half_a_push_stays_loadable(self, hub, critic, tmp_path, tiny_tokenizer, waits):
        push_critic(critic, CRITIC)
        hub.faults.add("PUT", "/storage/", CutUpload(50), times=None, after=1)
        sharded = save_critic(tmp_path / "sharded", tiny_tokenizer, seed=1, max_shard_size="20KB")
        with pytest.raises(ValueError, match="Nothing changed"):
            push_critic(sharded, CRITIC)
        assert torch.equal(values(CRITIC), values(critic))


class TestAdapters:
    @pytest.fixture
    def adapter(self, hub, tmp_path, tiny_tokenizer):
        """A LoRA critic on a policy that lies in a directory and, the same, on the Hub."""
        base = save_policy(tmp_path / "base", tiny_tokenizer)
        upload(hub, "user/base", base)
        make_adapter(base).save_pretrained(tmp_path / "adapter")
        tiny_tokenizer.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    def test_stands_on_a_name_that_others_can_load(self, hub, adapter):
        expected = values(adapter)
        push_critic(adapter, CRITIC, base_model="user/base")
        files = hub.files(CRITIC)
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/base"
        assert "model.safetensors" not in files
        assert torch.equal(values(CRITIC), expected)
        weights = {"model.safetensors": digests_of(hub, "user/base")["model.safetensors"]}
        known = {"repo": "user/base", "relation": "adapter", "commit": hub.commits("user/base")[0].sha}
        assert record_of(hub)["base_model"] == {**known, "files": weights}

    def test_replaces_whole_weights_and_is_replaced_by_them(self, hub, adapter, critic):
        push_critic(critic, CRITIC)
        push_critic(adapter, CRITIC, base_model="user/base")
        assert "model.safetensors" not in hub.files(CRITIC)
        push_critic(critic, CRITIC)
        assert not {"adapter_config.json", "adapter_model.safetensors"} & set(hub.files(CRITIC))
        assert torch.equal(values(CRITIC), values(critic))

    def test_on_a_directory_is_refused(self, hub, adapter):
        with pytest.raises(UnpublishableError, match="which is no repository of the Hub.*base_model="):
            push_critic(adapter, CRITIC)
        assert ("models", CRITIC) not in hub.repositories

    def test_on_a_base_with_other_weights_is_refused(self, hub, adapter, tmp_path):
        nudge(tmp_path / "base")
        with pytest.raises(UnpublishableError, match="whose weights are not those of user/base"):
            push_critic(adapter, CRITIC, base_model="user/base")
        assert "config.json" not in hub.files(CRITIC)


class TestOtherModels:
    @pytest.mark.parametrize(
        ("files", "what"),
        [
            ({"config.json": b'{"model_type": "qwen3"}'}, "a policy of the family qwen3"),
            ({"config.json": b'{"model_type": "llama", "num_value_heads": 3}'}, "a critic of the family llama"),
            ({"config.json": b'{"architectures": ["BertForMaskedLM"]}'}, "a model of another kind"),
            ({"model_index.json": b"{}"}, "a model of another kind"),
            ({"weights.gguf": b"\0"}, "a model of another kind"),
        ],
    )  # fmt: skip
    def test_are_not_overwritten_unasked(self, hub, critic, files, what):
        hub.add_commit(CRITIC, files)
        with pytest.raises(OtherModelError, match=f"user/critic .main. holds {what}, and what is pushed is a critic"):
            push_critic(critic, CRITIC)
        assert files.items() <= hub.files(CRITIC).items() and len(hub.commits(CRITIC)) == 2
        push_critic(critic, CRITIC, overwrite=True)
        assert torch.equal(values(CRITIC), values(critic))

    def test_an_empty_repository_and_one_with_a_card_are_free(self, hub, critic):
        hub.add_commit(CRITIC, {"README.md": b"# soon"})
        assert push_critic(critic, CRITIC).changed

    def test_a_critic_with_other_heads_is_a_new_version(self, hub, critic, tmp_path, tiny_tokenizer):
        push_critic(critic, CRITIC)
        other = save_critic(tmp_path / "other", tiny_tokenizer, settings={"num_quantiles": 7})
        push_critic(other, CRITIC)
        assert record_of(hub)["value"]["quantiles"] == 7

    def test_a_policy_is_no_critic(self, hub, tmp_path, tiny_tokenizer):
        with pytest.raises(
            OtherModelError, match="holds a policy, and a critic is needed: config.json with num_value"
        ):
            push_critic(save_policy(tmp_path / "policy", tiny_tokenizer), CRITIC)
        assert hub.repositories == {}


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda saved: sorted(saved.glob("model-*"))[1].unlink(), UnpublishableError, "lacks model-00002.*, which"),
        (lambda saved: [path.unlink() for path in saved.glob("model*")], UnpublishableError, "no safetensors"),
        (shutil.rmtree, UnpublishableError, "is no directory"),
        (lambda saved: (saved / "tokenizer.json").write_text("{}"), UnreadableTokenizerError, "cannot be read"),
    ],
)
def test_what_is_incomplete_is_refused(hub, tmp_path, tiny_tokenizer, spoil, error, match):
    saved = save_critic(tmp_path / "critic", tiny_tokenizer, max_shard_size="20KB")
    spoil(saved)
    with pytest.raises(error, match=match):
        push_critic(saved, CRITIC)
    assert hub.repositories == {}


class TestItsPolicy:
    @pytest.fixture
    def policy(self, hub, tmp_path, tiny_tokenizer):
        """Somebody's policy on the Hub, without a record."""
        upload(hub, "org/policy", save_policy(tmp_path / "policy", tiny_tokenizer))

    def test_is_named_by_content_and_commit(self, hub, policy, critic):
        push_critic(critic, CRITIC, policy="org/policy")
        known = {"role": "policy", "repo": "org/policy", "commit": hub.commits("org/policy")[0].sha}
        assert record_of(hub)["partner"] == {**known, "files": digests_of(hub, "org/policy")}
        pair = pull_pair(CRITIC)
        assert (pair.policy_repo, pair.critic_repo) == ("org/policy", CRITIC)
        assert not push_critic(critic, CRITIC, policy="org/policy").changed

    def test_whose_card_was_edited_changes_nothing(self, hub, policy, critic):
        push_critic(critic, CRITIC, policy="org/policy")
        hub.add_commit("org/policy", {"README.md": b"# better"})
        assert not push_critic(critic, CRITIC, policy="org/policy").changed
        pull_pair(CRITIC)

    def test_that_moved_on(self, hub, policy, critic, tmp_path):
        push_critic(critic, CRITIC, policy="org/policy")
        judged = hub.commits("org/policy")[0].sha
        replace_weights(hub, "org/policy", tmp_path)
        with pytest.raises(PolicyMovedOnError, match=f"is not the policy that the critic judges.*commit {judged}"):
            pull_pair(CRITIC)
        assert pull_pair(CRITIC, policy_revision=judged).policy_commit == judged

    def test_with_another_tokenizer(self, hub, policy, tmp_path, tiny_tokenizer):
        tiny_tokenizer.add_tokens(["<new>"])
        critic = save_critic(tmp_path / "critic", tiny_tokenizer)
        with pytest.raises(TokenizerMismatchError, match="differs from that of org/policy .main. in vocabulary"):
            push_critic(critic, CRITIC, policy="org/policy")
        assert ("models", CRITIC) not in hub.repositories

    def test_that_does_not_exist(self, hub, critic):
        with pytest.raises(AccessError, match="look up the policy org/nothing: org/nothing does not exist"):
            push_critic(critic, CRITIC, policy="org/nothing")


class TestCard:
    def test_a_users_own_words_survive(self, hub, critic, tmp_path, tiny_tokenizer):
        push_critic(critic, CRITIC)
        card = hub.files(CRITIC)["README.md"].decode()
        assert CRITIC in card and "num_value_heads" not in card
        hub.add_commit(CRITIC, {"README.md": (card + "\n## My own words\n\nTried on a cat.\n").encode()})
        push_critic(save_critic(tmp_path / "other", tiny_tokenizer, seed=1), CRITIC)
        assert "Tried on a cat." in hub.files(CRITIC)["README.md"].decode()

    def test_is_left_alone_on_request(self, hub, critic):
        hub.add_commit(CRITIC, {"README.md": b"# mine"})
        push_critic(critic, CRITIC, card=False)
        assert hub.files(CRITIC)["README.md"] == b"# mine"

    def test_license_and_data_set(self, hub, critic):
        push_critic(critic, CRITIC, license="apache-2.0", dataset="org/data", base_model="org/base")
        card = hub.files(CRITIC)["README.md"].decode()
        assert "license: apache-2.0" in card and "org/data" in card and "org/base" in card


def test_a_critic_of_another_run_in_the_same_place(hub, critic, tmp_path, tiny_tokenizer):
    """A digest is remembered by size and time of change, so a file that was replaced is read again."""
    push_critic(critic, CRITIC)
    shutil.rmtree(critic)
    save_critic(critic, tiny_tokenizer, seed=3)
    assert push_critic(critic, CRITIC).changed
    assert torch.equal(values(CRITIC), values(critic))
