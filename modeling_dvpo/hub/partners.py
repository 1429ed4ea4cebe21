"""What else a model is pushed with, and whether they fit: the other side of its pair, and the model it stands on."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi

from ..digests import file_sha256
from .client import PublicNames, errors_in_words
from .errors import TokenizerMismatchError, UnpublishableError
from .model_files import decides_numbers, is_tokenizer, is_weights, read_json
from .records import changed_files, digests
from .remote import RemoteState, read_remote, remote_state
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
    return json.loads(Path(pair).read_text(encoding="utf-8")) if isinstance(pair, str | os.PathLike) else pair


def check_fits(policy: Staged, critic: Staged, pair: Mapping | None) -> None:
    """Both are the files that pair.json names, and read the same tokens.

    Raises:
        UnpublishableError: one has no tokenizer, or is not what pair.json names.
        TokenizerMismatchError: their tokenizers differ.
    """
    for role, staged in (("policy", policy), ("critic", critic)):
        if staged.tokenizer is None:
            raise UnpublishableError(f"{staged.source} has no tokenizer, and a pair needs one: give tokenizer=.")
        recorded = (pair or {}).get("files", {}).get(role)
        if recorded is not None:
            found = {path: digest for path, digest in digests(staged.files).items() if is_weights(path)}
            if changed := changed_files(recorded, found):
                raise UnpublishableError(
                    f"{staged.source} is not the {role} of {PAIR_FILE}: {'; '.join(changed[:5])}. Push the two that "
                    "the run saved together, or leave `pair` out."
                )
    if names := fingerprint_difference(policy.tokenizer or {}, critic.tokenizer or {}):
        raise TokenizerMismatchError(
            f"The tokenizers of {policy.source} and {critic.source} differ in {', '.join(names)}, so the "
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
                target.write_bytes(read_remote(api, state, path) or b"")
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
            found[path] = file.sha256 or hashlib.sha256(read_remote(api, state, path) or b"").hexdigest()
    return found


def base_model_facts(staged: Staged, names: PublicNames, base_model: str | None) -> dict | None:
    """What the record says of the base model; None where it is not known.

    Args:
        base_model: its Hub name, where the files here do not say it.

    Raises:
        UnpublishableError: the adapter was trained on other weights than the repository has.
    """
    training = staged.config.get("critic_training") or {}
    if staged.adapter_base is None:
        repo = base_model or training.get("parent")
        if repo is None:
            return None
        facts = {"repo": repo, "relation": "finetune"}
        if not base_model and training.get("parent_revision"):
            facts["revision"] = training["parent_revision"]
        return facts
    repo = base_model or staged.adapter_base
    with errors_in_words(repo, f"look up the base model {repo}"):
        state = remote_state(names.api, repo)
    files = {path: file.sha256 for path, file in state.files.items() if is_weights(path) and file.sha256}
    if not files:
        raise UnpublishableError(
            f"The base model {repo} has no safetensors weights on the Hub, so it cannot be loaded."
        )
    if os.path.isdir(staged.adapter_base):
        local = Path(staged.adapter_base)
        here = {path.name: file_sha256(path) for path in sorted(local.glob("*.safetensors")) if is_weights(path.name)}
        if here != files:
            raise UnpublishableError(
                f"The adapter was trained on {local}, whose weights are not those of {repo} (main, "
                f"{state.commit[:8]}). Push that model first, or give the base_model that it stands on."
            )
    return {"repo": repo, "relation": "adapter", "commit": state.commit, "files": files}
