"""Troubles a network or a Hub may give, and the rules that say when.

hub.faults.add("PUT", "/storage/", CutUpload(1000))                   # the first upload stops after 1000 bytes
hub.faults.add("POST", "/commit/", DropAnswer())                      # the commit happens, nobody hears of it
hub.faults.add("GET", "weights", Refuse(503), times=2, after=1)       # the 2nd and 3rd matching request
hub.faults.add("GET", ".*", Refuse(500), times=None)                  # for ever
hub.faults.add("POST", "/commit/", Before(lambda: hub.add_commit("user/repo", {"a.txt": b"theirs"})))
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .answers import Answer, Request


class Trouble:
    """What happens to a request; this one is none. Subclasses say where they step in."""

    upload_limit: int | None = None  # bytes of body that are read before the connection is cut
    download_limit: int | None = None  # bytes of body that are sent before the connection is cut
    reset = False  # cut by a TCP reset, as a crashed peer would; else closed in order

    def before(self, request: Request) -> Answer | None:
        """Runs once the body is read; an answer given here is sent without the request being handled."""

    def change(self, answer: Answer) -> Answer | None:
        """What is sent instead of the answer to the handled request; None: nothing, and the connection closes."""
        return answer


@dataclass
class CutUpload(Trouble):
    """The connection closes after this many bytes of the request's body; the request is not handled."""

    upload_limit: int


@dataclass
class CutDownload(Trouble):
    """The whole length is announced, this many bytes of the answer's body are sent, and the connection closes."""

    download_limit: int
    reset: bool = False


class DropAnswer(Trouble):
    """The request is handled, its effects stay, and the connection closes without an answer."""

    def change(self, answer):
        return None


@dataclass
class Refuse(Trouble):
    """This status instead of handling the request."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "refused by a fault"

    def before(self, request):
        return Answer(self.status, self.message.encode(), {"Content-Type": "text/plain", **self.headers})


def too_many_requests(reset_in: int = 0) -> Refuse:
    """A 429 with the headers by which the Hub says in how many seconds to come again."""
    limits = {"RateLimit": f'"api";r=0;t={reset_in}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    return Refuse(429, {**limits, "Retry-After": str(reset_in)}, "Too many requests")


@dataclass
class Truncate(Trouble):
    """Only the first `keep` bytes of the body, announced as if they were all."""

    keep: int

    def change(self, answer):
        return Answer(answer.status, answer.body[: self.keep], answer.headers)


@dataclass
class Corrupt(Trouble):
    """The body with one byte changed, of the same size."""

    position: int = 0

    def change(self, answer):
        body = bytearray(answer.body)
        body[self.position] ^= 0xFF
        return Answer(answer.status, bytes(body), answer.headers)


@dataclass
class Delay(Trouble):
    """The answer comes this many seconds late."""

    seconds: float

    def before(self, request):
        time.sleep(self.seconds)


@dataclass
class Before(Trouble):
    """Calls `hook()` before the request is handled: somebody else acts in between."""

    hook: Callable[[], object]

    def before(self, request):
        self.hook()


@dataclass
class Rule:
    """When a trouble strikes; `hits` counts how often it did."""

    method: str
    pattern: str
    trouble: Trouble
    times: int | None
    after: int
    seen: int = 0
    hits: int = 0

    def strikes(self, request: Request) -> bool:
        if request.method != self.method or not re.search(self.pattern, request.target):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Faults:
    """The rules of a server; several may strike one request, in the order in which they were added."""

    def __init__(self):
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, method: str, pattern: str, trouble: Trouble, *, times: int | None = 1, after: int = 0) -> Rule:
        """Lets a trouble strike requests of this method whose decoded path and query hold the regular expression.

        Args:
            times: how many requests it strikes; None: all.
            after: how many matching requests pass unharmed before.

        Returns:
            The rule; its `hits` say whether the fault was met at all.
        """
        rule = Rule(method, pattern, trouble, times, after)
        self.rules.append(rule)
        return rule

    def striking(self, request: Request) -> list[Trouble]:
        with self._lock:
            return [rule.trouble for rule in self.rules if rule.strikes(request)]

    def clear(self) -> None:
        self.rules.clear()
