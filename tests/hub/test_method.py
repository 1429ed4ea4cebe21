"""`critic.push_to_hub` and `from_pretrained` of transformers, without our `push_critic`, against a Hub."""

import pytest
import torch
from hub_changes import CRITIC, values
from tiny_critics import tiny_batch
from tiny_pairs import make_adapter, make_critic, save_policy

from modeling_dvpo.hub import CriticMovedOnError, pull_pair

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


def is_held(hub, critic, **options):
    assert torch.equal(values(CRITIC, **options), critic(tiny_batch()).quantiles)


def test_old_weights_are_not_loaded_in_place_of_new_ones(hub):
    """transformers leaves model.safetensors under new shards and then loads it: the old critic, without a word."""
    whole, sharded = make_critic(), make_critic(seed=1)
    hub.add_commit(CRITIC, {"notes.txt": b"mine", "sub/model.safetensors": b"theirs", "pytorch_model.bin": b"\0"})
    for critic, options in ((whole, {}), (sharded, {"max_shard_size": "20KB"}), (whole, {})):
        commits = len(hub.commits(CRITIC))
        critic.push_to_hub(CRITIC, **options)
        assert len(hub.commits(CRITIC)) == commits + 1
        is_held(hub, critic)
    files = hub.files(CRITIC)
    assert [name for name in files if "model" in name and name.endswith(("safetensors", "index.json", "bin"))] == [
        "model.safetensors",
        "sub/model.safetensors",
    ]
    assert files["notes.txt"] == b"mine" and "README.md" in files


def test_a_branch_and_a_pull_request(hub):
    first, second, third = (make_critic(seed=seed) for seed in range(3))
    first.push_to_hub(CRITIC, private=True)
    second.push_to_hub(CRITIC, revision="trial", max_shard_size="20KB", commit_message="Second")
    third.push_to_hub(CRITIC, create_pr=True)
    is_held(hub, first)
    is_held(hub, second, revision="trial")
    is_held(hub, third, revision="refs/pr/1")
    assert hub.repository(CRITIC).private and hub.commits(CRITIC, "trial")[0].title == "Second"


def test_whole_weights_under_an_adapter(hub, tmp_path, tiny_tokenizer):
    base = save_policy(tmp_path / "base", tiny_tokenizer)
    make_critic().push_to_hub(CRITIC)
    adapted = make_adapter(base)
    adapted.push_to_hub(CRITIC)
    assert "model.safetensors" not in hub.files(CRITIC)
    is_held(hub, adapted)
    make_critic().push_to_hub(CRITIC)
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(hub.files(CRITIC))
    is_held(hub, make_critic())


def test_the_record_of_a_pair_does_not_cover_it(hub, last):
    make_critic(seed=8).push_to_hub(CRITIC)
    with pytest.raises(CriticMovedOnError, match="Its files were replaced after the push"):
        pull_pair(CRITIC)
