"""Train a policy with a distributional critic (DVPO), or with one of its baselines.

    python training/train_dvpo.py training/recipes/gsm8k.yaml --output_dir outputs/policy
    torchrun --nproc-per-node 8 training/train_dvpo.py training/recipes/gsm8k.yaml --output_dir outputs/policy

Each step samples completions, scores them, and updates critic and policy on them. One process or many: same script,
same recipe. docs/train_dvpo.md has the settings, the files that are written and what each metric means.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file (PEP 366): a part of its package, and no room of ours before a user's module
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(path for path in sys.path if Path(path).resolve() != here)]
    __package__ = "modeling_dvpo.training"
    import modeling_dvpo.training  # noqa: F401

    sys.path.append(sys.path.pop(0))

from .algorithms.policy_arguments import check_together
from .run.config import parse_config
from .script import exit_with_sentence, run_on_ranks, settings_of
from .trainers.dvpo_trainer import ARGUMENTS, DVPOTrainer


def main(arguments: list[str] | None = None) -> None:
    """Run the script with these arguments, by default the command line's."""
    parsed = parse_config(ARGUMENTS, arguments)
    check_together(*parsed)
    args, settings = parsed[-1], settings_of(*parsed)

    def train(device):
        DVPOTrainer(*parsed, settings=settings, device=device).train()

    run_on_ranks(train, args, settings, timeout=args.init_timeout)


if __name__ == "__main__":
    exit_with_sentence(main)
