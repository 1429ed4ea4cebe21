"""The model under a critic or a policy: by name, and for an adapter by content, as its numbers hang on it."""

import os
from pathlib import Path

from ..digests import file_sha256
from .client import errors_in_words
from .commits import remote_state
from .errors import UnpublishableError
from .model_files import is_weights
from .names import PublicNames
from .staging import Staged


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
