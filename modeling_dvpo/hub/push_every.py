"""Pushing while training: a saved directory goes to the Hub in the background, from rank 0 only."""

import importlib.util
import os
import shutil
import tempfile
import traceback
import warnings
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from ..ranks import is_main
from .client import errors_in_words, hub_api, retrying
from .commits import open_repository
from .errors import PushFailedError
from .push import push_critic, push_pair


class PushEvery:
    """Pushes what a run has saved, every n steps and at the end; training does not wait for it and does not die of it.

        pushing = PushEvery("owner/critic", every=500, private=True)
        ...
        if pushing.is_due(step):
            save(directory)  # on every rank
            pushing(directory, step)
        ...
        pushing.finish(directory, step)

    A push that is due while the one before is still on its way is left out; the last one never is. What is pushed is
    the directory as it was at the call, whatever happens to it later.

    Args:
        repo_id: of the critic; or of policy and critic, as (policy, critic), for directories that hold both.
        every: steps between pushes; 0: at the end only.
        options: of `push_critic`, or of `push_pair`.
    """

    def __init__(self, repo_id: str | tuple[str, str], *, every: int = 0, **options):
        if every < 0:
            raise ValueError(f"every is {every}; it must be a number of steps, or 0 for the end only.")
        self.repo_id, self.every, self.options = repo_id, every, options
        self._api = hub_api(options.get("token"))
        self._on_its_way: Future | None = None

    def check(self) -> None:
        """Find out before training whether the repositories may be pushed to; makes those that there are not.

        Raises:
            HubError: they may not, and why.
            ImportError: cards are wanted, and what makes them is not installed.
        """
        if not is_main():
            return
        if self.options.get("card", True) and importlib.util.find_spec("jinja2") is None:
            raise ImportError('Cards need jinja2: pip install "modeling-dvpo[cards]".')
        for repo_id in [self.repo_id] if isinstance(self.repo_id, str) else self.repo_id:
            where = {"revision": self.options.get("revision") or "main"}
            open_repository(self._api, repo_id, private=self.options.get("private"), **where)
            with errors_in_words(repo_id, f"push to {repo_id}"):
                # asks for the right to write, and writes nothing
                where["create_pr"] = self.options.get("create_pr")
                retrying(self._api.preupload_lfs_files, repo_id, [CommitOperationAdd("probe", b"probe")], **where)

    def is_due(self, step: int) -> bool:
        """Whether this step is to be saved and pushed; the same on every rank."""
        return bool(self.every) and step % self.every == 0

    def __call__(self, directory: str | os.PathLike, step: int) -> None:
        """Push the directory in the background; on ranks other than 0 nothing happens. A failure is a warning."""
        if not is_main():
            return
        if self._on_its_way is not None and not self._on_its_way.done():
            warnings.warn(
                f"Step {step} is not pushed to {self.repo_id}: the push before is still on its way.", stacklevel=2
            )
            return
        self._wait()
        self._on_its_way = self._api.run_as_future(self._push, _linked_copy(Path(directory)), step)

    def finish(self, directory: str | os.PathLike, step: int) -> None:
        """Wait for the push on its way, then push what was saved last, and wait for that.

        Raises:
            PushFailedError: it failed; the message says how to do it by hand.
        """
        if not is_main():
            return
        self._wait()
        try:
            self._push(_linked_copy(Path(directory)), step)
        except Exception as error:
            repos = self.repo_id if isinstance(self.repo_id, str) else " ".join(self.repo_id)
            raise PushFailedError(
                f"The run is complete, and {directory} is not on the Hub: {error} When the trouble is over: dvpo push "
                f"{directory} {repos}"
            ) from error

    def _push(self, copy: Path, step: int) -> None:
        options = {"commit_message": f"Step {step}", **self.options}
        try:
            if isinstance(self.repo_id, str):
                push_critic(copy, self.repo_id, **options)
            else:
                push_pair(copy, None, *self.repo_id, **options)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _wait(self) -> None:
        """Until no push is on its way. A failure, of whatever kind, is a warning: the run is worth more."""
        error = self._on_its_way.exception() if self._on_its_way is not None else None
        self._on_its_way = None
        if error is not None:
            cause = "".join(traceback.format_exception_only(error)).strip()
            warnings.warn(f"A push to {self.repo_id} failed, and training goes on: {cause}", stacklevel=3)


def _linked_copy(directory: Path) -> Path:
    """The directory's files under another name, by links where the file system has them: saving replaces it whole."""
    copy = Path(tempfile.mkdtemp(prefix=f".{directory.name}-pushed-", dir=directory.resolve().parent))
    shutil.copytree(directory, copy, dirs_exist_ok=True, copy_function=_link_or_copy)
    return copy


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
