"""`dvpo pull`: a policy with its critic from the Hub, checked."""

from .errors import CHECKS
from .pulling import pull_pair


def add_arguments(parser) -> None:
    parser.epilog = "dvpo pull owner/critic --local-dir pair"
    parser.add_argument("repo", help="repository of the policy or of the critic; its record names the other")
    parser.add_argument("critic", nargs="?", help="repository of the critic, where the policy names none or another")
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


def main(options) -> None:
    pair = pull_pair(
        **{name: value for name, value in vars(options).items() if value is not None and name != "command"}
    )
    for role in ("policy", "critic"):
        commit = getattr(pair, f"{role}_commit")
        print(f"{role}: {getattr(pair, role)} ({getattr(pair, f'{role}_repo')}{', ' + commit[:8] if commit else ''})")
    if not pair.warnings:
        print("They belong together: files, records and tokenizer are as they were pushed.")
