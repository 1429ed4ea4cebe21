"""Collections: lists of repositories, papers and other collections under a title."""

import re
import secrets

from .answers import Answer, HubError
from .repositories import now
from .routing import route

SLUG = r"/api/collections/(?P<slug>[^/]+/[^/]+)"
SHOWN_IN_LISTS = 4  # the Hub's lists of collections tell no more items of each


def collection_of(hub, request, slug: str, *, write: bool = False) -> dict:
    collection = hub.collections.get(slug)
    account = hub.accounts.of(request)
    hidden = collection and collection["private"] and not (account and account.owns(collection["owner"]))
    if collection is None or hidden:
        raise HubError(404, f"Collection not found: {slug}")
    if write:
        hub.accounts.require_write(request, collection["owner"], "change a collection")
        collection["lastUpdated"] = now()
    return collection


@route("POST", "/api/collections")
def create(hub, request):
    body = request.json()
    namespace, title = body["namespace"], body["title"]
    hub.accounts.require_write(request, namespace, "create a collection")
    for collection in hub.collections.values():
        if (collection["owner"], collection["title"]) == (namespace, title):
            raise HubError(409, "This collection already exists", slug=collection["slug"])
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    collection = {
        "slug": f"{namespace}/{words}-{secrets.token_hex(12)}",
        "title": title,
        "owner": namespace,
        "items": [],
        "lastUpdated": now(),
        "position": len(hub.collections),
        "private": body.get("private", False),
        "theme": "orange",
        "upvotes": 0,
        **({"description": body["description"]} if "description" in body else {}),
    }
    hub.collections[collection["slug"]] = collection
    return Answer.json(collection)


@route("GET", "/api/collections")
def list_collections(hub, request):
    account = hub.accounts.of(request)
    owners, items = request.values("owner"), request.values("item")
    listed = []
    for collection in hub.collections.values():
        held = {f"{item['type']}s/{item['id']}" for item in collection["items"]}
        visible = not collection["private"] or (account and account.owns(collection["owner"]))
        if visible and (not owners or collection["owner"] in owners) and (not items or held & set(items)):
            shown = {**collection, "items": collection["items"][:SHOWN_IN_LISTS]}
            del shown["position"]  # the client counts them itself
            listed.append(shown)
    limit = request.values("limit")
    return Answer.json(listed[: int(limit[0])] if limit else listed)


@route("GET", SLUG)
def get(hub, request, slug):
    return Answer.json(collection_of(hub, request, slug))


@route("PATCH", SLUG)
def update(hub, request, slug):
    collection = collection_of(hub, request, slug, write=True)
    collection |= request.json()
    return Answer.json({"success": True, "data": collection})


@route("DELETE", SLUG)
def delete(hub, request, slug):
    collection_of(hub, request, slug, write=True)
    del hub.collections[slug]
    return Answer.json({"success": True})


@route("POST", rf"{SLUG}/items")
def add_item(hub, request, slug):
    collection = collection_of(hub, request, slug, write=True)
    item, note = request.json()["item"], request.json().get("note")
    if item["type"] in ("model", "dataset", "space"):
        key = (item["type"] + "s", item["id"])
        if key not in hub.repositories:
            raise HubError(404, f"{item['type']} not found: {item['id']}")
    if any((one["type"], one["id"]) == (item["type"], item["id"]) for one in collection["items"]):
        raise HubError(409, f"{item['id']} is already in this collection")
    added = {"_id": secrets.token_hex(12), "id": item["id"], "type": item["type"]}
    added |= {"position": len(collection["items"]), **({"note": {"text": note, "html": note}} if note else {})}
    collection["items"].append(added)
    return Answer.json(collection)


def item_of(collection: dict, item_id: str) -> dict:
    for item in collection["items"]:
        if item["_id"] == item_id:
            return item
    raise HubError(404, f"Item not found: {item_id}")


@route("PATCH", rf"{SLUG}/items/(?P<item_id>[^/]+)")
def update_item(hub, request, slug, item_id):
    collection = collection_of(hub, request, slug, write=True)
    item, body = item_of(collection, item_id), request.json()
    if "note" in body:
        item["note"] = {"text": body["note"], "html": body["note"]}
    if "position" in body:
        collection["items"].remove(item)
        collection["items"].insert(body["position"], item)
        renumber(collection)
    return Answer.json({"success": True})


@route("DELETE", rf"{SLUG}/items/(?P<item_id>[^/]+)")
def delete_item(hub, request, slug, item_id):
    collection = collection_of(hub, request, slug, write=True)
    collection["items"].remove(item_of(collection, item_id))
    renumber(collection)
    return Answer.json({"success": True})


def renumber(collection: dict) -> None:
    for position, item in enumerate(collection["items"]):
        item["position"] = position
