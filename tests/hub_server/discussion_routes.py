"""Pull requests and discussions, as far as the client needs them to propose a change and to merge it."""

from .answers import Answer, HubError
from .repositories import Commit, Repository, now
from .repository_routes import find
from .routing import API, route


def open_discussion(repository: Repository, title: str, description: str, author: str) -> dict:
    number = len(repository.discussions) + 1
    comment = {"edited": False, "hidden": False, "latest": {"raw": description}}
    event = {
        "id": f"{number:024x}",
        "type": "comment",
        "createdAt": now(),
        "author": {"name": author},
        "data": comment,
    }
    repository.discussions[number] = {
        "num": number,
        "title": title,
        "author": {"name": author},
        "createdAt": now(),
        "status": "open",
        "repo": {"name": repository.id, "type": repository.kind[:-1]},
        "isPullRequest": False,
        "events": [event],
    }
    return repository.discussions[number]


def open_pull_request(repository: Repository, base: Commit, title: str, description: str, author: str) -> int:
    """Number of a new pull request that starts at this commit."""
    discussion = open_discussion(repository, title, description, author)
    discussion |= {"isPullRequest": True, "filesWithConflicts": [], "changes": {"base": "refs/heads/main"}}
    repository.references[f"refs/pr/{discussion['num']}"] = base.sha
    return discussion["num"]


@route("POST", rf"{API}/discussions")
def create(hub, request, kind, repo):
    repository = find(hub, request, kind, repo)
    author, body = hub.accounts.require(request).user, request.json()
    if body["pullRequest"]:
        base = repository.at("main")
        number = open_pull_request(repository, base, body["title"], body["description"], author)
        repository.discussions[number]["status"] = "draft"
    else:
        number = open_discussion(repository, body["title"], body["description"], author)["num"]
    return Answer.json({"num": number, "pullRequest": body["pullRequest"]})


@route("GET", rf"{API}/discussions")
def list_discussions(hub, request, kind, repo):
    discussions = list(find(hub, request, kind, repo).discussions.values())
    return Answer.json({"discussions": discussions, "count": len(discussions), "start": 0})


def discussion_of(repository: Repository, number: str) -> dict:
    if int(number) not in repository.discussions:
        raise HubError(404, f"Discussion not found: {number}")
    return repository.discussions[int(number)]


@route("GET", rf"{API}/discussions/(?P<number>\d+)")
def details(hub, request, kind, repo, number):
    return Answer.json(discussion_of(find(hub, request, kind, repo), number))


@route("POST", rf"{API}/discussions/(?P<number>\d+)/merge")
def merge(hub, request, kind, repo, number):
    """Brings what a pull request changed to main; refused where main has changed the same files since."""
    repository = find(hub, request, kind, repo, "write")
    discussion = discussion_of(repository, number)
    if not discussion["isPullRequest"] or discussion["status"] not in ("open", "draft"):
        raise HubError(409, "This is no open pull request")
    proposed, main = repository.at(f"refs/pr/{number}"), repository.at("main")
    known = {commit.sha for commit in repository.history("main")}
    base = next(commit for commit in repository.history(proposed.sha) if commit.sha in known)
    tree = dict(main.tree)
    for path in {*base.tree, *proposed.tree}:
        if base.tree.get(path) != proposed.tree.get(path):
            if base.tree.get(path) != main.tree.get(path):
                raise HubError(409, f"Merge conflict in {path}")
            if path in proposed.tree:
                tree[path] = proposed.tree[path]
            else:
                del tree[path]
    author = hub.accounts.require(request).user
    merged = repository.commit("refs/heads/main", tree, f"{discussion['title']} (#{number})", author=author)
    discussion["status"] = "merged"
    discussion["changes"]["mergeCommitId"] = merged.sha
    return Answer.json({})
