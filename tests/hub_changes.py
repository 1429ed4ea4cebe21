"""What others do to a Hub's repositories, and what happens to files on a disk, in tests of pushes and pulls."""

import json
from pathlib import Path

from tiny_pairs import nudge

POLICY, CRITIC = "user/policy", "user/critic"


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
