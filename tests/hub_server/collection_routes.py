"""Collections: lists of repositories under a title."""

import re
import secrets

from .answers import Answer, HubError
from .repositories import now
from .routing import route

SLUG = r"/api/collections/(?P<slug>[^/]+/[^/]+)"


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
    [owner] = request.values("owner")
    listed = [collection for collection in hub.collections.values() if collection["owner"] == owner]
    # lists tell no more than four items of each, and leave the position to the client
    shown = [{**one, "items": one["items"][:4]} for one in listed]
    return Answer.json([{key: value for key, value in one.items() if key != "position"} for one in shown])


@route("GET", SLUG)
def get(hub, request, slug):
    if slug not in hub.collections:
        raise HubError(404, f"Collection not found: {slug}")
    return Answer.json(hub.collections[slug])


@route("POST", rf"{SLUG}/items")
def add_item(hub, request, slug):
    collection = hub.collections[slug]
    hub.accounts.require_write(request, collection["owner"], "change a collection")
    item, note = request.json()["item"], request.json()["note"]
    if (item["type"] + "s", item["id"]) not in hub.repositories:
        raise HubError(404, f"{item['type']} not found: {item['id']}")
    if any((one["type"], one["id"]) == (item["type"], item["id"]) for one in collection["items"]):
        raise HubError(409, f"{item['id']} is already in this collection")
    added = {"_id": secrets.token_hex(12), "id": item["id"], "type": item["type"]}
    added |= {"position": len(collection["items"]), "note": {"text": note, "html": note}}
    collection["items"].append(added)
    return Answer.json(collection)
