"""`push_critic` and `push_pair`: critics, and policies with their critics, to the Hub."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from .cards import card_of_critic, card_of_policy, evaluation_files
from .client import hub_api, in_brief
from .commits import Pushed
from .errors import PairIncompleteError, UnpublishableError
from .grouping import group
from .names import PublicNames
from .partners import check_fits, pair_directories, policy_on_hub, read_pair, run_of
from .pushing import PushOptions, Target, prepare, push
from .records import critic_facts
from .staging import Staged, is_main, save_model, stage


@dataclass(frozen=True)
class PushedPair:
    """Where policy and critic are on the Hub now."""

    policy: Pushed
    critic: Pushed


def push_critic(
    critic,
    repo_id: str,
    *,
    tokenizer=None,
    policy: str | None = None,
    policy_revision: str = "main",
    evaluation=None,
    run_directory: str | os.PathLike | None = None,
    collection: str | None = None,
    token: str | bool | None = None,
    save_options: Mapping | None = None,
    **options,
) -> Pushed | None:
    """Push a critic with its record, its tokenizer and its card, in one commit.

    Args:
        critic: a critic, or the directory of a saved one (whole, sharded, or a LoRA adapter with its heads).
        repo_id: "owner/name"; made where it does not exist.
        tokenizer: of the critic; by default what lies in the directory.
        policy: repository of the policy that it judges, on the Hub already. The record names its files and commit.
        policy_revision: branch, tag or commit of `policy`.
        evaluation: what `evaluate_critic.py` wrote: its directory, evaluation.json, or that as a dict.
        run_directory: of the training run, for the card; by default the one that the directory lies in.
        collection: title or slug of a collection that gets critic, policy and data set; made where there is none.
        token: as everywhere in huggingface_hub.
        save_options: for `save_pretrained`, where `critic` is a model.
        options: `revision` (a branch, made where there is none; main), `create_pr`, `private` (of a new repository),
            `commit_message`, `tag` (of the commit), `base_model` and `dataset` (Hub names, where the files here name
            directories), `license`, `card` (False leaves README.md alone), `overwrite` (replace a model of another
            kind).

    Returns:
        Where it is now. On ranks other than 0, which must call it too where the model is sharded, None.

    Raises:
        HubError: a subclass says what; `PushFailedError` means that the repository is as it was.
    """
    options = PushOptions(**_given(options))
    with tempfile.TemporaryDirectory() as folder:
        source = _on_disk(critic, Path(folder) / "saved", tokenizer, save_options)
        if not is_main():
            return None
        api = hub_api(token)
        names = PublicNames(api)
        staged = stage(
            source, "critic", Path(folder) / "critic", names, tokenizer=tokenizer, base_model=options.base_model
        )
        partner = None
        if policy is not None:
            partner = policy_on_hub(api, policy, policy_revision, staged)
        target = prepare(api, "critic", staged, repo_id, options)
        facts = {"evaluation": evaluation, "run_directory": run_directory or run_of(critic)}
        pushed = _push_critic(api, target, partner, **facts)
        if collection:
            group(api, collection, policy=policy, critic=repo_id, dataset=_dataset(staged, options))
        return pushed


def push_pair(
    policy,
    critic,
    policy_repo: str,
    critic_repo: str,
    *,
    tokenizer=None,
    pair=None,
    evaluation=None,
    run_directory: str | os.PathLike | None = None,
    collection: str | None = None,
    token: str | bool | None = None,
    save_options: Mapping | None = None,
    **options,
) -> PushedPair | None:
    """Push a critic and then its policy; each record names the other's files, the policy's also the critic's commit.

    Args:
        policy: a policy or the directory of a saved one (whole, sharded or a LoRA adapter); or, with `critic=None`,
            the directory that a run of train_dvpo.py left: the run's, or its `last/` with both and pair.json.
        critic: as in `push_critic`.
        tokenizer: of both; by default what lies in the directories.
        pair: pair.json of the run, its path or content: the files must be those it names.
        others: as in `push_critic`; `revision`, `tag` and all other options are those of both repositories.

    Raises:
        PairIncompleteError: the critic is pushed and the policy is not; the message says how to finish.
        HubError: before anything was pushed; a subclass says what.
    """
    options = PushOptions(**_given(options))
    if critic is None:
        policy, critic, found = pair_directories(policy)
        pair = pair if pair is not None else found
    if policy_repo == critic_repo:
        raise UnpublishableError(f"Policy and critic need a repository each, and both were given {policy_repo}.")
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "critic": _on_disk(critic, Path(folder) / "saved_critic", tokenizer, save_options),
            "policy": _on_disk(policy, Path(folder) / "saved_policy", tokenizer, save_options),
        }
        if not is_main():
            return None
        api = hub_api(token)
        names, base = PublicNames(api), options.base_model
        staged = {
            role: stage(source, role, Path(folder) / role, names, tokenizer=tokenizer, base_model=base)
            for role, source in sources.items()
        }
        pair = read_pair(pair)
        check_fits(staged["policy"], staged["critic"], pair, sources)
        # both are looked at before either changes
        target = {
            "critic": prepare(api, "critic", staged["critic"], critic_repo, options),
            "policy": prepare(api, "policy", staged["policy"], policy_repo, options),
        }
        partner = {"role": "policy", "repo": policy_repo, "files": target["policy"].digests()}
        if options.revision != "main":
            partner["revision"] = options.revision
        facts = {"run_directory": run_directory or run_of(policy), "pair": pair}
        pushed_critic = _push_critic(api, target["critic"], partner, evaluation=evaluation, **facts)
        try:
            pushed_policy = _push_policy(api, target["policy"], target["critic"], pushed_critic, **facts)
        except Exception as error:
            raise PairIncompleteError(_what_is_where(pushed_critic, target["policy"], error), pushed_critic) from error
        if collection:
            group(api, collection, policy=policy_repo, critic=critic_repo, dataset=_dataset(staged["critic"], options))
        return PushedPair(policy=pushed_policy, critic=pushed_critic)


def _given(options: Mapping) -> dict:
    """The options without those left at None, which means the default."""
    unknown = set(options) - set(PushOptions.__dataclass_fields__)
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    return {name: value for name, value in options.items() if value is not None}


def _on_disk(model, folder: Path, tokenizer, save_options) -> Path:
    if isinstance(model, str | os.PathLike):
        return Path(model)
    save_model(model, folder, **(save_options or {}))
    if tokenizer is not None and is_main():
        tokenizer.save_pretrained(folder)
    return folder


def _facts(staged: Staged, options: PushOptions) -> dict:
    facts = critic_facts(staged.config)
    if options.dataset:
        facts["training"] = {**facts.get("training", {}), "dataset": options.dataset}
    return facts


def _dataset(staged: Staged, options: PushOptions) -> str | None:
    return _facts(staged, options).get("training", {}).get("dataset")


def _push_critic(api: HfApi, target: Target, partner, *, evaluation, **card_facts) -> Pushed:
    extra = evaluation_files(evaluation, target, PublicNames(api)) if evaluation is not None else {}
    facts = _facts(target.staged, target.options)
    card = None
    if target.options.card:
        card = card_of_critic(api, target, partner, evaluation=evaluation, **card_facts)
    return push(api, target, facts=facts, partner=partner, card=card, extra=extra)


def _push_policy(api: HfApi, target: Target, critic: Target, pushed_critic: Pushed, *, pair, **card_facts) -> Pushed:
    partner = {
        "role": "critic",
        "repo": pushed_critic.repo_id,
        "files": critic.digests(),
        "commit": pushed_critic.commit,
    }
    if pushed_critic.revision != "main":
        partner["revision"] = pushed_critic.revision
    facts = {**_facts(critic.staged, critic.options), **_policy_facts(pair, PublicNames(api))}
    card = card_of_policy(api, target, partner, pair=pair, **card_facts) if target.options.card else None
    return push(api, target, facts=facts, partner=partner, card=card, extra={})


POLICY_SETTINGS = ("algorithm", "gamma", "lam", "kl", "kl_coef", "reward_funcs", "reward_noise", "seed", "trainable")


def _policy_facts(pair: Mapping | None, names: PublicNames) -> dict:
    """What the run's settings say of how the policy was trained."""
    if not pair:
        return {}
    settings = pair.get("settings", {})
    known = {name: names.without_paths(settings[name]) for name in POLICY_SETTINGS if settings.get(name) is not None}
    known |= {"step": pair.get("step"), "dataset": names.repository(settings.get("dataset"), "dataset")}
    return {"policy_training": {name: value for name, value in known.items() if value is not None}}


def _what_is_where(critic: Pushed, policy: Target, error: Exception) -> str:
    state = policy.state
    there = "still has what it had before" if len(state.files) > 1 else "has no model yet"
    return (
        f"The critic is pushed: {critic.repo_id}, {critic.revision}, commit {critic.commit}. Its policy is not: "
        f"{state.repo_id}, {state.revision}, {there} (commit {state.commit}). Until it is, the critic's record names "
        f"a policy that is not there. To finish, run the same push again; the critic will not be sent twice. What "
        f"went wrong: {in_brief(error)}"
    )
