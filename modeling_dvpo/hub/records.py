"""`dvpo_pair.json`: what binds a critic to its policy, readable by machines, in the repositories of both.

Each record names its own and the other repository's files by their SHA-256, the tokenizer's fingerprint, and what is
known of how the critic came about. An unknown fact is absent. Commits cannot name each other in a circle: the record
of the one that was pushed second names the commit of the first.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..digests import file_sha256
from .errors import NotAPairError
from .model_files import decides_numbers

RECORD_FILE = "dvpo_pair.json"
FORMAT = 1

VALUE_SETTINGS = {
    "heads": "num_value_heads",
    "quantiles": "num_quantiles",
    "head_type": "value_head_type",
    "return_mean": "return_mean",
    "return_scale": "return_scale",
    "loss": "critic_loss",
}
VALUE_TRAINING = ("gamma", "lam", "returns", "target", "kl_in_reward", "reward_source", "reward_noise", "return_range")
TRAINING = ("algorithm", "dataset", "dataset_config", "dataset_split", "dataset_revision", "seed", "step", "trainable")


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of every file that the model's numbers hang on, by its path in the repository."""
    return {path: file_sha256(local) for path, local in sorted(files.items()) if decides_numbers(path)}


def recorded_facts(config: Mapping) -> dict:
    """What a critic's config says of its values and its training, under the names of the record."""
    training = config.get("critic_training") or {}
    value = {name: config.get(key) for name, key in VALUE_SETTINGS.items()}
    value |= {name: training.get(name) for name in VALUE_TRAINING}
    return _known(
        value=_known(**value),
        training=_known(**{name: training.get(name) for name in TRAINING}),
        versions=training.get("versions"),
    )


def make_record(
    *,
    role: str,
    repo: str,
    model_type: str | None,
    files: Mapping[str, str],
    paths: Iterable[str],
    facts: Mapping,
    tokenizer: Mapping | None,
    base_model: Mapping | None,
    partner: Mapping | None,
) -> dict:
    """The record of one repository.

    Args:
        role: "critic" or "policy".
        files: digests of this repository's model.
        paths: everything the push brings; what a later push no longer brings, it deletes.
        facts: `recorded_facts`, in both records.
        base_model: `repo`, `revision` and `relation` ("finetune" or "adapter"; with an adapter also `files`).
        partner: `role`, `repo`, `files`, and where known `revision` (a branch) and `commit`.
    """
    return {
        "format": FORMAT,
        **_known(role=role, repo=repo, model_type=model_type, partner=partner, files=dict(files)),
        **_known(tokenizer=tokenizer, base_model=base_model, **facts),
        "paths": sorted({*paths, RECORD_FILE}),
    }


def record_bytes(record: Mapping) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def parse_record(content: bytes, where: str) -> dict:
    """A record as read from a repository.

    Raises:
        NotAPairError: it cannot be read, or is of a later format.
    """
    try:
        record = json.loads(content)
        form = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAPairError(f"{RECORD_FILE} of {where} cannot be read ({error!r}). Push the pair again.") from error
    if form != FORMAT:
        raise NotAPairError(
            f"{RECORD_FILE} of {where} has format {form}, and this modeling_dvpo reads {FORMAT}: upgrade it."
        )
    return record


def read_record(directory: Path, where: str) -> dict:
    """The record in a pulled repository; empty where there is none."""
    path = directory / RECORD_FILE
    return parse_record(path.read_bytes(), where) if path.is_file() else {}


def changed_files(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is missing, other or new in `found`, one phrase a file."""
    phrases = []
    for path, digest in recorded.items():
        if path not in found:
            phrases.append(f"{path} is missing")
        elif found[path] != digest:
            phrases.append(f"{path} is {found[path][:12]}…, recorded {digest[:12]}…")
    return phrases + [f"{path} is new" for path in found if path not in recorded]


def contradictions(critic: Mapping, policy: Mapping) -> list[str]:
    """Facts that the records of a critic and its policy state differently, by name."""
    names = [
        f"{part}.{name}" if isinstance(critic.get(part), dict) else part
        for part in ("value", "training", "tokenizer")
        for name in {**(critic.get(part) or {}), **(policy.get(part) or {})}
        if (critic.get(part) or {}).get(name) != (policy.get(part) or {}).get(name)
    ]
    return sorted(set(names))


def _known(**facts) -> dict:
    return {name: value for name, value in facts.items() if value is not None and value != {}}
