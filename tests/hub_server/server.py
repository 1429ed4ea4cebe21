"""`HubServer`: the Hub's state, its two listeners, and what tests may look at or do to it."""

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from . import collection_routes, commit_routes, repository_routes, tree_routes, upload_routes  # noqa: F401
from .accounts import Accounts
from .answers import Request
from .connection import Listener
from .faults import Faults
from .repositories import Commit, Repository, StoredFile


class HubServer:
    """A Hub on the loopback interface; use as a context manager.

    Attributes:
        endpoint: what `HF_ENDPOINT` is to be.
        storage: where large files go to and come from: another origin, so that the client sends it no token.
        token, read_token: tokens of the user `user` that may write and only read.
        requests: every request so far, in order of arrival.
        faults: see `hub_server.faults`.
        crashes: tracebacks of mistakes of this server itself.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.accounts = Accounts()
        self.faults = Faults()
        self.requests: list[Request] = []
        self.crashes: list[str] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict] = {}
        self.uploads: dict[str, upload_routes.Upload] = {}
        self.token = self.add_token("user")
        self.read_token = self.add_token("user", role="read")
        self._listeners: list[Listener] = []

    def __enter__(self) -> "HubServer":
        self._listeners = [Listener(self), Listener(self)]
        self.endpoint, self.storage = (listener.url for listener in self._listeners)
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()

    def add_token(self, user: str, *, role: str = "write") -> str:
        """A new token of a user, who need not exist before, that may "write" or "read"."""
        return self.accounts.add(user, role)

    def repository(self, repo_id: str) -> Repository:
        """A model's repository itself, to look at or to change its settings."""
        return self.repositories["models", repo_id]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a revision with its content, large ones included."""
        return {path: file.content for path, file in self.repository(repo_id).at(revision).tree.items()}

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first; the last is the one that created the repository."""
        return self.repository(repo_id).history(revision)

    def add_commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        *,
        revision: str = "main",
        repo_type: str = "model",
        message: str = "somebody else's commit",
    ) -> Commit:
        """A commit without the client; the repository and the branch are made where there is none.

        Args:
            files: contents by path; None deletes the file.
        """
        with self.lock:
            key = (f"{repo_type}s", repo_id)
            if key not in self.repositories:
                self.repositories[key] = Repository(*key)
            repository = self.repositories[key]
            reference = repository.reference(revision)
            if reference is None:
                reference = f"refs/heads/{revision}"
                repository.references[reference] = repository.at("main").sha
            tree = dict(repository.at(reference).tree)
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = StoredFile(content, lfs=repository.is_large(reference, path, content[:512]))
            return repository.commit(reference, tree, message, author="somebody-else")

    def count(self, method: str, pattern: str) -> int:
        """How many requests of this method had the regular expression in their decoded path and query."""
        return sum(request.method == method and bool(re.search(pattern, request.target)) for request in self.requests)

    def environment(self, cache_dir: str | Path, token: str | None = None) -> dict[str, str]:
        """This process's environment, changed so that a child process uses this Hub.

        Args:
            cache_dir: its own `HF_HOME`: cache, modules and stored tokens.
            token: None: logged out.
        """
        logged_out = {name: value for name, value in os.environ.items() if name not in LOGIN}
        return {**logged_out, **self.settings(cache_dir, token)}

    def settings(self, cache_dir: str | Path, token: str | None = None) -> dict[str, str]:
        """The variables alone that point the client at this Hub."""
        home = Path(cache_dir)
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            # with hf_xet installed the client uploads by it alone, whatever the server says
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return settings if token is None else {**settings, "HF_TOKEN": token}


# Variables that log the client in, whose absence means something.
LOGIN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")
