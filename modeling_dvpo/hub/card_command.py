"""`dvpo card`: the model card of a saved critic or policy, from what is known of it."""

import argparse
import sys
from pathlib import Path

from .model_files import kind_of, read_json

PAIR = "pair.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="a saved critic or policy, or LoRA adapter of one")
    parser.add_argument("--output", type=Path, help="file to write, as a rule README.md; else the card is printed")
    parser.add_argument("--repo-id", help="where the model will be pushed, owner/name; stands in the card's snippets")
    parser.add_argument(
        "--evaluation", type=Path, help="of a critic: what evaluate_critic.py wrote, a directory or file"
    )
    parser.add_argument("--run-directory", type=Path, help="output_dir of the run that made it")
    parser.add_argument("--pair", type=Path, help="pair.json; by default the one beside DIRECTORY")
    parser.add_argument("--policy", help="repository of the policy that a critic belongs to")
    parser.add_argument("--critic", help="repository of the critic that belongs to a policy")
    parser.add_argument("--benchmarks", type=Path, help="YAML with a policy's scores, as in the Hub's .eval_results")
    parser.add_argument("--license", help="of the weights, as the Hub names it (apache-2.0, ...)")
    parser.add_argument("--base-model", help="Hub name of the model it started from, or that an adapter stands on")
    parser.add_argument("--dataset", nargs="+", help="Hub names of the data sets it was trained on")
    parser.add_argument("--example", nargs=2, metavar=("PROMPT", "RESPONSE"), help="for the card's snippets")
    parser.add_argument("--previous", type=Path, help="card whose edits survive; by default the one at --output")


def main(options: argparse.Namespace) -> None:
    from modeling_dvpo.hub_cards import (
        CardError,
        card_files,
        critic_card,
        policy_card,
        read_benchmarks,
    )

    directory = options.directory
    kind = kind_of((path.name for path in directory.glob("*")), read_json(directory / "config.json"))
    if kind not in ("critic", "policy"):
        raise CardError(f"{directory} holds no critic and no policy: give the directory of a saved model.")
    for name, of in {"evaluation": "critic", "policy": "critic", "critic": "policy", "benchmarks": "policy"}.items():
        if getattr(options, name) and of != kind:
            raise CardError(f"--{name} is for the card of a {of}, and {directory} holds a {kind}.")
    previous = options.previous or options.output
    if options.previous and not options.previous.is_file():
        raise CardError(f"There is no card {options.previous}.")
    shared = {
        "repo_id": options.repo_id,
        "pair": _pair(options),
        "run_directory": options.run_directory,
        "previous": previous.read_text(encoding="utf-8") if previous and previous.is_file() else None,
        "license": options.license,
        "base_model": options.base_model,
        "datasets": options.dataset,
        "example": tuple(options.example) if options.example else None,
    }
    if kind == "critic":
        files = card_files(options.evaluation) if options.evaluation else []
        card = critic_card(directory, policy_repo=options.policy, evaluation=options.evaluation, **shared)
    else:
        files = []
        benchmarks = read_benchmarks(options.benchmarks) if options.benchmarks else ()
        card = policy_card(directory, critic_repo=options.critic, benchmarks=benchmarks, **shared)
    if options.output is None:
        print(card, end="")
        return
    options.output.write_text(card, encoding="utf-8")
    elsewhere = [str(path) for path in files if path.resolve().parent != options.output.resolve().parent]
    if elsewhere:
        print(f"The card refers to these, which belong beside it: {', '.join(elsewhere)}", file=sys.stderr)


def _pair(options: argparse.Namespace) -> dict | None:
    from modeling_dvpo.hub_cards.origins import read_object

    beside = options.directory.resolve().parent / PAIR
    if options.pair is None and (options.directory.resolve().name not in ("critic", "policy") or not beside.is_file()):
        return None
    return read_object(options.pair or beside)
