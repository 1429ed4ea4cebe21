"""Fine-tune a distributional critic on a reward set, offline.

    python training/train_critic.py training/recipes/demo.yaml --output_dir outputs/critic
    torchrun --nproc-per-node 8 training/train_critic.py training/recipes/qwen3-8b.yaml --output_dir outputs/critic

The critic is new, on the backbone of any causal LM, or loaded. One process or many: same script, same recipe, same
curve. docs/train_critic.md has the settings, the files that are written and what each metric means.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file (PEP 366): a part of its package, and no room of ours before a user's module
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(path for path in sys.path if Path(path).resolve() != here)]
    __package__ = "modeling_dvpo.training"
    import modeling_dvpo.training  # noqa: F401

    sys.path.append(sys.path.pop(0))

from .algorithms.critic_arguments import check_together
from .run.config import parse_config
from .script import exit_with_sentence, run_on_ranks, settings_of
from .trainers.critic_trainer import ARGUMENTS, CriticTrainer


def main(arguments: list[str] | None = None) -> None:
    """Run the script with these arguments, by default the command line's."""
    parsed = parse_config(ARGUMENTS, arguments)
    check_together(*parsed[1:])
    args, settings = parsed[-1], settings_of(*parsed)

    def train(device):
        CriticTrainer(*parsed, settings=settings, device=device).train()

    run_on_ranks(train, args, settings, timeout=args.init_timeout)


if __name__ == "__main__":
    exit_with_sentence(main)
