"""Whether a policy and a critic on disk are what their records say, and fit each other."""

import warnings
from collections.abc import Mapping

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .client import retrying
from .commits import remote_state
from .downloads import Snapshot, download
from .errors import (
    BaseModelMovedOnError,
    CriticMovedOnError,
    PairMismatchError,
    PolicyMovedOnError,
    TokenizerMismatchError,
    UnreadableTokenizerError,
)
from .model_files import CONFIG, is_weights, read_json
from .records import (
    RECORD_FILE,
    changed_files,
    contradictions,
    critic_facts,
    digests,
)
from .tokenizers import directory_fingerprint, fingerprint_difference

COMMITS_SEARCHED = 50


class Findings:
    """What did not hold: raised, or a warning where its check is allowed."""

    def __init__(self, allowed: frozenset[str]):
        self.allowed, self.warnings = allowed, []

    def problem(self, error: PairMismatchError) -> None:
        if error.check not in self.allowed:
            raise type(error)(
                f"{error} To go on with a warning instead: allow={error.check!r} (--allow {error.check})."
            )
        self.note(str(error), stacklevel=5)

    def note(self, message: str, stacklevel: int = 4) -> None:
        """A warning in the place of the caller of `pull_pair`."""
        self.warnings.append(message)
        warnings.warn(message, stacklevel=stacklevel)


def check_critic(findings: Findings, critic: Snapshot, record: Mapping | None) -> None:
    """The critic is the one that its record was made for."""
    if record is None:
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
    said, known = critic_facts(read_json(critic.directory / CONFIG) or {}).get("value", {}), record.get("value", {})
    if differing := sorted(name for name in {**said, **known} if said.get(name) != known.get(name)):
        findings.problem(
            PairMismatchError(
                f"{RECORD_FILE} and {CONFIG} of {_name(critic)} say different things of {', '.join(differing)}. Push "
                "the critic again."
            )
        )


def check_policy(findings: Findings, api: HfApi, policy: Snapshot, records: Mapping[str, Mapping | None]) -> None:
    """The policy is the one that the critic judges, and the one that its own record was made for."""
    found, own = digests(policy.files), records["policy"]
    partner = (records["critic"] or {}).get("partner") or {}
    judged = partner.get("files")
    changed = changed_files(judged, found) if judged else []
    if changed:
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


def check_records(
    findings: Findings, policy: Snapshot, critic: Snapshot, records: Mapping[str, Mapping | None]
) -> None:
    """The policy's record names this critic, and both tell the same."""
    of_critic, of_policy = records["critic"] or {}, records["policy"] or {}
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


def check_tokenizers(
    findings: Findings, policy: Snapshot, critic: Snapshot, records: Mapping[str, Mapping | None]
) -> None:
    """Policy and critic have the same tokenizer and chat template, those they were pushed with."""
    try:
        of_policy, of_critic = (directory_fingerprint(one.directory) for one in (policy, critic))
    except UnreadableTokenizerError as error:
        findings.problem(TokenizerMismatchError(str(error)))
        return
    for one, fingerprint in ((policy, of_policy), (critic, of_critic)):
        if fingerprint is None:
            findings.problem(TokenizerMismatchError(f"{_name(one)} has no tokenizer to compare with the other's."))
            return
    if names := fingerprint_difference(of_policy, of_critic):
        findings.problem(
            TokenizerMismatchError(
                f"The tokenizer of {_name(critic)} differs from that of {_name(policy)} in {', '.join(names)}, so the "
                "critic does not read what the policy writes. Take a critic of this policy, or push the pair again."
            )
        )
        return
    for role, one in (("policy", policy), ("critic", critic)):
        recorded = (records[role] or {}).get("tokenizer")
        if recorded and (names := fingerprint_difference(recorded, of_policy)):
            findings.problem(
                TokenizerMismatchError(
                    f"The tokenizer of {_name(one)} is not the one it was pushed with: {', '.join(names)} changed. "
                    "Pull an earlier revision, or push the pair again."
                )
            )
            return


def check_bases(findings: Findings, api: HfApi, records: Mapping[str, Mapping | None], cache_dir) -> None:
    """The models under adapters have the weights that the adapters were trained on; downloads them into the cache."""
    bases = [(record or {}).get("base_model") or {} for record in records.values()]
    for base in {one["repo"]: one for one in bases if one.get("relation") == "adapter"}.values():
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
