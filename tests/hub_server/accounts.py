"""Users, their tokens, and who may do what."""

import secrets
from dataclasses import dataclass

from .answers import HubError, Request
from .repositories import Repository


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to, and whether it may write."""

    user: str
    role: str


class Accounts:
    """Tokens and what they stand for."""

    def __init__(self):
        self.tokens: dict[str, Account] = {}

    def add(self, user: str, role: str) -> str:
        token = f"hf_{role}{secrets.token_hex(12)}"
        self.tokens[token] = Account(user, role)
        return token

    def of(self, request: Request) -> Account | None:
        """The account behind a request, None where it came without a token."""
        if request.token is None:
            return None
        if request.token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[request.token]

    def require(self, request: Request) -> Account:
        account = self.of(request)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        return account

    def require_write(self, request: Request, namespace: str, what: str) -> Account:
        """The account, where it may write to this namespace."""
        account = self.require(request)
        if account.role != "write":
            raise HubError(403, f"Forbidden: you must use a write token to {what}")
        if account.user != namespace:
            raise HubError(403, f'You don\'t have the rights to {what} under the namespace "{namespace}"')
        return account

    def check(self, request: Request, repository: Repository | None, need: str) -> Repository:
        """The repository, where this request may `see`, `read` (its files), `propose` to or `write` to it.

        What is private looks missing to others; without a token the Hub says 401 for both.
        """
        account = self.of(request)
        owns = account is not None and repository is not None and account.user == repository.owner
        if repository is None or (repository.private and not owns):
            if account is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if need == "read" and repository.gated and not owns:
            message = f"Access to model {repository.id} is restricted. You must have access to it."
            raise HubError(403 if account else 401, message, "GatedRepo")
        if need in ("propose", "write"):
            if self.require(request).role != "write":
                raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
            if need == "write" and not owns:
                message = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
                raise HubError(403, message)
        return repository
