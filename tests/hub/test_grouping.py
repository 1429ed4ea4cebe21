"""Policy, critic and data set in one collection."""

import pytest
from hub_changes import CRITIC, POLICY
from hub_server.faults import Refuse
from tiny_pairs import TRAINING, save_critic

from modeling_dvpo.hub import PushFailedError, push_critic, push_pair
from modeling_dvpo.hub.client import hub_api
from modeling_dvpo.hub.commits import group

pytest_plugins = ["hub_server.fixtures", "pushed_pairs"]


@pytest.fixture
def data(hub, last):
    hub.add_commit("user/rewards", {}, repo_type="dataset")
    return "user/rewards"


def items(hub, slug):
    return [(item.item_type, item.item_id) for item in hub_api().get_collection(slug).items]


ALL = [("model", POLICY), ("model", CRITIC), ("dataset", "user/rewards")]


def test_is_made_by_its_title_and_found_again(hub, data):
    slug = group(hub_api(), "Careful critics", policy=POLICY, critic=CRITIC, dataset=data)
    assert slug.startswith("user/careful-critics-") and items(hub, slug) == ALL
    assert group(hub_api(), "Careful critics", policy=POLICY, critic=CRITIC, dataset=data) == slug
    assert group(hub_api(), slug, critic=CRITIC) == slug
    assert items(hub, slug) == ALL and len(hub.collections) == 1


def test_of_private_models_is_private(hub, data):
    hub.repository(CRITIC).private = True
    assert hub_api().get_collection(group(hub_api(), "Mine", critic=CRITIC)).private


def test_with_a_push(hub, last, data, tmp_path, tiny_tokenizer):
    critic = save_critic(tmp_path / "critic", tiny_tokenizer, training={**TRAINING, "dataset": data})
    push_critic(critic, CRITIC, policy=POLICY, collection="Careful critics", card=False)
    (slug,) = hub.collections
    assert items(hub, slug) == ALL
    push_pair(last, None, POLICY, CRITIC, collection=slug, dataset=data, card=False)
    assert items(hub, slug) == ALL


def test_a_failure_says_that_the_models_are_pushed(hub, last, quick):
    hub.faults.add("POST", "/api/collections", Refuse(500), times=None)
    match = "user/policy and user/critic: pushed, but the collection 'Mine' could not be filled .status 500"
    with pytest.raises(PushFailedError, match=match):
        push_pair(last, None, POLICY, CRITIC, collection="Mine", card=False)
