"""`dvpo push`, `dvpo pull` and `dvpo card`, as the command line sees them."""

import sys
from pathlib import Path

from modeling_dvpo.hub_cards import CardError, card_files, critic_card, policy_card, read_benchmarks
from modeling_dvpo.hub_cards.origins import read_object

from .errors import CHECKS
from .model_files import kind_of, read_json
from .partners import PAIR_FILE
from .pull import pull_pair
from .push import push_critic, push_pair


class Push:
    """A saved critic, or what a run of train_dvpo.py left, to the Hub."""

    @staticmethod
    def add_arguments(parser) -> None:
        parser.epilog = (
            "dvpo push outputs/critic/best owner/critic --policy owner/policy; "
            "dvpo push outputs/dvpo/last owner/policy owner/critic"
        )
        parser.add_argument("directory", help="a saved critic or policy, or a run of train_dvpo.py or its last/")
        parser.add_argument("repo", help="repository of the critic; with two repositories, of the policy")
        parser.add_argument("critic_repo", nargs="?", help="repository of the critic, beside its policy's")
        parser.add_argument("--critic", help="directory of the critic, where DIRECTORY is the policy's own")
        parser.add_argument("--policy", help="repository of the policy on the Hub that the critic judges")
        parser.add_argument("--policy-revision", help="branch, tag or commit of --policy")
        parser.add_argument("--evaluation", help="what evaluate_critic.py wrote: its directory or evaluation.json")
        parser.add_argument("--benchmarks", type=Path, help="YAML with the policy's scores, as in .eval_results")
        parser.add_argument(
            "--run-directory", help="of the training run, for the card; by default the one around DIRECTORY"
        )
        parser.add_argument("--revision", help="branch to push to, made where there is none (main)")
        parser.add_argument("--create-pr", action="store_true", help="propose it as a pull request")
        parser.add_argument("--tag", help="name the commit")
        parser.add_argument("--message", dest="commit_message", help="of the commit")
        visibility = parser.add_mutually_exclusive_group()
        visibility.add_argument("--private", action="store_true", default=None, help="a new repository is private")
        visibility.add_argument("--public", dest="private", action="store_false", help="a new repository is public")
        parser.add_argument("--base-model", help="Hub name of the model it started from, or that an adapter stands on")
        parser.add_argument("--dataset", help="Hub name of the data set it was trained on")
        parser.add_argument("--license", help="of the weights, as the Hub names it (apache-2.0, ...)")
        parser.add_argument("--collection", help="title or slug of a collection to put it into")
        parser.add_argument("--no-card", dest="card", action="store_false", help="leave README.md as it is")
        parser.add_argument("--overwrite", action="store_true", help="replace a model of another kind")
        parser.add_argument("--token", help="by default the one logged in with")

    @staticmethod
    def main(options) -> None:
        given = _given(options)
        directory, repo = given.pop("directory"), given.pop("repo")
        critic_repo, critic = given.pop("critic_repo", None), given.pop("critic", None)
        if "benchmarks" in given:
            given["benchmarks"] = read_benchmarks(given["benchmarks"])
        if critic_repo is None:
            if "benchmarks" in given:
                raise ValueError("--benchmarks are a policy's: dvpo push POLICY_DIRECTORY owner/policy owner/critic.")
            if critic is not None:
                raise ValueError(
                    "--critic needs two repositories: dvpo push POLICY_DIRECTORY owner/policy owner/critic."
                )
            pushed = {"critic": push_critic(_critic_directory(directory), repo, **given)}
        else:
            if "policy" in given or "policy_revision" in given:
                raise ValueError(
                    "--policy is for pushing a critic alone; with two repositories the first is the policy's."
                )
            pair = push_pair(directory, critic, repo, critic_repo, **given)
            pushed = {"critic": pair.critic, "policy": pair.policy} if pair else {}
        for role, one in pushed.items():
            if one is None:  # on another rank than 0
                continue
            done = (
                f"commit {one.commit[:8]} on {one.revision}" if one.changed else "nothing to do, it is there already"
            )
            print(f"{role}: {one.url} ({done})")
            if one.left_out:
                print(f"  not part of the {role}, left here: {', '.join(one.left_out)}")


class Pull:
    """A policy with its critic from the Hub, checked."""

    @staticmethod
    def add_arguments(parser) -> None:
        parser.epilog = "dvpo pull owner/critic --local-dir pair"
        parser.add_argument("repo", help="repository of the policy or of the critic; its record names the other")
        parser.add_argument("critic", nargs="?", help="repository of the critic, where the policy does not name it")
        parser.add_argument("--revision", help="of REPO: branch, tag, commit or refs/pr/N")
        parser.add_argument("--policy-revision", help="of the policy, where REPO is the critic")
        parser.add_argument("--critic-revision", help="of the critic, where REPO is the policy")
        parser.add_argument("--local-dir", help="put them there, as policy/ and critic/, instead of into the cache")
        parser.add_argument("--cache-dir", help="of the Hub's files")
        parser.add_argument(
            "--allow",
            action="append",
            default=[],
            choices=(*CHECKS, "all"),
            help="warn instead of failing where this does not fit; may be given again",
        )
        parser.add_argument("--token", help="by default the one logged in with")

    @staticmethod
    def main(options) -> None:
        pair = pull_pair(**_given(options))
        for role in ("policy", "critic"):
            commit = getattr(pair, f"{role}_commit")
            print(
                f"{role}: {getattr(pair, role)} ({getattr(pair, f'{role}_repo')}{', ' + commit[:8] if commit else ''})"
            )
            if base := pair.bases.get(role):
                here = "which lies here" if Path(base).is_dir() else "which is loaded from the Hub or its cache"
                print(f"  an adapter of {base}, {here}")
        if not pair.warnings:
            print("They belong together: files, records and tokenizer are as they were pushed.")


class Card:
    """The model card of a saved critic or policy, from what is known of it."""

    @staticmethod
    def add_arguments(parser) -> None:
        parser.add_argument("directory", type=Path, help="a saved critic or policy, or LoRA adapter of one")
        parser.add_argument("--output", type=Path, help="file to write, as a rule README.md; else the card is printed")
        parser.add_argument("--repo-id", help="where the model will be pushed; stands in the card's snippets")
        parser.add_argument(
            "--evaluation", type=Path, help="of a critic: what evaluate_critic.py wrote, a directory or file"
        )
        parser.add_argument("--run-directory", type=Path, help="output_dir of the run that made it")
        parser.add_argument("--pair", type=Path, help="pair.json; by default the one beside DIRECTORY")
        parser.add_argument("--policy", help="repository of the policy that a critic belongs to")
        parser.add_argument("--critic", help="repository of the critic that belongs to a policy")
        parser.add_argument("--benchmarks", type=Path, help="YAML with a policy's scores, as in .eval_results")
        parser.add_argument("--license", help="of the weights, as the Hub names it (apache-2.0, ...)")
        parser.add_argument("--base-model", help="Hub name of the model it started from, or that an adapter stands on")
        parser.add_argument("--dataset", nargs="+", help="Hub names of the data sets it was trained on")
        parser.add_argument("--example", nargs=2, metavar=("PROMPT", "RESPONSE"), help="for the card's snippets")
        parser.add_argument("--previous", type=Path, help="card whose edits survive; by default the one at --output")

    @staticmethod
    def main(options) -> None:
        directory = options.directory
        kind = kind_of((path.name for path in directory.glob("*")), read_json(directory / "config.json"))
        if kind not in ("critic", "policy"):
            raise CardError(f"{directory} holds no critic and no policy: give the directory of a saved model.")
        for name, of in {
            "evaluation": "critic",
            "policy": "critic",
            "critic": "policy",
            "benchmarks": "policy",
        }.items():
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


def _given(options) -> dict:
    return {name: value for name, value in vars(options).items() if value is not None and name != "command"}


def _critic_directory(directory: str) -> str:
    saved = [name for name in ("best", "last") if (Path(directory) / name / "config.json").is_file()]
    if saved and not (Path(directory) / "config.json").is_file():
        raise ValueError(
            f"{directory} is a run with {' and '.join(f'{name}/' for name in saved)}: say which to push, as in "
            f"{Path(directory) / saved[0]}."
        )
    return directory


def _pair(options) -> dict | None:
    beside = options.directory.resolve().parent / PAIR_FILE
    if options.pair is None and (options.directory.resolve().name not in ("critic", "policy") or not beside.is_file()):
        return None
    return read_object(options.pair or beside)
