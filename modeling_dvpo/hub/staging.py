"""From a model or a directory to the files that go to the Hub: complete, and without this machine's paths."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from ..critic.modeling_distributional_value import DistributionalValueMixin
from ..saving import save_language_model
from .client import PublicNames, public_config
from .errors import OtherModelError, UnpublishableError
from .model_files import (
    ADAPTER_CONFIG,
    CONFIG,
    belongs_to_model,
    files_in,
    is_tokenizer,
    is_weights,
    kind_of,
    read_json,
)
from .tokenizers import directory_fingerprint


@dataclass(frozen=True)
class Staged:
    """What is to be pushed.

    Attributes:
        source: the directory that was given; its configs may name paths of this machine.
        directory: holds the files that go, and nothing else.
        files: path in the repository -> file.
        config: of config.json as it will be public; of an adapter without one, empty.
        adapter_base: the model under the adapter, as the adapter names it; None: no adapter.
        tokenizer: its fingerprint, None where there is none.
        left_out: files of the given directory that stay here.
    """

    source: Path
    directory: Path
    files: dict[str, Path]
    config: dict = field(repr=False)
    adapter_base: str | None
    tokenizer: dict | None = field(repr=False)
    left_out: tuple[str, ...] = ()


def save_model(model, directory: Path, **options) -> None:
    """`save_pretrained` of a critic or policy, sharded or not; every rank must call it, rank 0 writes."""
    if isinstance(model, DistributionalValueMixin) or options or not dist.is_initialized():
        model.save_pretrained(directory, **options)
    else:
        save_language_model(model, directory)


def stage(
    source, role: str, into: Path, names: PublicNames, *, tokenizer=None, base_model: str | None = None
) -> Staged:
    """Lay out what is to be pushed in `into`.

    Args:
        source: a directory; its weights are linked, not copied.
        role: "critic" or "policy", which it must be.
        tokenizer: goes with it in place of the directory's own.
        base_model: Hub name of the model under the adapter, in place of a directory of this machine.

    Raises:
        OtherModelError: it is not what `role` says.
        UnreadableTokenizerError: its tokenizer cannot be read.
        UnpublishableError: weights are missing or no safetensors; an adapter's base is a directory of this machine.
    """
    source = Path(source)
    if not source.is_dir():
        raise UnpublishableError(f"{source} is no directory: give a saved {role}, or the {role} itself.")
    present = files_in(source)
    chosen = [
        path for path in present if belongs_to_model(path) and not (tokenizer is not None and is_tokenizer(path))
    ]
    _check_complete(source, role, chosen, present)
    into.mkdir(parents=True, exist_ok=True)
    for path in chosen:
        _link(source / path, into / path)
    if tokenizer is not None:
        tokenizer.save_pretrained(into)
    _rewrite(into, CONFIG, lambda config: public_config(config, names))
    _rewrite(into, "tokenizer_config.json", lambda config: {k: v for k, v in config.items() if k != "name_or_path"})
    adapter_base = None
    if (into / ADAPTER_CONFIG).is_file():
        adapter_base = _publish_base(into, names, base_model)
    return Staged(
        source=source,
        directory=into,
        files={path: into / path for path in files_in(into)},
        config=read_json(into / CONFIG) or {},
        adapter_base=adapter_base,
        tokenizer=directory_fingerprint(into),
        left_out=tuple(path for path in present if path not in chosen and not is_tokenizer(path)),
    )


def _check_complete(source: Path, role: str, chosen: list[str], present: list[str]) -> None:
    config = read_json(source / CONFIG)
    kind = kind_of(present, config)
    if kind != role:
        what = {"nothing": "no model", "other": "a model of another kind"}.get(kind, f"a {kind}")
        need = {"critic": "config.json with num_value_heads"}.get(
            role, "the config.json of a causal LM, or an adapter"
        )
        raise OtherModelError(f"{source} holds {what}, and a {role} is needed: {need}.")
    if not any(is_weights(path) for path in chosen):
        raise UnpublishableError(
            f"{source} holds no safetensors weights, and no others are pushed: save the {role} with save_pretrained."
        )
    for path in chosen:
        if path.endswith(".index.json"):
            needed = set(json.loads((source / path).read_text(encoding="utf-8"))["weight_map"].values())
            if missing := sorted(needed - set(present)):
                raise UnpublishableError(
                    f"{source} lacks {', '.join(missing[:5])}, which {path} names: save the {role} again."
                )


def _publish_base(into: Path, names: PublicNames, base_model: str | None) -> str:
    """Put a name that others can load in adapter_config.json; the name that was there."""
    given = (read_json(into / ADAPTER_CONFIG) or {}).get("base_model_name_or_path") or ""
    public = base_model or names.repository(given)
    if public is None:
        raise UnpublishableError(
            f"The adapter stands on {given!r}, which is no repository of the Hub, so nobody else could load it. Push "
            'that model first and give its name: base_model="owner/name".'
        )
    _rewrite(into, ADAPTER_CONFIG, lambda config: {**config, "base_model_name_or_path": public})
    return given


def _rewrite(directory: Path, name: str, change) -> None:
    path = directory / name
    if (before := read_json(path)) is not None and (after := change(before)) != before:
        path.unlink()  # a link to the original
        path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
