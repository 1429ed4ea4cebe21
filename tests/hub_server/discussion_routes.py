"""Pull requests, as far as a push needs them: opened by a commit, and found again."""

from .answers import Answer
from .repositories import Commit, Repository, now
from .repository_routes import find
from .routing import API, route


def open_pull_request(repository: Repository, base: Commit, title: str, description: str, author: str) -> int:
    """Number of a new pull request that starts at this commit."""
    number = len(repository.discussions) + 1
    repository.discussions[number] = {
        "num": number,
        "title": title,
        "author": {"name": author},
        "createdAt": now(),
        "status": "open",
        "repo": {"name": repository.id, "type": repository.kind[:-1]},
        "isPullRequest": True,
        "filesWithConflicts": [],
        "changes": {"base": "refs/heads/main"},
        "events": [],
    }
    repository.references[f"refs/pr/{number}"] = base.sha
    return number


@route("GET", rf"{API}/discussions")
def list_discussions(hub, request, kind, repo):
    discussions = list(find(hub, request, kind, repo).discussions.values())
    return Answer.json({"discussions": discussions, "count": len(discussions), "start": 0})
