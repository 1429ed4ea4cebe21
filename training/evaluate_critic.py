"""Hold a critic against what happened: reward sets, or Monte-Carlo truth from a policy's own states.

    python training/evaluate_critic.py --critic outputs/critic/last --dataset held-out=held_out.jsonl \\
        --out_of_domain harder=harder.jsonl --scalar_critic outputs/scalar/last --output_dir outputs/evaluation
    torchrun --nproc-per-node 8 training/evaluate_critic.py ...

Of a set with several responses to a prompt, also the best of n that critic, policy, length and vote choose. Writes
evaluation.json, evaluation.md and figures. One process or many: same script, same numbers. A killed run goes on
with --resume. docs/evaluate_critic.md has the settings, the files and what each figure means.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file (PEP 366): a part of its package, and no room of ours before a user's module
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(path for path in sys.path if Path(path).resolve() != here)]
    __package__ = "modeling_dvpo.training"
    import modeling_dvpo.training  # noqa: F401

    sys.path.append(sys.path.pop(0))

from .evaluation.arguments import named_sets
from .evaluation.evaluator import ARGUMENTS, Evaluation
from .run.config import parse_config
from .script import exit_with_sentence, run_on_ranks, settings_of


def main(arguments: list[str] | None = None) -> None:
    """Run the script with these arguments, by default the command line's."""
    parsed = args, data_args, sampling = parse_config(ARGUMENTS, arguments)
    sets, settings = named_sets(data_args, sampling), settings_of(*parsed)
    run_on_ranks(lambda device: Evaluation(args, data_args, sampling, sets, settings, device).run(), args, settings)


if __name__ == "__main__":
    exit_with_sentence(main)
