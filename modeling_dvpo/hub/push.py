"""`push_critic` and `push_pair`: critics, and policies with their critics, to the Hub."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..ranks import is_main
from .client import PublicNames, hub_api, in_brief
from .commits import Pushed, group, tag_commit
from .errors import PairIncompleteError, UnpublishableError
from .partners import check_fits, pair_directories, policy_on_hub, read_pair, run_of
from .records import recorded_facts
from .staging import Staged, save_model, stage
from .targets import PushOptions, Target, prepare, push, shown_of_critic, shown_of_policy

POLICY_SETTINGS = ("algorithm", "gamma", "lam", "kl", "kl_coef", "reward_funcs", "reward_noise", "seed", "trainable")


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
        evaluation: what `evaluate_critic.py` wrote: its directory or evaluation.json.
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
    said = _given(options)
    with tempfile.TemporaryDirectory() as folder:
        source = _on_disk(critic, Path(folder) / "saved", tokenizer, save_options)
        if not is_main():
            return None
        api = hub_api(token)
        names = PublicNames(api)
        staged = stage(
            source, "critic", Path(folder) / "critic", names, tokenizer=tokenizer, base_model=said.base_model
        )
        partner = policy_on_hub(api, policy, policy_revision, staged) if policy is not None else None
        target = prepare(api, "critic", staged, repo_id, said)
        run_directory = run_directory or run_of(critic)
        files, card = shown_of_critic(api, target, partner, evaluation=evaluation, run_directory=run_directory)
        facts = _facts(staged, said)
        pushed = push(api, target, facts=facts, partner=partner, card=card, extra=files)
        if said.tag:
            tag_commit(api, pushed, said.tag)
        if collection:
            group(api, collection, policy=policy, critic=repo_id, dataset=_dataset(facts))
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
    benchmarks=None,
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
        benchmarks: the policy's scores in the Hub's form, as `hub_cards.eval_result_files` takes them; on its card,
            and in `.eval_results/` beside it.
        others: as in `push_critic`; `revision`, `tag` and all other options are those of both repositories.

    Raises:
        PairIncompleteError: the critic is pushed and the policy is not; the message says how to finish.
        HubError: before anything was pushed; a subclass says what.
    """
    said = _given(options)
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
        names, base = PublicNames(api), said.base_model
        staged = {
            role: stage(source, role, Path(folder) / role, names, tokenizer=tokenizer, base_model=base)
            for role, source in sources.items()
        }
        pair = read_pair(pair)
        check_fits(staged["policy"], staged["critic"], pair)
        # whatever can be wrong with either shows before one of them changes
        target = {
            "critic": prepare(api, "critic", staged["critic"], critic_repo, said),
            "policy": prepare(api, "policy", staged["policy"], policy_repo, said),
        }
        named = {role: one.named(said.revision) for role, one in target.items()}
        shown = {"run_directory": run_directory or run_of(policy), "pair": pair}
        files, card = shown_of_critic(api, target["critic"], named["policy"], evaluation=evaluation, **shown)
        scores, policy_card = shown_of_policy(api, target["policy"], named["critic"], benchmarks=benchmarks, **shown)
        facts = _facts(staged["critic"], said)
        policy_facts = {**facts, **_policy_facts(pair, names)}
        pushed = push(api, target["critic"], facts=facts, partner=named["policy"], card=card, extra=files)
        try:
            # a pull request has a revision of its own
            partner = {**target["critic"].named(pushed.revision), "commit": pushed.commit}
            result = PushedPair(
                critic=pushed,
                policy=push(
                    api, target["policy"], facts=policy_facts, partner=partner, card=policy_card, extra=scores
                ),
            )
        except Exception as error:
            raise PairIncompleteError(_what_is_where(pushed, target["policy"], error), pushed) from error
        if said.tag:
            tag_commit(api, result.critic, said.tag)
            tag_commit(api, result.policy, said.tag)
        if collection:
            group(api, collection, policy=policy_repo, critic=critic_repo, dataset=_dataset(facts))
        return result


def _given(options: Mapping) -> PushOptions:
    """One that was left at None has its default."""
    return PushOptions(**{name: value for name, value in options.items() if value is not None})


def _on_disk(model, folder: Path, tokenizer, save_options) -> Path:
    if isinstance(model, str | os.PathLike):
        return Path(model)
    save_model(model, folder, **(save_options or {}))
    if tokenizer is not None and is_main():
        tokenizer.save_pretrained(folder)
    return folder


def _facts(staged: Staged, options: PushOptions) -> dict:
    facts = recorded_facts(staged.config)
    if options.dataset:
        facts["training"] = {**facts.get("training", {}), "dataset": options.dataset}
    return facts


def _dataset(facts: Mapping) -> str | None:
    return facts.get("training", {}).get("dataset")


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
