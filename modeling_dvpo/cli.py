"""`dvpo`: one command for everything; what a subcommand needs is imported when it is asked for."""

import argparse
import importlib
import sys

# name -> (module, or class in it, with `add_arguments(parser)` and `main(options)`; what it does)
COMMANDS = {
    "inspect": ("modeling_dvpo.inspection.command", "a page that shows what a critic expects along responses"),
    "push": ("modeling_dvpo.hub.commands:Push", "a critic, or a policy with its critic, to the Hub"),
    "pull": ("modeling_dvpo.hub.commands:Pull", "a policy with its critic from the Hub, checked against each other"),
    "card": ("modeling_dvpo.hub.commands:Card", "the card of a saved critic or policy, from what is known of it"),
}
# name -> (script that reads its own settings, what it does)
SCRIPTS = {
    "sample": ("modeling_dvpo.training.sample", "a reward set, from a policy and prompts"),
    "train-critic": ("modeling_dvpo.training.train_critic", "a critic, from a reward set"),
    "train": ("modeling_dvpo.training.train_dvpo", "a policy, with a distributional critic or a baseline"),
    "evaluate": ("modeling_dvpo.training.evaluate_critic", "a critic, against what happened or Monte-Carlo truth"),
}


def _command(name: str):
    module, _, inside = COMMANDS[name][0].partition(":")
    found = importlib.import_module(module)
    return getattr(found, inside) if inside else found


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in SCRIPTS:
        script = importlib.import_module(SCRIPTS[arguments[0]][0])
        sys.argv = [f"dvpo {arguments[0]}", *arguments[1:]]  # as if its file had been run
        script.exit_with_sentence(script.main)
        return
    parser = argparse.ArgumentParser(
        prog="dvpo",
        description="Distributional critics: train, see, share, load.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=24),
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, summary) in {**SCRIPTS, **COMMANDS}.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in arguments[:1]:  # others are not imported: a page needs no Hub, a card no plots
            _command(name).add_arguments(subparser)
    options = parser.parse_args(arguments)
    try:
        _command(options.command).main(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
