"""The table of routes: method and path to the function that answers."""

import re
from urllib.parse import unquote

from .answers import HubError

# Parts of paths. A repository is `namespace/name`; a bare name is let through, to be answered as not found.
KIND = r"(?P<kind>models|datasets|spaces)"
REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
API = rf"/api/{KIND}/{REPO}"
PAGE = rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}"

_routes = []


def route(method: str, pattern: str):
    """Registers a function `(hub, request, **groups)`, with the groups of the pattern percent-decoded."""

    def register(function):
        _routes.append((method, re.compile(pattern), function))
        return function

    return register


def find(method: str, path: str):
    """The function for this request and its arguments.

    Raises:
        HubError: 501, which the client never retries, for what this server does not know.
    """
    method = "GET" if method == "HEAD" else method
    for known, pattern, function in _routes:
        if known == method and (match := pattern.fullmatch(path)):
            return function, {name: value and unquote(value) for name, value in match.groupdict().items()}
    raise HubError(501, f"The test Hub has no route for {method} {path}")
