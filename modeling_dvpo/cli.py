"""`dvpo`: one command for what one does with critics outside of training; each subcommand is a module of its own."""

import argparse
import importlib
import sys

# name -> (module with `add_arguments(parser)` and `main(options)`, what it does)
COMMANDS = {
    "inspect": ("modeling_dvpo.inspection.command", "a page that shows what a critic expects along responses"),
    "push": ("modeling_dvpo.hub.push_command", "a critic, or a policy with its critic, to the Hub"),
    "pull": ("modeling_dvpo.hub.pull_command", "a policy with its critic from the Hub, checked against each other"),
    "card": ("modeling_dvpo.hub.card_command", "the card of a saved critic or policy, from what is known of it"),
}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="dvpo", description="Distributional critics: see, share, load.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in arguments[:1]:  # others are not imported: a page needs no Hub, a card no plots
            importlib.import_module(module).add_arguments(subparser)
    options = parser.parse_args(arguments)
    try:
        importlib.import_module(COMMANDS[options.command][0]).main(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
