"""`pull_pair`: a policy and its critic from the Hub, checked against their records and each other."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..auto import AutoModelForDistributionalValue
from .adapter_bases import lies_beside, stand_on, stand_on_the_hubs
from .client import hub_api, in_words, may_pass, retrying
from .errors import (
    CHECKS,
    BaseModelMovedOnError,
    CriticMovedOnError,
    NotAPairError,
    PairMismatchError,
    PolicyMovedOnError,
    TokenizerMismatchError,
    UnreadableTokenizerError,
)
from .model_files import CONFIG, is_weights, kind_of, read_json
from .records import RECORD_FILE, changed_files, contradictions, digests, read_record, recorded_facts
from .remote import Snapshot, download, read_remote, remote_state
from .tokenizers import directory_fingerprint, fingerprint_difference

COMMITS_SEARCHED = 50

Pair = Mapping[str, Snapshot]  # "policy" and "critic"
Records = Mapping[str, Mapping]  # likewise; empty where there is none


@dataclass(frozen=True)
class PulledPair:
    """A policy and its critic on disk, whose records hold.

    Attributes:
        policy, critic: directories.
        policy_repo, critic_repo, policy_commit, critic_commit: where they came from.
        record: the critic's record, or the policy's where the critic has none; see `hub.records`.
        bases: "policy", "critic" -> what it is an adapter of: a directory here, or a name on the Hub.
        warnings: what did not hold and was allowed.
    """

    policy: Path
    critic: Path
    policy_repo: str
    critic_repo: str
    policy_commit: str | None
    critic_commit: str | None
    record: dict = field(repr=False)
    bases: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    _hub: dict = field(default_factory=dict, repr=False)

    def load(self, **options):
        """Load both.

        Args:
            options: for both `from_pretrained` (dtype, device_map, attn_implementation, ...).

        Returns:
            Policy, critic and the tokenizer of both, in evaluation mode.
        """
        # an adapter's base is looked for where the adapter was put
        options = {**self._hub, **options}
        policy = AutoModelForCausalLM.from_pretrained(self.policy, **options)
        critic = AutoModelForDistributionalValue.from_pretrained(self.critic, **options)
        return policy.eval(), critic.eval(), AutoTokenizer.from_pretrained(self.policy)


def pull_pair(
    repo: str,
    critic: str | None = None,
    *,
    revision: str | None = None,
    critic_revision: str | None = None,
    policy_revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_dir: str | os.PathLike | None = None,
    allow: str | Iterable[str] = (),
) -> PulledPair:
    """Download a policy and its critic and check them: every file, both records, the tokenizers.

    Args:
        repo: repository of the policy or of the critic; its record names the other.
        critic: repository of the critic, where `repo` is a policy; needed where the policy names none or another.
        revision: of `repo`: branch, tag, commit or refs/pr/N.
        critic_revision, policy_revision: of the other one. By default a policy's critic is that of the commit which
            its record names, and a critic's policy the newest one, which must be what the critic judges.
        cache_dir: of the Hub's files; by default huggingface_hub's.
        local_dir: put them there instead, as `policy/` and `critic/`. An adapter of the other one then stands on what
            lies beside it; the model under any other adapter is still loaded by its Hub name.
        allow: which of "tokenizer", "policy", "critic", "base_model" and "record" are to give a warning instead of
            an error; or "all".

    Raises:
        PairMismatchError: one of its subclasses, by what does not fit.
        NotAPairError: there is no record, or it names no partner.
        CorruptDownloadError: a file came wrong twice.
        AccessError: no such repository or revision, or it may not be seen.
        UnreachableError: the Hub cannot be asked, and the cache lacks it.
    """
    findings = Findings(_allowed(allow))
    api = hub_api(token)

    def fetch(role: str, repo: str, revision: str | None) -> Snapshot:
        where = {"cache_dir": cache_dir} if local_dir is None else {"local_dir": Path(local_dir) / role}
        if local_dir is not None:
            stand_on_the_hubs(Path(local_dir) / role, repo)
        return download(api, repo, revision=revision, **where)

    role = _role_on_hub(api, repo, revision)
    first = fetch(role or _role_in(local_dir, repo), repo, revision)
    role = role or kind_of(first.files, read_json(first.directory / CONFIG))
    if critic is not None and role == "critic":
        raise NotAPairError(f"{repo} is a critic, and critic={critic!r} was given, too: the first must be the policy.")
    partner = read_record(first.directory, repo).get("partner") or {}
    if role == "critic":
        other = _partner(partner, repo, "policy", f"pull_pair('owner/policy', critic={repo!r})")
        pair = {"policy": fetch("policy", other, policy_revision or partner.get("revision")), "critic": first}
    else:
        other = critic or _partner(partner, repo, "critic", f"pull_pair({repo!r}, critic='owner/critic')")
        pinned = None if critic else partner.get("commit") or partner.get("revision")
        pair = {"policy": first, "critic": fetch("critic", other, critic_revision or pinned)}
    records = {role: read_record(one.directory, one.repo_id) for role, one in pair.items()}
    check_critic(findings, pair, records)
    check_policy(findings, api, pair, records)
    check_records(findings, pair, records)
    check_tokenizers(findings, pair, records)
    check_bases(findings, api, pair, records, cache_dir)
    hub = {name: value for name, value in (("token", token), ("cache_dir", cache_dir)) if value is not None}
    return PulledPair(
        policy=pair["policy"].directory,
        critic=pair["critic"].directory,
        policy_repo=pair["policy"].repo_id,
        critic_repo=pair["critic"].repo_id,
        policy_commit=pair["policy"].commit,
        critic_commit=pair["critic"].commit,
        record=records["critic"] or records["policy"],
        bases=_bases(pair, records, in_place=local_dir is not None),
        warnings=tuple(findings.warnings),
        _hub=hub,
    )


def _bases(pair: Pair, records: Records, *, in_place: bool) -> dict[str, str]:
    """What the adapters of the pair stand on; changed to the directory beside them `in_place`."""
    bases = {}
    for role, other in (("policy", pair["critic"]), ("critic", pair["policy"])):
        base = records[role].get("base_model") or {}
        if base.get("relation") == "adapter":
            bases[role] = base["repo"]
            if in_place and lies_beside(base, other):
                bases[role] = str(other.directory.resolve())
                stand_on(pair[role].directory, bases[role])
    return bases


def _allowed(allow) -> frozenset[str]:
    names = {allow} if isinstance(allow, str) else set(allow)
    if "all" in names:
        return frozenset(CHECKS)
    if unknown := names - set(CHECKS):
        raise ValueError(f"allow has {', '.join(sorted(unknown))}; it takes {', '.join(CHECKS)} or all.")
    return frozenset(names)


def _partner(partner: dict, repo: str, role: str, instead: str) -> str:
    if partner.get("role") == role:
        return partner["repo"]
    raise NotAPairError(
        f"{repo} has no {RECORD_FILE} that names its {role}. Give both, {instead}, or push them with push_pair."
    )


def _role_on_hub(api: HfApi, repo: str, revision: str | None) -> str | None:
    """What the repository holds; None where the Hub cannot be asked.

    Raises:
        NotAPairError: neither a critic nor a policy, found out before anything large is downloaded.
    """
    try:
        state = remote_state(api, repo, revision or "main")
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, OfflineModeIsEnabled) or may_pass(error):
            return None
        raise in_words(error, repo, f"download {repo}") from error
    content = read_remote(api, state, CONFIG)
    kind = kind_of(state.files, json.loads(content) if content is not None else None)
    if kind in ("critic", "policy") and any(is_weights(path) for path in state.files):
        return kind
    raise NotAPairError(
        f"{repo} ({state.revision}) holds neither a critic nor a policy with safetensors weights. Give the repository "
        "of one."
    )


def _role_in(local_dir, repo: str) -> str:
    """As what a repository lies in `local_dir` from an earlier pull; a policy where it lies there as neither."""
    lies = local_dir is not None and read_record(Path(local_dir) / "critic", repo).get("repo") == repo
    return "critic" if lies else "policy"


class Findings:
    """What did not hold: raised, or a warning where its check is allowed."""

    def __init__(self, allowed: frozenset[str]):
        self.allowed = allowed
        self.warnings: list[str] = []

    def problem(self, error: PairMismatchError) -> None:
        check = error.check
        if check not in self.allowed:
            raise type(error)(f"{error} To go on with a warning instead: allow={check!r} (--allow {check}).")
        self.note(str(error), stacklevel=5)

    def note(self, message: str, stacklevel: int = 4) -> None:
        """A warning in the place of the caller of `pull_pair`."""
        self.warnings.append(message)
        warnings.warn(message, stacklevel=stacklevel)


def check_critic(findings: Findings, pair: Pair, records: Records) -> None:
    """The critic is the one that its record was made for."""
    critic, record = pair["critic"], records["critic"]
    if not record:
        findings.problem(
            PairMismatchError(
                f"{_name(critic)} has no {RECORD_FILE}, so nothing says which policy it judges. Push it with "
                "push_critic(..., policy=...) or push_pair."
            )
        )
        return
    if changed := changed_files(record["files"], digests(critic.files)):
        findings.problem(
            CriticMovedOnError(
                f"{_name(critic)} is not the critic that its record was made for: {'; '.join(changed)}. Its files "
                "were replaced after the push: push it again with push_critic or push_pair, or pull another revision."
            )
        )
        return
    said, known = recorded_facts(read_json(critic.directory / CONFIG) or {}).get("value", {}), record.get("value", {})
    if differing := sorted(name for name in {**said, **known} if said.get(name) != known.get(name)):
        findings.problem(
            PairMismatchError(
                f"{RECORD_FILE} and {CONFIG} of {_name(critic)} say different things of {', '.join(differing)}. Push "
                "the critic again."
            )
        )


def check_policy(findings: Findings, api: HfApi, pair: Pair, records: Records) -> None:
    """The policy is the one that the critic judges, and the one that its own record was made for."""
    policy, own = pair["policy"], records["policy"]
    found, partner = digests(policy.files), records["critic"].get("partner") or {}
    if partner and (changed := changed_files(partner["files"], found)):
        findings.problem(
            PolicyMovedOnError(
                f"{_name(policy)} is not the policy that the critic judges: {'; '.join(changed)}. It has moved on "
                f"since the critic was pushed, or its push did not finish. {_where(api, policy, partner)}"
            )
        )
    elif own and (changed := changed_files(own["files"], found)):
        findings.problem(
            PolicyMovedOnError(
                f"{_name(policy)} is not the policy that its record was made for: {'; '.join(changed)}. Its files "
                f"were replaced after the push. {_where(api, policy, {'files': own['files']})}"
            )
        )
    if partner and partner["repo"] != policy.repo_id:
        findings.note(f"The critic was pushed for {partner['repo']}, and the policy came from {policy.repo_id}.")


def check_records(findings: Findings, pair: Pair, records: Records) -> None:
    """The policy's record names this critic, and both tell the same."""
    policy, critic, of_policy, of_critic = pair["policy"], pair["critic"], records["policy"], records["critic"]
    partner = of_policy.get("partner") or {}
    if partner.get("role") != "critic" or (of_critic.get("partner") or {}).get("commit"):
        return  # a critic pushed after its policy: nothing in the policy's repository can name it
    if changed := changed_files(partner["files"], digests(critic.files)):
        findings.problem(
            CriticMovedOnError(
                f"{_name(critic)} is not the critic that the record of {_name(policy)} names: {'; '.join(changed)}. "
                f"That one is commit {partner.get('commit')} of {partner['repo']}: "
                f"pull_pair({policy.repo_id!r}) takes it."
            )
        )
    elif of_critic and (names := contradictions(of_critic, of_policy)):
        findings.problem(
            PairMismatchError(
                f"The records of {_name(critic)} and {_name(policy)} differ in {', '.join(names)}. One of them was "
                "edited: push the pair again."
            )
        )


def check_tokenizers(findings: Findings, pair: Pair, records: Records) -> None:
    """Policy and critic have the same tokenizer and chat template, those they were pushed with."""
    if difference := _tokenizer_difference(pair, records):
        findings.problem(TokenizerMismatchError(difference))


def _tokenizer_difference(pair: Pair, records: Records) -> str | None:
    found = {}
    for role, one in pair.items():
        try:
            fingerprint = directory_fingerprint(one.directory)
        except UnreadableTokenizerError as error:
            return str(error)
        if fingerprint is None:
            return f"{_name(one)} has no tokenizer to compare with the other's."
        found[role] = fingerprint
    if names := fingerprint_difference(found["policy"], found["critic"]):
        return (
            f"The tokenizer of {_name(pair['critic'])} differs from that of {_name(pair['policy'])} in "
            f"{', '.join(names)}, so the critic does not read what the policy writes. Take a critic of this policy, "
            "or push the pair again."
        )
    for role, one in pair.items():
        recorded = records[role].get("tokenizer")
        if recorded and (names := fingerprint_difference(recorded, found[role])):
            return (
                f"The tokenizer of {_name(one)} is not the one it was pushed with: {', '.join(names)} changed. "
                "Pull an earlier revision, or push the pair again."
            )
    return None


def check_bases(findings: Findings, api: HfApi, pair: Pair, records: Records, cache_dir) -> None:
    """The models under adapters have the weights that the adapters were trained on; downloads them into the cache,
    unless they are in the pair."""
    bases = [record.get("base_model") or {} for record in records.values()]
    for base in {one["repo"]: one for one in bases if one.get("relation") == "adapter"}.values():
        if any(lies_beside(base, one) for one in pair.values()):
            continue
        snapshot = download(api, base["repo"], cache_dir=cache_dir)
        found = {path: digest for path, digest in digests(snapshot.files).items() if is_weights(path)}
        if changed := changed_files(base["files"], found):
            findings.problem(
                BaseModelMovedOnError(
                    f"{_name(snapshot)}, the model under the adapter, has other weights than when the adapter was "
                    f"pushed: {'; '.join(changed)}. They were those of commit {base['commit']}: merge the adapter "
                    "into that one, or train it anew."
                )
            )


def _name(snapshot: Snapshot) -> str:
    commit = f", {snapshot.commit[:8]}" if snapshot.commit else ""
    return f"{snapshot.repo_id} ({snapshot.revision}{commit})"


def _where(api: HfApi, policy: Snapshot, wanted: Mapping) -> str:
    """Which commit has the files, as advice."""
    commit = wanted.get("commit") or _commit_with(api, policy.repo_id, wanted["files"])
    if commit is None:
        return "Push the pair again."
    return f"The one that is meant is commit {commit}: pull it as the policy's revision, or push the pair again."


def _commit_with(api: HfApi, repo_id: str, files: Mapping[str, str]) -> str | None:
    """The newest commit that has these weights, among the last ones; None where the Hub knows none."""
    weights = {path: digest for path, digest in files.items() if is_weights(path)}
    try:
        for commit in retrying(api.list_repo_commits, repo_id)[:COMMITS_SEARCHED]:
            there = remote_state(api, repo_id, commit.commit_id).files
            if all(path in there and there[path].sha256 == digest for path, digest in weights.items()):
                return commit.commit_id
    except (HTTPError, OSError):
        pass  # advice only
    return None
