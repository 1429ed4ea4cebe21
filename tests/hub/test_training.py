"""The training scripts and the Hub: start from a critic there, push what comes out, on the way and at the end."""

import pytest
import torch
from hub_changes import CRITIC, POLICY, record_of, values
from hub_server.faults import Refuse
from scripts import flags, write_rows

from modeling_dvpo.hub import AccessError, PushEvery, PushFailedError, pull_pair
from modeling_dvpo.training import train_critic, train_dvpo
from modeling_dvpo.training.errors import ConfigError

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


@pytest.fixture
def critic_run(tmp_path):
    """Settings of a short run that goes on from the critic on the Hub."""
    rows = [{"prompt": f"What is {i}?", "completion": "The answer is 5.", "reward": i % 2} for i in range(16)]
    return {
        "model_name_or_path": CRITIC,
        "dataset": write_rows(tmp_path / "rows.jsonl", rows),
        "output_dir": tmp_path / "out",
        "max_steps": 3,
        "rows_per_step": 4,
        "learning_rate": 1e-3,
    }


@pytest.fixture
def policy_run(tmp_path):
    return {
        "model_name_or_path": POLICY,
        "critic": CRITIC,
        "dataset": write_rows(tmp_path / "prompts.jsonl", [{"prompt": "hello"}, {"prompt": "world"}]),
        "reward_funcs": "made_up_rewards:length",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "prompts_per_step": 2,
        "max_completion_length": 4,
    }


@pytest.mark.filterwarnings("ignore:.*was trained on other returns", "ignore:Step . is not pushed")
class TestTrainCritic:
    def test_goes_on_from_the_hub_and_pushes_with_its_parent(self, hub, last, critic_run):
        parent = hub.commits(CRITIC)[0].sha
        train_critic.main(flags(**critic_run, push_to="user/next", push_every=1, push_private=True))
        assert hub.repository("user/next").private
        saved = critic_run["output_dir"] / "last"
        assert [path.name for path in saved.parent.glob(".*")] == []
        assert torch.equal(values("user/next"), values(saved))
        record = record_of(hub, "user/next")
        assert record["base_model"] == {"repo": CRITIC, "relation": "finetune", "revision": parent}
        assert record["training"]["step"] == 3
        assert CRITIC in hub.files("user/next")["README.md"].decode()
        titles = [commit.title for commit in hub.commits("user/next")]
        assert titles[0] == "Step 3" and set(titles) <= {"Step 3", "Step 2", "Step 1", "initial commit"}

    def test_the_best_where_rows_are_held_out(self, hub, last, critic_run):
        train_critic.main(flags(**critic_run, push_to="user/next", eval_fraction=0.5, eval_steps=1))
        best = critic_run["output_dir"] / "best" / "model.safetensors"
        assert hub.files("user/next")["model.safetensors"] == best.read_bytes()

    def test_no_right_to_push_ends_it_before_it_begins(self, hub, last, critic_run, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", hub.read_token)
        with pytest.raises(AccessError, match="your token may not write"):
            train_critic.main(flags(**critic_run, push_to=CRITIC))
        assert not critic_run["output_dir"].exists()

    def test_a_push_that_fails_costs_nothing(self, hub, last, critic_run, quick):
        hub.faults.add("POST", "/commit/", Refuse(500), times=None)
        with pytest.raises(PushFailedError, match="run is complete.*dvpo push .*out/last user/next"):
            train_critic.main(flags(**critic_run, push_to="user/next"))
        assert (critic_run["output_dir"] / "last" / "model.safetensors").exists()

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"push_to": ["a/b", "c/d"]}, "must name a repository of the Hub, owner/name, for the critic"),
            ({"push_to": "outputs"}, "must name a repository of the Hub"),
            ({"push_every": 5}, "push_every is set, but push_to names no repository"),
            ({"push_every": -1}, "push_every is -1"),
        ],
    )
    def test_mistakes(self, hub, critic_run, settings, match):
        with pytest.raises(ConfigError, match=match):
            train_critic.main(flags(**critic_run, **settings))
        assert hub.repositories == {}


@pytest.mark.filterwarnings("ignore:.*was trained on other returns", "ignore:.*return_range differs")
class TestTrainDvpo:
    def test_goes_on_from_the_hub_and_pushes_the_pair(self, hub, last, policy_run):
        parent = hub.commits(CRITIC)[0].sha
        train_dvpo.main(flags(**policy_run, push_to=["user/p", "user/c"], push_every=1))
        pair = pull_pair("user/c")
        assert pair.warnings == () and pair.policy_repo == "user/p"
        assert pair.record["base_model"] == {"repo": CRITIC, "relation": "finetune", "revision": parent}
        assert pair.record["training"]["step"] == record_of(hub, "user/p")["policy_training"]["step"] == 2
        weights = policy_run["output_dir"] / "last" / "policy" / "model.safetensors"
        assert hub.files("user/p")["model.safetensors"] == weights.read_bytes()

    def test_without_a_critic_there_is_no_pair(self, hub, last, policy_run):
        settings = {"algorithm": "grpo", "num_generations": 2, "push_to": ["user/p", "user/c"], "critic": None}
        with pytest.raises(ConfigError, match="grpo has no critic to push with the policy: leave push_to out"):
            train_dvpo.main(flags(policy_run, settings))


def test_check_makes_the_repository_and_asks_for_the_right_to_write(hub):
    pushing = PushEvery("user/new", private=True)
    pushing.check()
    assert hub.repository("user/new").private and len(hub.commits("user/new")) == 1
    with pytest.raises(AccessError, match="may not write to user/new"):
        PushEvery("user/new", token=hub.read_token).check()
