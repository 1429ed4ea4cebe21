"""The Hub's client as used here: asked again when trouble may pass, errors in words, and names that others may see."""

import os
import re
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

from modeling_dvpo.hub_cards.origins import last_part

from ..version import __version__
from .errors import AccessError, ConcurrentCommitError, HubError, UnreachableError

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts; huggingface_hub itself asks only once for most things
PASSING = (408, 429, 500, 502, 503, 504)
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


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


class PublicNames:
    """Sorts names that a run was given into public ones and paths; remembers what the Hub said."""

    def __init__(self, api: HfApi):
        self.api = api
        self._known: dict[tuple[str, str], bool] = {}

    def repository(self, name: str | None, repo_type: str = "model") -> str | None:
        """The name, if it is a repository that the Hub has, and no directory here; else None.

        "outputs/policy" may be both by its form, so the Hub is asked.
        """
        if not name or os.path.exists(name) or not REPO_ID.fullmatch(name):
            return None
        if (name, repo_type) not in self._known:
            with errors_in_words(name, f"ask the Hub whether it has {name}"):
                self._known[name, repo_type] = retrying(self.api.repo_exists, name, repo_type=repo_type)
        return name if self._known[name, repo_type] else None

    def without_paths(self, value):
        """A setting with every path in it cut down to its last part; public names stay."""
        if isinstance(value, dict):
            return {key: self.without_paths(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.without_paths(one) for one in value]
        if not isinstance(value, str) or not _may_be_path(value):
            return value
        return self.repository(value) or self.repository(value, "dataset") or last_part(value)


def _may_be_path(value: str) -> bool:
    return "/" in value or "\\" in value or value.startswith("~") or os.path.exists(value)


def public_config(config: dict, names: PublicNames) -> dict:
    """A config.json without the paths that the run had in it: unknown parents and data sets are absent."""
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "name_or_path")}
    training = config.get("critic_training")
    if not training:
        return config
    clean = {}
    for key, value in training.items():
        if key in ("parent", "policy"):
            value = names.repository(value)
        elif key == "dataset":
            value = names.repository(value, "dataset")
        else:
            value = names.without_paths(value)
        clean[key] = value
    gone = {key for key in ("parent", "policy", "dataset") if clean.get(key) is None}
    if "parent" in gone:
        gone.add("parent_revision")
    return {**config, "critic_training": {key: value for key, value in clean.items() if key not in gone}}
