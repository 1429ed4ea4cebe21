"""`dvpo push`: a saved critic, or what a run of train_dvpo.py left, to the Hub."""

from pathlib import Path

from .pairs import push_critic, push_pair


def add_arguments(parser) -> None:
    parser.epilog = (
        "dvpo push outputs/critic/best owner/critic --policy owner/policy; "
        "dvpo push outputs/dvpo/last owner/policy owner/critic"
    )
    parser.add_argument("directory", help="a saved critic; or a run of train_dvpo.py, its last/, or a saved policy")
    parser.add_argument("repo", help="repository of the critic; with two repositories, of the policy")
    parser.add_argument("critic_repo", nargs="?", help="repository of the critic, to push a policy with its critic")
    parser.add_argument("--critic", help="directory of the critic, where DIRECTORY is the policy's own")
    parser.add_argument("--policy", help="repository of the policy on the Hub that the critic judges")
    parser.add_argument("--policy-revision", help="branch, tag or commit of --policy")
    parser.add_argument("--evaluation", help="what evaluate_critic.py wrote: its directory or evaluation.json")
    parser.add_argument("--benchmarks", type=Path, help="YAML with the policy's scores, as in the Hub's .eval_results")
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


def main(options) -> None:
    given = {name: value for name, value in vars(options).items() if value is not None and name != "command"}
    directory, repo = given.pop("directory"), given.pop("repo")
    critic_repo, critic = given.pop("critic_repo", None), given.pop("critic", None)
    if "benchmarks" in given:
        from modeling_dvpo.hub_cards import read_benchmarks

        given["benchmarks"] = read_benchmarks(given["benchmarks"])
    if critic_repo is None:
        if "benchmarks" in given:
            raise ValueError("--benchmarks are a policy's: dvpo push POLICY_DIRECTORY owner/policy owner/critic.")
        if critic is not None:
            raise ValueError("--critic needs two repositories: dvpo push POLICY_DIRECTORY owner/policy owner/critic.")
        pushed = {"critic": push_critic(_critic_directory(directory), repo, **given)}
    else:
        if "policy" in given or "policy_revision" in given:
            raise ValueError(
                "--policy is for pushing a critic alone; with two repositories the first is the policy's."
            )
        pair = push_pair(directory, critic, repo, critic_repo, **given)
        pushed = {"critic": pair.critic, "policy": pair.policy}
    for role, one in pushed.items():
        done = f"commit {one.commit[:8]} on {one.revision}" if one.changed else "nothing to do, it is there already"
        print(f"{role}: {one.url} ({done})")
        if one.left_out:
            print(f"  not part of the {role}, left here: {', '.join(one.left_out)}")


def _critic_directory(directory: str) -> str:
    saved = [name for name in ("best", "last") if (Path(directory) / name / "config.json").is_file()]
    if saved and not (Path(directory) / "config.json").is_file():
        raise ValueError(
            f"{directory} is a run with {' and '.join(f'{name}/' for name in saved)}: say which to push, as in "
            f"{Path(directory) / saved[0]}."
        )
    return directory
