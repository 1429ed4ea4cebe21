"""What a Hub holds, what others do to it, and what happens to files on a disk, in tests of pushes and pulls."""

import hashlib
import json
from pathlib import Path

from tiny_critics import tiny_batch
from tiny_pairs import nudge

from modeling_dvpo import AutoModelForDistributionalValue

POLICY, CRITIC = "user/policy", "user/critic"


def record_of(hub, repo=CRITIC, revision="main") -> dict:
    return json.loads(hub.files(repo, revision)["dvpo_pair.json"])


def digests_of(hub, repo) -> dict:
    """As a record names them."""
    files = hub.files(repo)
    return {name: hashlib.sha256(files[name]).hexdigest() for name in ("config.json", "model.safetensors")}


def values(name, **options):
    """What a critic says of a batch."""
    return AutoModelForDistributionalValue.from_pretrained(name, **options).eval()(tiny_batch()).quantiles


def change_json(hub, repo, path, change) -> None:
    content = json.loads(hub.files(repo)[path])
    change(content)
    hub.add_commit(repo, {path: json.dumps(content).encode()})


def replace_weights(hub, repo, folder) -> None:
    """The same size, other bytes."""
    path = Path(folder) / "model.safetensors"
    path.write_bytes(hub.files(repo)["model.safetensors"])
    nudge(folder)
    hub.add_commit(repo, {"model.safetensors": path.read_bytes()})


def damage(path) -> None:
    """Change a bit on disk, behind everybody's back."""
    path = path.resolve()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def upload(hub, repo, folder) -> None:
    """A directory to a repository, without the client."""
    hub.add_commit(repo, {path.name: path.read_bytes() for path in folder.iterdir()})
