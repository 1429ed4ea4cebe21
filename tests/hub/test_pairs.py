"""`push_pair`: two repositories that name each other, whatever happens in between."""

import shutil

import pytest
import torch
from hub_changes import CRITIC, POLICY, digests_of, record_of, upload, values
from hub_server.faults import DropAnswer, Refuse
from peft import LoraConfig
from tiny_critics import tiny_batch
from tiny_models import tiny_causal_lm
from tiny_pairs import VOCABULARY, make_adapter, make_critic, nudge, save_critic, save_policy, save_run
from transformers import AutoModelForCausalLM

from modeling_dvpo.hub import (
    OtherModelError,
    PairIncompleteError,
    PolicyMovedOnError,
    TokenizerMismatchError,
    UnpublishableError,
    pull_pair,
    push_critic,
    push_pair,
)

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


@pytest.fixture
def last(tmp_path, tiny_tokenizer):
    """A run that nobody has pushed."""
    return save_run(tmp_path / "run", tiny_tokenizer)


def push(last, **options):
    return push_pair(last, None, POLICY, CRITIC, **options)


class TestBothRecords:
    def test_name_each_other_by_content(self, hub, last):
        pushed = push(last)
        policy, critic = record_of(hub, POLICY), record_of(hub, CRITIC)
        assert critic["partner"] == {"role": "policy", "repo": POLICY, "files": digests_of(hub, POLICY)}
        known = {"role": "critic", "repo": CRITIC, "commit": pushed.critic.commit}
        assert policy["partner"] == {**known, "files": digests_of(hub, CRITIC)}
        for part in ("value", "training", "tokenizer", "versions"):
            assert critic[part] == policy[part]
        assert policy["policy_training"] == {"algorithm": "dvpo", "gamma": 0.99, "seed": 7, "step": 12}
        assert all(b"alice" not in content for repo in (POLICY, CRITIC) for content in hub.files(repo).values())

    def test_one_commit_each_and_none_the_second_time(self, hub, last):
        first = push(last)
        assert [len(hub.commits(repo)) for repo in (POLICY, CRITIC)] == [2, 2]
        again = push(last)
        assert (again.policy.changed, again.critic.changed) == (False, False)
        assert (again.policy.commit, again.critic.commit) == (first.policy.commit, first.critic.commit)

    def test_an_edited_card_of_the_critic_changes_nothing_in_the_policy(self, hub, last):
        push(last)
        hub.add_commit(CRITIC, {"notes.txt": b"mine"})
        assert not push(last).policy.changed

    def test_a_new_critic_is_pinned_anew(self, hub, last):
        push(last)
        nudge(last / "critic")
        pushed = push_pair(last / "policy", last / "critic", POLICY, CRITIC)
        assert pushed.critic.changed and pushed.policy.changed
        assert record_of(hub, POLICY)["partner"]["commit"] == pushed.critic.commit
        pull_pair(POLICY), pull_pair(CRITIC)

    def test_the_directory_of_the_run(self, hub, last):
        push(last.parent)
        assert record_of(hub, POLICY)["policy_training"]["step"] == 12

    def test_branch_and_tag(self, hub, last):
        push(last, revision="trial", tag="v1")
        assert record_of(hub, CRITIC, "trial")["partner"]["revision"] == "trial"
        assert record_of(hub, POLICY, "v1")["partner"]["revision"] == "trial"
        assert "config.json" not in hub.files(POLICY)
        assert pull_pair(CRITIC, revision="trial").policy_commit == hub.commits(POLICY, "trial")[0].sha
        assert pull_pair(POLICY, revision="v1").critic_commit == hub.commits(CRITIC, "v1")[0].sha

    def test_pull_requests(self, hub, last):
        pushed = push(last, create_pr=True)
        assert (pushed.policy.revision, pushed.critic.revision) == ("refs/pr/1", "refs/pr/1")
        assert "config.json" not in hub.files(POLICY) and "config.json" not in hub.files(CRITIC)
        assert pull_pair(POLICY, revision="refs/pr/1").critic_commit == pushed.critic.commit


class TestModels:
    def test_both_in_memory(self, hub, tiny_tokenizer):
        torch.manual_seed(0)
        policy, critic = tiny_causal_lm("llama", vocab_size=VOCABULARY), make_critic(model_type="llama")
        push_pair(policy, critic, POLICY, CRITIC, tokenizer=tiny_tokenizer, save_options={"max_shard_size": "20KB"})
        assert all("model.safetensors.index.json" in hub.files(repo) for repo in (POLICY, CRITIC))
        loaded_policy, loaded_critic, tokenizer = pull_pair(CRITIC).load()
        batch = tiny_batch()
        assert torch.equal(loaded_policy(batch).logits, policy(batch).logits)
        assert torch.equal(loaded_critic(batch).quantiles, critic(batch).quantiles)
        assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()

    def test_two_adapters_on_one_base(self, hub, tmp_path, tiny_tokenizer):
        base = save_policy(tmp_path / "base", tiny_tokenizer)
        upload(hub, "user/base", base)
        policy = AutoModelForCausalLM.from_pretrained(base).eval()
        policy.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        critic = make_adapter(base)
        push_pair(policy, critic, POLICY, CRITIC, tokenizer=tiny_tokenizer, base_model="user/base")
        assert "config.json" not in hub.files(POLICY)
        shutil.rmtree(base)
        loaded_policy, loaded_critic, _ = pull_pair(POLICY, cache_dir=tmp_path / "cache").load()
        batch = tiny_batch()
        torch.testing.assert_close(loaded_policy(batch).logits, policy(batch).logits, rtol=0, atol=0)
        torch.testing.assert_close(loaded_critic(batch).quantiles, critic(batch).quantiles, rtol=0, atol=0)
        again = push_pair(policy, critic, POLICY, CRITIC, tokenizer=tiny_tokenizer, base_model="user/base")
        assert not again.policy.changed and not again.critic.changed


class TestHalfAPush:
    @pytest.fixture
    def broken(self, hub, last, tmp_path, tiny_tokenizer, quick):
        """An older pair on the Hub; of the newer, the critic arrives and the policy does not."""
        push(save_run(tmp_path / "older", tiny_tokenizer, seed=5))
        hub.faults.add("POST", "/user/policy/commit/", Refuse(500), times=None)
        with pytest.raises(PairIncompleteError) as caught:
            push(last)
        return caught.value

    def test_says_what_is_where_and_leaves_the_older_pair_loadable(self, hub, broken, tmp_path):
        commits = hub.commits(CRITIC)[0].sha, hub.commits(POLICY)[0].sha
        assert broken.critic.commit == commits[0]
        for words in (
            f"The critic is pushed: user/critic, main, commit {commits[0]}",
            f"Its policy is not: user/policy, main, still has what it had before (commit {commits[1]})",
            "run the same push again; the critic will not be sent twice",
            "status 500",
        ):
            assert words in str(broken)
        assert torch.equal(values(pull_pair(POLICY).critic), values(tmp_path / "older" / "last" / "critic"))
        with pytest.raises(PolicyMovedOnError, match="is not the policy that the critic judges.*push did not finish"):
            pull_pair(CRITIC)

    def test_is_finished_by_the_same_push(self, hub, broken, last):
        hub.faults.clear()
        commits = len(hub.commits(CRITIC))
        pushed = push(last)
        assert (pushed.critic.changed, pushed.policy.changed) == (False, True)
        assert len(hub.commits(CRITIC)) == commits
        assert pull_pair(CRITIC).policy_commit == pull_pair(POLICY).policy_commit == pushed.policy.commit

    def test_a_lost_answer_is_no_failure(self, hub, last, quick):
        rules = [hub.faults.add("POST", f"/{repo}/commit/", DropAnswer()) for repo in (POLICY, CRITIC)]
        push(last)
        assert [rule.hits for rule in rules] == [1, 1] and len(hub.commits(POLICY)) == 2
        pull_pair(CRITIC)

    def test_the_first_of_all(self, hub, last, quick):
        hub.faults.add("POST", "/user/policy/commit/", Refuse(500), times=None)
        with pytest.raises(PairIncompleteError, match="user/policy, main, has no model yet"):
            push(last)


class TestRefusedBeforeAnythingIsPushed:
    @pytest.fixture(autouse=True)
    def nothing_is_pushed(self, hub):
        yield
        assert all(set(hub.files(name)) <= {".gitattributes", "theirs.gguf"} for _, name in hub.repositories)

    def test_other_files_than_pair_json_names(self, hub, last):
        nudge(last / "critic")
        with pytest.raises(
            UnpublishableError, match="is not the critic of pair.json: model.safetensors is .*recorded"
        ):
            push(last)

    def test_two_tokenizers(self, hub, last, tiny_tokenizer):
        tiny_tokenizer.chat_template = "{{ messages }}"
        tiny_tokenizer.save_pretrained(last / "critic")
        with pytest.raises(TokenizerMismatchError, match="differ in chat_template.*as tokenizer="):
            push(last)

    def test_no_tokenizer(self, hub, last):
        for path in (last / "policy").glob("tokenizer*"):
            path.unlink()
        (last / "policy" / "chat_template.jinja").unlink()
        with pytest.raises(UnpublishableError, match="policy has no tokenizer, and a pair needs one: give tokenizer="):
            push(last)

    def test_a_run_without_a_critic(self, hub, last):
        shutil.rmtree(last / "critic")
        with pytest.raises(UnpublishableError, match="has no policy/ and critic/ beside each other"):
            push(last)

    def test_one_repository_for_both(self, hub, last):
        with pytest.raises(UnpublishableError, match="Policy and critic need a repository each"):
            push_pair(last, None, POLICY, POLICY)

    def test_a_policy_repository_with_another_model(self, hub, last):
        hub.add_commit(POLICY, {"theirs.gguf": b"\0"})
        with pytest.raises(OtherModelError, match="user/policy .main. holds a model of another kind"):
            push(last)

    def test_the_wrong_way_round(self, hub, last):
        with pytest.raises(OtherModelError, match="holds a policy, and a critic is needed"):
            push_pair(last / "critic", last / "policy", POLICY, CRITIC)

    def test_no_right_to_write_to_the_policy(self, hub, last):
        with pytest.raises(ValueError, match="may not write to org/policy"):
            push_pair(last, None, "org/policy", CRITIC)


def test_a_newer_critic_alone_leaves_the_pair(hub, last, tmp_path, tiny_tokenizer):
    """The policy's record still pins the critic it was pushed with; the newer one names the policy it judges."""
    first = push(last)
    newer = save_critic(tmp_path / "newer", tiny_tokenizer, seed=9)
    pushed = push_critic(newer, CRITIC, policy=POLICY)
    assert pull_pair(POLICY).critic_commit == first.critic.commit
    assert pull_pair(CRITIC).critic_commit == pushed.commit


def test_the_given_tokenizer_is_that_of_both(hub, last, tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ messages }}"
    push(last, tokenizer=tiny_tokenizer)
    for repo in (POLICY, CRITIC):
        assert hub.files(repo)["chat_template.jinja"] == b"{{ messages }}"


SCORES = [{"dataset": {"id": "openai/gsm8k", "task_id": "gsm8k"}, "value": 61.5}]


def test_benchmarks_lie_beside_the_policys_card_and_go_with_its_weights(hub, last):
    push(last, benchmarks=SCORES)
    files = hub.files(POLICY)
    assert "61.5" in files["README.md"].decode()
    assert b"openai/gsm8k" in files[".eval_results/openai--gsm8k.yaml"]
    assert not any("eval_results" in path for path in hub.files(CRITIC))
    push(last)  # nothing is known of these any more
    assert ".eval_results/openai--gsm8k.yaml" not in hub.files(POLICY)
