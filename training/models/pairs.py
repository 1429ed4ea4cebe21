"""The directory that train_dvpo.py leaves: a policy, its critic, and the record that ties them."""

import json
from pathlib import Path

from modeling_dvpo.digests import file_sha256
from modeling_dvpo.ranks import is_main
from modeling_dvpo.saving import save_language_model, without_nan, write_whole

from .records import versions

RECORD_FILE = "pair.json"


def save_pair(directory, policy, critic, tokenizer, *, step: int, settings: dict, metrics: dict, chat: bool) -> None:
    """Write `policy/`, `critic/` (None: left out) and `pair.json`, whole or not at all; every rank must call it.

    `pair.json` ties the two: their files' SHA-256, the step, the run's settings and its last metrics, and whether the
    policy was given chats. A frozen
    critic's own record stays as it was.
    """
    if critic is not None and any(parameter.requires_grad for parameter in critic.parameters()):
        critic.config.critic_training = {**critic.config.critic_training, "step": step}

    def write(partial: Path) -> None:
        parts = {"policy": lambda path: save_language_model(policy, path)}
        if critic is not None:
            parts["critic"] = critic.save_pretrained
        for name, save in parts.items():
            save(partial / name)
            if is_main():
                tokenizer.save_pretrained(partial / name)
        if is_main():
            record = {
                "step": step,
                "files": {name: _digests(partial / name) for name in parts},
                "settings": settings,
                "chat": chat,
                "metrics": without_nan(metrics),
                "versions": versions(),
            }
            (partial / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    write_whole(directory, write)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(directory.glob("*.safetensors"))}
