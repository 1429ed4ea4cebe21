"""Sample a policy's completions of prompts, score them, and write them as a reward set.

    python training/sample.py --model_name_or_path outputs/policy --dataset prompts.jsonl --num_generations 8 \\
        --reward_funcs my_rewards:exact --output_dir outputs/sampled
    torchrun --nproc-per-node 8 training/sample.py ...

One process or many: same script, same rows. A killed run goes on with --resume. docs/sample.md has the settings, the
files that are written and what a row has.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file (PEP 366): a part of its package, and no room of ours before a user's module
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(path for path in sys.path if Path(path).resolve() != here)]
    __package__ = "modeling_dvpo.training"
    import modeling_dvpo.training  # noqa: F401

    sys.path.append(sys.path.pop(0))

from .run.config import parse_config
from .sampling.run import ARGUMENTS, SampleRun
from .script import exit_with_sentence, run_on_ranks, settings_of


def main(arguments: list[str] | None = None) -> None:
    """Run the script with these arguments, by default the command line's."""
    parsed = parse_config(ARGUMENTS, arguments)
    args, settings = parsed[-1], settings_of(*parsed)
    run_on_ranks(lambda device: SampleRun(*parsed, settings=settings, device=device).run(), args, settings)


if __name__ == "__main__":
    exit_with_sentence(main)
