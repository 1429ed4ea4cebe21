"""One repository's part of a push: what is there, whether it may go, the record, the card, and the commit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from huggingface_hub import HfApi

from modeling_dvpo.hub_cards import card_files, critic_card, eval_result_files, policy_card

from .client import PublicNames
from .commits import Pushed, commit_files, open_repository
from .errors import NotAPairError, OtherModelError
from .model_files import ADAPTER_CONFIG, CARD, CONFIG, is_replaced, is_tokenizer, kind_of
from .partners import base_model_facts
from .records import RECORD_FILE, digests, make_record, parse_record, record_bytes
from .remote import Content, RemoteState, read_remote
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

    def named(self, revision: str) -> dict:
        """As the other's record names it."""
        named = {"role": self.role, "repo": self.state.repo_id, "files": self.digests()}
        return named if revision == "main" else {**named, "revision": revision}


def prepare(api: HfApi, role: str, staged: Staged, repo_id: str, options: PushOptions) -> Target:
    """Open the repository and see that it holds nothing, or an earlier version of this model.

    Raises:
        OtherModelError: it holds another model and `overwrite` was not said.
        AccessError, UnreachableError, UnpublishableError: as their docstrings say.
    """
    state = open_repository(api, repo_id, revision=options.revision, private=options.private)
    saved, recorded = read_remote(api, state, CONFIG), read_remote(api, state, RECORD_FILE)
    config = json.loads(saved) if saved is not None else None
    try:
        record = parse_record(recorded, repo_id) if recorded is not None else None
    except NotAPairError:
        record = None  # about to be replaced
    if not options.overwrite:
        _check_same_kind(role, staged, state, config, record)
    base_model = base_model_facts(staged, PublicNames(api), options.base_model)
    return Target(role, staged, state, base_model, record, options)


def shown_of_critic(api: HfApi, target: Target, partner: Mapping | None, *, evaluation, **facts):
    """What people look at: the evaluation's files without paths, and the card (None: as it is)."""
    files: dict[str, Content] = {}
    for file in card_files(evaluation) if evaluation is not None else []:
        if file.suffix == ".json":
            content = {**json.loads(file.read_text(encoding="utf-8")), "critic": target.state.repo_id}
            files[file.name] = (json.dumps(PublicNames(api).without_paths(content), indent=1) + "\n").encode()
        else:
            files[file.name] = file
    policy_repo = partner["repo"] if partner else None
    return files, _card(api, target, critic_card, policy_repo=policy_repo, evaluation=evaluation, **facts)


def shown_of_policy(api: HfApi, target: Target, partner: Mapping, *, benchmarks, **facts):
    """Likewise: its benchmark scores where the Hub looks for them, and the card."""
    files = {path: text.encode() for path, text in eval_result_files(benchmarks or ()).items()}
    return files, _card(api, target, policy_card, critic_repo=partner["repo"], benchmarks=benchmarks, **facts)


def _card(api: HfApi, target: Target, write, **facts) -> str | None:
    """The text of README.md, with what a user wrote into the one that is there."""
    options = target.options
    if not options.card:
        return None
    previous = read_remote(api, target.state, CARD)
    facts |= {
        "previous": previous.decode() if previous is not None else None,
        "license": options.license,
        "base_model": options.base_model,
        "datasets": [options.dataset] if options.dataset else None,
        "example": options.example,
    }
    given = {name: value for name, value in facts.items() if value is not None}
    return write(target.staged.source, repo_id=target.state.repo_id, **given)


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
