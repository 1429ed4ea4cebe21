"""Runs of train_dvpo.py, some with completions that do not hang on the policy or on the number of ranks; for tests.

Usage: torchrun --nproc-per-node 2 train_dvpo_with_fixed_rollouts.py RUNS.json

RUNS.json has a list of (whether the completions are fixed, command line), one a run: starting costs more than running.
"""

import json
import random
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import modeling_dvpo.training.train_dvpo as script
from modeling_dvpo.training import script as launcher
from modeling_dvpo.training.engine.distributed import distributed_run
from modeling_dvpo.training.rollouts.rollouts import Rollout, roll_out
from modeling_dvpo.training.trainers import dvpo_trainer


def fixed_roll_out(policy, tokenizer, prompts, args, *, greedy=False, environment=None):
    """Completions by prompt and generation: of all lengths, some cut, some with a token that is no action."""
    seen, rollouts = Counter(), []
    for prompt in prompts:
        draw = random.Random(f"{prompt.index} {seen[prompt.index]}")
        seen[prompt.index] += 1
        length = min(draw.randint(1, 14), args.max_completion_length)
        own = [draw.randrange(3, 300) for _ in range(length)]
        mask = [True] * length
        if length > 4 and draw.random() < 0.5:
            mask[2] = False
        truncated = length == args.max_completion_length
        if not truncated:
            own[-1] = tokenizer.eos_token_id
        rollouts.append(
            Rollout(
                prompt=prompt,
                input_ids=[*prompt.input_ids, *own],
                completion_mask=[False] * len(prompt.input_ids) + mask,
                completion=tokenizer.decode(own),
                truncated=truncated,
                num_turns=1,
            )
        )
    return rollouts


if __name__ == "__main__":
    with distributed_run() as device:
        launcher.distributed_run = lambda timeout: nullcontext(device)  # a process group cannot be made twice
        for fixed, arguments in json.loads(Path(sys.argv[1]).read_text()):
            dvpo_trainer.roll_out = fixed_roll_out if fixed else roll_out
            script.main(arguments)
