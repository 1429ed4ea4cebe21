"""The two sides of a pair before it is pushed: where they lie, and whether they belong together."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi

from .client import errors_in_words
from .commits import RemoteState, read_remote, remote_state
from .errors import TokenizerMismatchError, UnpublishableError
from .model_files import (
    decides_numbers,
    is_tokenizer,
    is_weights,
    read_json,
)
from .records import changed_files, digests
from .staging import Staged
from .tokenizers import directory_fingerprint, fingerprint_difference

PAIR_FILE = "pair.json"


def pair_directories(directory) -> tuple[Path, Path, dict | None]:
    """Policy, critic and pair.json in what a run of train_dvpo.py left: the run's directory, or its `last/`.

    Raises:
        UnpublishableError: there are not both.
    """
    directory = Path(directory)
    for folder in (directory, directory / "last"):
        if (folder / "policy").is_dir() and (folder / "critic").is_dir():
            return folder / "policy", folder / "critic", read_json(folder / PAIR_FILE)
    raise UnpublishableError(
        f"{directory} has no policy/ and critic/ beside each other, nor has its last/. Give the directory of a run of "
        "train_dvpo.py whose algorithm has a critic, or policy and critic each by its own directory."
    )


def run_of(directory) -> Path | None:
    """The training run that a directory was saved by, if it lies in one."""
    above = [] if not isinstance(directory, str | os.PathLike) else list(Path(directory).resolve().parents)[:2]
    runs = [folder for folder in above if (folder / "run.json").is_file() and (folder / "metrics.jsonl").is_file()]
    return runs[0] if runs else None


def read_pair(pair) -> dict | None:
    return json.loads(Path(pair).read_text()) if isinstance(pair, str | os.PathLike) else pair


def check_fits(policy: Staged, critic: Staged, pair: Mapping | None, sources: Mapping[str, Path]) -> None:
    for role, staged in (("policy", policy), ("critic", critic)):
        if staged.tokenizer is None:
            raise UnpublishableError(f"{sources[role]} has no tokenizer, and a pair needs one: give tokenizer=.")
        recorded = (pair or {}).get("files", {}).get(role)
        if recorded is not None:
            found = {path: digest for path, digest in digests(staged.files).items() if is_weights(path)}
            if changed := changed_files(recorded, found):
                raise UnpublishableError(
                    f"{sources[role]} is not the {role} of {PAIR_FILE}: {'; '.join(changed[:5])}. Push the two that "
                    "the run saved together, or leave `pair` out."
                )
    if names := fingerprint_difference(policy.tokenizer, critic.tokenizer):
        raise TokenizerMismatchError(
            f"The tokenizers of {sources['policy']} and {sources['critic']} differ in {', '.join(names)}, so the "
            "critic would read other tokens than the policy writes. Give the tokenizer of both as tokenizer=."
        )


def policy_on_hub(api: HfApi, policy: str, revision: str, critic: Staged) -> dict:
    """What the record says of a policy that is on the Hub already.

    Raises:
        TokenizerMismatchError: it has another tokenizer than the critic.
    """
    with errors_in_words(policy, f"look up the policy {policy}"):
        state = remote_state(api, policy, revision)
        with tempfile.TemporaryDirectory() as folder:
            for path in filter(is_tokenizer, state.files):
                target = Path(folder) / path
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(read_remote(api, state, path))
            theirs = directory_fingerprint(Path(folder))
    if critic.tokenizer and theirs and (names := fingerprint_difference(theirs, critic.tokenizer)):
        raise TokenizerMismatchError(
            f"The critic's tokenizer differs from that of {policy} ({revision}) in {', '.join(names)}, so it does not "
            "read the tokens that the policy writes. Name the policy that it was trained on."
        )
    partner = {"role": "policy", "repo": policy, "files": _remote_digests(api, state), "commit": state.commit}
    return partner if revision == "main" else {**partner, "revision": revision}


def _remote_digests(api: HfApi, state: RemoteState) -> dict[str, str]:
    found = {}
    for path, file in sorted(state.files.items()):
        if decides_numbers(path):
            found[path] = file.sha256 or hashlib.sha256(read_remote(api, state, path)).hexdigest()
    return found
