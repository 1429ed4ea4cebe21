"""README.md and what it shows, for a push; the words are those of `hub_cards`."""

import json
from collections.abc import Mapping

from huggingface_hub import HfApi

from .commits import Content
from .names import PublicNames
from .pushing import PushOptions, Target


def card_of_critic(api: HfApi, target: Target, partner: Mapping | None, **facts) -> str:
    """The critic's card, with what a user wrote into the one that is there."""
    from modeling_dvpo.hub_cards import critic_card

    return critic_card(
        target.staged.source,
        repo_id=target.state.repo_id,
        policy_repo=partner["repo"] if partner else None,
        previous=target.previous_card(api),
        **_given(facts),
        **_stated(target.options),
    )


def card_of_policy(api: HfApi, target: Target, partner: Mapping, **facts) -> str:
    """The policy's card, likewise."""
    from modeling_dvpo.hub_cards import policy_card

    return policy_card(
        target.staged.source,
        repo_id=target.state.repo_id,
        critic_repo=partner["repo"],
        previous=target.previous_card(api),
        **_given(facts),
        **_stated(target.options),
    )


def evaluation_files(evaluation, target: Target, names: PublicNames) -> dict[str, Content]:
    """evaluation.json, without the paths in it, and its figures, under the names by which the card shows them."""
    from modeling_dvpo.hub_cards import card_files

    files: dict[str, Content] = {}
    for file in card_files(evaluation):
        if file.suffix == ".json":
            content = {**json.loads(file.read_text()), "critic": target.state.repo_id}
            files["evaluation.json"] = (json.dumps(names.without_paths(content), indent=1) + "\n").encode()
        else:
            files[file.name] = file
    return files


def benchmark_files(benchmarks) -> dict[str, Content]:
    """A policy's benchmark scores where the Hub looks for them; none where none were given."""
    if not benchmarks:
        return {}
    from modeling_dvpo.hub_cards import eval_result_files

    return {path: text.encode() for path, text in eval_result_files(benchmarks).items()}


def _stated(options: PushOptions) -> dict:
    """What the user says of both models."""
    datasets = [options.dataset] if options.dataset else None
    return _given(
        {
            "license": options.license,
            "base_model": options.base_model,
            "datasets": datasets,
            "example": options.example,
        }
    )


def _given(facts: Mapping) -> dict:
    return {name: value for name, value in facts.items() if value is not None}
