"""`pull_pair`: a policy and its critic from the Hub, checked against their records and each other."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from .client import hub_api, in_words, may_pass
from .commits import read_remote, remote_state
from .downloads import Snapshot, download
from .errors import CHECKS, NotAPairError
from .model_files import (
    CONFIG,
    is_weights,
    kind_of,
    read_json,
)
from .pair_checks import (
    Findings,
    check_bases,
    check_critic,
    check_policy,
    check_records,
    check_tokenizers,
)
from .records import RECORD_FILE, read_record


@dataclass(frozen=True)
class PulledPair:
    """A policy and its critic on disk, whose records hold.

    Attributes:
        policy, critic: directories.
        policy_repo, critic_repo, policy_commit, critic_commit: where they came from.
        record: the critic's record, or the policy's where the critic has none; see `hub.records`.
        warnings: what did not hold and was allowed.
    """

    policy: Path
    critic: Path
    policy_repo: str
    critic_repo: str
    policy_commit: str | None
    critic_commit: str | None
    record: dict = field(repr=False)
    warnings: tuple[str, ...] = ()
    _hub: dict = field(default_factory=dict, repr=False)

    def load(self, **options):
        """Load both.

        Args:
            options: for both `from_pretrained` (dtype, device_map, attn_implementation, ...).

        Returns:
            Policy, critic and the tokenizer of both, in evaluation mode.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ..auto import AutoModelForDistributionalValue

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
        local_dir: put them there instead, as `policy/` and `critic/`.
        allow: which of "tokenizer", "policy", "critic", "base_model" and "record" are to give a warning instead of
            an error; or "all".

    Raises:
        PairMismatchError: one of its subclasses, by what does not fit.
        NotAPairError: there is no record, or it names no partner.
        CorruptDownloadError, AccessError, UnreachableError: as their docstrings say.
    """
    findings = Findings(_allowed(allow))
    api = hub_api(token)
    place = {"cache_dir": cache_dir, "local_dir": local_dir}
    role = _role_on_hub(api, repo, revision)
    first = _download(api, repo, revision, place, role or _role_in(local_dir, repo))
    kind = role or kind_of(first.files, read_json(first.directory / CONFIG))
    if critic is not None and kind == "critic":
        raise NotAPairError(f"{repo} is a critic, and critic={critic!r} was given, too: the first must be the policy.")
    record = read_record(first.directory, repo)
    partner = (record or {}).get("partner") or {}
    if kind == "critic":
        other = _partner(partner, repo, "policy", "pull_pair('owner/policy', critic='" + repo + "')")
        second = _download(api, other, policy_revision or partner.get("revision"), place, "policy")
        policy, critic_ = second, first
    else:
        other = critic or _partner(partner, repo, "critic", f"pull_pair({repo!r}, critic='owner/critic')")
        pinned = None if critic else partner.get("commit") or partner.get("revision")
        second = _download(api, other, critic_revision or pinned, place, "critic")
        policy, critic_ = first, second
    records = {
        "policy": read_record(policy.directory, policy.repo_id),
        "critic": read_record(critic_.directory, critic_.repo_id),
    }
    check_critic(findings, critic_, records["critic"])
    check_policy(findings, api, policy, records)
    check_records(findings, policy, critic_, records)
    check_tokenizers(findings, policy, critic_, records)
    check_bases(findings, api, records, cache_dir)
    hub = {name: value for name, value in (("token", token), ("cache_dir", cache_dir)) if value is not None}
    return PulledPair(
        policy=policy.directory,
        critic=critic_.directory,
        policy_repo=policy.repo_id,
        critic_repo=critic_.repo_id,
        policy_commit=policy.commit,
        critic_commit=critic_.commit,
        record=records["critic"] or records["policy"] or {},
        warnings=tuple(findings.warnings),
        _hub=hub,
    )


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


def _role_in(local_dir, repo: str) -> str | None:
    """As what a repository lies in `local_dir` from an earlier pull."""
    for role in ("policy", "critic") if local_dir is not None else ():
        record = read_record(Path(local_dir) / role, repo)
        if record and record.get("repo") == repo:
            return role
    return "policy"


def _download(api: HfApi, repo: str, revision, place: dict, role: str) -> Snapshot:
    """Into the cache, or into `local_dir/role`."""
    local = place["local_dir"]
    where = {"cache_dir": place["cache_dir"]} if local is None else {"local_dir": Path(local) / role}
    return download(api, repo, revision=revision, **where)
