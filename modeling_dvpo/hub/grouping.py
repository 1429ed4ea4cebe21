"""A collection that shows policy, critic and data set together."""

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .client import in_brief, retrying
from .errors import PushFailedError

NOTES = {"policy": "the policy", "critic": "the critic that judges it", "dataset": "what they were trained on"}


def group(api: HfApi, collection: str, *, critic: str, policy: str | None = None, dataset: str | None = None) -> str:
    """Put the repositories that are named into a collection; what is in it stays.

    Args:
        collection: a slug ("owner/title-0123456789abcdef01234567"), or a title: of a collection of the critic's
            owner, made where there is none.

    Returns:
        The collection's slug.

    Raises:
        PushFailedError: it could not be made or filled; the models are pushed by then.
    """
    owner = critic.split("/")[0]
    named = {"policy": policy, "critic": critic, "dataset": dataset}
    items = {role: repo_id for role, repo_id in named.items() if repo_id is not None}
    try:
        slug = _find_or_make(api, collection, owner, critic)
        for role, repo_id in items.items():
            item = {"item_id": repo_id, "item_type": "dataset" if role == "dataset" else "model", "note": NOTES[role]}
            retrying(api.add_collection_item, slug, **item, exists_ok=True)
        return slug
    except HTTPError as error:
        models = " and ".join(items[role] for role in ("policy", "critic") if role in items)
        raise PushFailedError(
            f"{models}: pushed, but the collection {collection!r} could not be filled ({in_brief(error)}). Run "
            "the same push again."
        ) from error


def _find_or_make(api: HfApi, collection: str, owner: str, critic: str) -> str:
    if "/" in collection:
        return retrying(api.get_collection, collection).slug
    own = retrying(lambda: list(api.list_collections(owner=owner)))
    if found := [one.slug for one in own if one.title == collection]:
        return found[0]
    private = retrying(api.model_info, critic).private
    return retrying(api.create_collection, collection, namespace=owner, private=private, exists_ok=True).slug
