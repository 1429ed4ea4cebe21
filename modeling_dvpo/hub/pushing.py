"""One repository's part of a push: look at what is there, make the record and the card, commit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from huggingface_hub import HfApi

from .base_models import base_model_facts
from .commits import (
    Content,
    Pushed,
    RemoteState,
    commit_files,
    open_repository,
    read_remote,
)
from .errors import NotAPairError, OtherModelError
from .model_files import (
    ADAPTER_CONFIG,
    CARD,
    CONFIG,
    is_replaced,
    is_tokenizer,
    kind_of,
)
from .names import PublicNames
from .records import (
    RECORD_FILE,
    digests,
    make_record,
    parse_record,
    record_bytes,
)
from .staging import Staged


@dataclass(frozen=True)
class PushOptions:
    """What is alike for both repositories of a pair; see `push_critic`."""

    revision: str = "main"
    create_pr: bool = False
    private: bool | None = None
    commit_message: str | None = None
    tag: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    license: str | None = None
    example: tuple[str, str] | None = None
    card: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class Target:
    """A repository that may take what is staged for it.

    Attributes:
        base_model: what the record says of it.
        record: of the push before, None where there was none.
    """

    role: str
    staged: Staged
    state: RemoteState
    base_model: dict | None = field(repr=False)
    record: dict | None = field(repr=False)
    options: PushOptions = field(repr=False)

    def digests(self) -> dict[str, str]:
        return digests(self.staged.files)

    def previous_card(self, api: HfApi) -> str | None:
        card = read_remote(api, self.state, CARD)
        return card.decode() if card is not None else None


def prepare(api: HfApi, role: str, staged: Staged, repo_id: str, options: PushOptions) -> Target:
    """Open the repository and see that it holds nothing, or an earlier version of this model.

    Raises:
        OtherModelError: it holds another model and `overwrite` was not said.
        AccessError, UnreachableError, UnpublishableError: as their docstrings say.
    """
    state = open_repository(api, repo_id, revision=options.revision, private=options.private)
    config = _json(read_remote(api, state, CONFIG))
    content = read_remote(api, state, RECORD_FILE)
    try:
        record = parse_record(content, repo_id) if content is not None else None
    except NotAPairError:
        record = None  # about to be replaced
    if not options.overwrite:
        _check_same_kind(role, staged, state, config, record)
    base_model = base_model_facts(staged, PublicNames(api), options.base_model)
    return Target(role, staged, state, base_model, record, options)


def push(
    api: HfApi,
    target: Target,
    *,
    facts: Mapping,
    partner: Mapping | None,
    card: str | None,
    extra: Mapping[str, Content],
) -> Pushed:
    """Commit the model with its record and card.

    Args:
        facts: of the critic, and of the run.
        partner: the other repository, as the record names it.
        card: text of README.md; None leaves the one that is there.
        extra: further files.
    """
    staged, state, options = target.staged, target.state, target.options
    files: dict[str, Content] = {**staged.files, **extra}
    if card is not None:
        files[CARD] = card.encode()
    record = make_record(
        role=target.role,
        repo=state.repo_id,
        model_type=staged.config.get("model_type"),
        files=target.digests(),
        paths=[path for path in files if path != CARD],
        facts=facts,
        tokenizer=staged.tokenizer,
        base_model=target.base_model,
        partner=partner,
    )
    files[RECORD_FILE] = record_bytes(keep_pins(record, target.record))
    ours = set((target.record or {}).get("paths", ())) - {CARD}
    with_tokenizer = staged.tokenizer is not None
    pushed = commit_files(
        api,
        state,
        files,
        # without a tokenizer of its own the push leaves the one that is there
        is_stale=lambda path: (
            is_replaced(path, with_tokenizer=with_tokenizer)
            or (path in ours and (with_tokenizer or not is_tokenizer(path)))
        ),
        message=options.commit_message or default_message(target.role, facts),
        create_pr=options.create_pr,
    )
    return replace(pushed, left_out=staged.left_out)


def keep_pins(record: dict, before: Mapping | None) -> dict:
    """The record with the commits that the one before named, where the files they stand for are the same.

    Else a push that changes nothing would be a commit whenever the other repository's card was edited.
    """
    record = dict(record)
    for part in ("partner", "base_model"):
        new, old = record.get(part), (before or {}).get(part)
        if new and old and old.get("commit") and "files" in new:
            if {**new, "commit": None} == {**old, "commit": None}:
                record[part] = {**new, "commit": old["commit"]}
    return record


def default_message(role: str, facts: Mapping) -> str:
    step = facts.get("training", {}).get("step")
    return f"Upload {role}" + (f" of step {step}" if step is not None else "")


def _check_same_kind(role, staged: Staged, state: RemoteState, config: dict | None, record: dict | None) -> None:
    kind = kind_of(state.files, config)
    here, there = staged.config.get("model_type"), (config or record or {}).get("model_type")
    if kind == "nothing" or (kind == role and (here == there or None in (here, there))):
        return
    what = {"other": "a model of another kind"}.get(kind, f"a {kind}") + (f" of the family {there}" if there else "")
    family = f" of the family {here}" if here else ""
    adapter = " adapter" if ADAPTER_CONFIG in staged.files else ""
    raise OtherModelError(
        f"{state.repo_id} ({state.revision}) holds {what}, and what is pushed is a {role}{adapter}{family}. Nothing "
        "was changed. Choose another repository, or say overwrite=True (--overwrite) to replace that model."
    )


def _json(content: bytes | None) -> dict | None:
    return json.loads(content) if content is not None else None
