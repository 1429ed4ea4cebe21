"""What comes in over HTTP and what goes back."""

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote


@dataclass
class Request:
    """One request, as kept in `HubServer.requests`.

    `path` is percent-encoded and without the query; `status` is None while no answer was begun, which stays so where a
    fault cut the connection. `upload` counts the bytes of body that arrived.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    status: int | None = None
    upload: int = 0

    @property
    def target(self) -> str:
        """Decoded path and query, for matching and for reading."""
        return unquote(self.path + ("?" + self.query if self.query else ""))

    @property
    def token(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" and token else None

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def values(self, name: str) -> list[str]:
        """Every value of a query parameter; `name[]` counts as `name`."""
        parameters = parse_qs(self.query)
        return parameters.get(name, []) + parameters.get(f"{name}[]", [])

    def flag(self, name: str) -> bool:
        return any(value.lower() in ("1", "true") for value in self.values(name))


@dataclass
class Answer:
    """Status, headers and body; a HEAD request gets all but the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data, status: int = 200, **headers: str) -> "Answer":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **named})


class HubError(Exception):
    """Refusal of a request; `code` is what the Hub puts in `X-Error-Code`, by which its client picks the exception."""

    def __init__(self, status: int, message: str, code: str | None = None, *, headers=None, **data):
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.data = status, message, code, headers or {}, data

    def answer(self) -> Answer:
        answer = Answer.json({"error": self.message, **self.data}, self.status)
        answer.headers |= {"X-Error-Message": self.message, **({"X-Error-Code": self.code} if self.code else {})}
        answer.headers |= self.headers
        return answer
