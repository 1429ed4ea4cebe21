"""The Hub's client as used here: asked again when the trouble may pass, and errors in words."""

import time
from collections.abc import Callable
from contextlib import contextmanager

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..version import __version__
from .errors import (
    AccessError,
    ConcurrentCommitError,
    HubError,
    UnreachableError,
)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts; huggingface_hub itself asks only once for most things
PASSING = (408, 429, 500, 502, 503, 504)


def hub_api(token: str | bool | None = None) -> HfApi:
    """The client for `HF_ENDPOINT`; `token` as everywhere in huggingface_hub (None: the one logged in with)."""
    return HfApi(token=token, library_name="modeling_dvpo", library_version=__version__)


def status_of(error: BaseException) -> int | None:
    """HTTP status of the Hub's answer; None where there was none."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: overload, or a connection that broke."""
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in PASSING
    return isinstance(error, HTTPError)


def wait_after(error: BaseException, wait: float) -> None:
    """Sleep `wait` seconds, or as long as the Hub asks for."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    time.sleep(min(float(asked), 300.0) if asked.isdigit() else wait)


def retrying(call: Callable, *args, **kwargs):
    """`call(*args, **kwargs)`, again after troubles that may pass; only for what may be done twice."""
    for wait in WAITS:
        try:
            return call(*args, **kwargs)
        except HTTPError as error:
            if not may_pass(error):
                raise
            wait_after(error, wait)
    return call(*args, **kwargs)


def in_brief(error: BaseException) -> str:
    """What went wrong, on one line, without the client's links and ids."""
    if isinstance(error, HfHubHTTPError):
        return f"status {status_of(error)}, {error.server_message or str(error).splitlines()[0]}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def errors_in_words(repo_id: str, doing: str):
    """Turn what the client raises inside the block into a `HubError` that says what to do.

    Args:
        doing: the thing that was tried, as in "Could not <doing>".
    """
    try:
        yield
    except HubError:
        raise
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise in_words(error, repo_id, doing) from error


def in_words(error: BaseException, repo_id: str, doing: str) -> HubError:
    status, failed = status_of(error), f"Could not {doing}"
    login = "log in with `hf auth login`, set HF_TOKEN, or give token="
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError(f"{failed}: offline mode is on (HF_HUB_OFFLINE). Switch it off and try again.")
    if isinstance(error, LocalTokenNotFoundError):
        return AccessError(f"{failed}: no token is stored here. To get one in place, {login}.")
    if isinstance(error, GatedRepoError):
        return AccessError(f"{failed}: {repo_id} is gated. Ask for access on its page, then {login}.")
    if isinstance(error, RevisionNotFoundError):
        return AccessError(f"{failed}: {repo_id} has no such revision. Give a branch, tag, commit or refs/pr/N of it.")
    if isinstance(error, RepositoryNotFoundError):
        return AccessError(
            f"{failed}: {repo_id} does not exist, or is private and your token may not see it. Check its name; "
            f"for a private one, {login}."
        )
    if status == 401:
        return AccessError(f"{failed}: the Hub does not know your token, or got none. To give a valid one, {login}.")
    if status == 403:
        return AccessError(
            f"{failed}: your token may not write to {repo_id} (a read-only one, or somebody else's repository). To "
            f"give one that may, {login}; or propose the change with create_pr=True."
        )
    if status == 412:
        return ConcurrentCommitError(f"{failed}: somebody else committed to {repo_id} meanwhile. Try again.")
    if status is not None and not may_pass(error):
        return HubError(f"{failed}: the Hub refused: {in_brief(error)}")
    answer = f"answered {status} every time" if status else f"did not answer ({in_brief(error)})"
    return UnreachableError(f"{failed}: the Hub {answer}. Try again later.")
