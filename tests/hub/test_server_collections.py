"""Collections and cards on the Hub server, by way of the real client."""

import pytest
from hub_server.faults import Refuse
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

pytest_plugins = ["hub_server.fixtures"]

REPO = "user/model"


@pytest.fixture
def api(hub):
    """The client's API, with an empty model and an empty data set."""
    api = HfApi()
    api.create_repo(REPO)
    api.create_repo("user/data", repo_type="dataset")
    return api


def test_a_collection(hub, api):
    slug = api.create_collection("Two critics!", description="why").slug
    assert slug.startswith("user/two-critics-")
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_collection("Two critics!")
    assert refusal.value.response.status_code == 409
    assert api.create_collection("Two critics!", exists_ok=True).slug == slug

    api.add_collection_item(slug, REPO, "model", note="first")
    api.add_collection_item(slug, "user/data", "dataset")
    with pytest.raises(HfHubHTTPError, match="already in this collection"):
        api.add_collection_item(slug, REPO, "model")
    api.add_collection_item(slug, REPO, "model", exists_ok=True)
    with pytest.raises(HfHubHTTPError, match="not found"):
        api.add_collection_item(slug, "user/missing", "model")
    collection = api.get_collection(slug)
    assert (collection.title, collection.owner, collection.description) == ("Two critics!", "user", "why")
    assert [(item.item_id, item.item_type, item.note) for item in collection.items] == [
        (REPO, "model", "first"),
        ("user/data", "dataset", None),
    ]
    assert collection.url == f"{hub.endpoint}/collections/{slug}"

    first, second = collection.items
    api.update_collection_item(slug, second.item_object_id, note="second", position=0)
    moved = api.get_collection(slug).items
    assert [(item.note, item.position) for item in moved] == [("second", 0), ("first", 1)]
    api.delete_collection_item(slug, first.item_object_id)
    api.delete_collection_item(slug, first.item_object_id, missing_ok=True)
    assert [item.item_id for item in api.get_collection(slug).items] == ["user/data"]
    assert api.update_collection_metadata(slug, title="One", private=True).title == "One"
    assert api.get_collection(slug).private

    api.delete_collection(slug)
    api.delete_collection(slug, missing_ok=True)
    with pytest.raises(HfHubHTTPError, match="not found"):
        api.get_collection(slug)


def test_lists_of_collections(hub, api):
    other = HfApi(token=hub.add_token("other"))
    slugs = [api.create_collection(title).slug for title in ("a", "b")]
    hidden = api.create_collection("hidden", private=True).slug
    theirs = other.create_collection("a").slug  # of the same title, but another's
    for number in range(5):
        api.create_repo(f"model-{number}")
        api.add_collection_item(slugs[0], f"user/model-{number}", "model")

    def listed(who, **settings):
        return [collection.slug for collection in who.list_collections(**settings)]

    assert listed(api) == [*slugs, hidden, theirs] and listed(other) == [*slugs, theirs]
    assert listed(api, owner="user", limit=1) == slugs[:1]
    assert listed(api, item="models/user/model-4") == slugs[:1]
    # lists tell no more than four items of each
    assert [len(next(iter(api.list_collections())).items), len(api.get_collection(slugs[0]).items)] == [4, 5]
    with pytest.raises(HfHubHTTPError, match="don't have the rights"):
        other.add_collection_item(slugs[0], REPO, "model")
    with pytest.raises(HfHubHTTPError, match="not found"):
        other.get_collection(hidden)


def card(metadata: str) -> str:
    return f"---\n{metadata}\n---\n# A card\n"


RESULT = "{{task: {{type: x}}, dataset: {{type: d, name: D}}, metrics: [{}]}}"
INDEX = "model-index: [{{name: m, results: [{}]}}]"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("license: my-own", '"license" must be one of'),
        ("base_model_relation: critic", '"base_model_relation" must be one of'),
        ("base_model: https://example.org/model", '"base_model" with value'),
        ("tags: critic", '"tags" must be an array'),
        ("tags: [1]", "array of strings"),
        ("library_name: [a]", '"library_name" must be a string'),
        ("model-index: {name: m}", '"model-index" must be an array'),
        ("model-index: [{results: []}]", r'"model-index\[0\].name" is required'),
        (INDEX.format("{task: {type: x}, metrics: []}"), r'results\[0\].dataset" is required'),
        (INDEX.format(RESULT.format("{type: accuracy}")), r'metrics\[0\].value" is required'),
        ("a: [", "YAML Metadata Error"),
    ],
)
def test_a_wrong_card_is_refused(hub, api, metadata, error):
    upload = {"repo_id": REPO, "path_or_fileobj": card(metadata).encode(), "path_in_repo": "README.md"}
    with pytest.raises(ValueError, match=error):  # before anything is uploaded
        api.upload_file(**upload)
    assert hub.count("POST", "/preupload/") == 0
    # whoever does not ask before is refused at the commit
    hub.faults.add("POST", "/api/validate-yaml", Refuse(200, message="{}"))
    with pytest.raises(BadRequestError, match="Invalid metadata"):
        api.upload_file(**upload)


def test_a_right_card_passes_and_is_told_back(hub, api):
    text = card("license: mit\nbase_model: org/base\nbase_model_relation: finetune\ntags: [critic]\ndatasets: org/d")
    ModelCard(text).push_to_hub(REPO)
    result = RESULT.format("{type: accuracy, value: 0.5}")
    ModelCard(card("license: mit\nlibrary_name: transformers\n" + INDEX.format(result))).push_to_hub(
        REPO, create_pr=True
    )
    info = api.model_info(REPO)
    assert info.card_data.base_model == "org/base" and info.card_data.license == "mit"
    assert {"critic", "base_model:org/base", "base_model:finetune:org/base", "dataset:org/d"} <= set(info.tags)
    assert [model.id for model in api.list_models(filter="base_model:finetune:org/base")] == [REPO]
    proposed = api.model_info(REPO, revision="refs/pr/1")
    assert proposed.library_name == "transformers"
    # the Hub keeps it apart from the rest of the card's data
    assert proposed.model_index[0]["results"][0]["metrics"][0]["value"] == 0.5
    assert proposed.card_data.eval_results is None


def test_a_doubtful_card_is_warned_of(hub, api):
    for text, warning in {
        "# no metadata": "empty or missing yaml",
        card("datasets: [a b]"): '"datasets" with',
    }.items():
        with pytest.warns(UserWarning, match=warning):
            api.upload_file(repo_id=REPO, path_or_fileobj=text.encode(), path_in_repo="README.md")
