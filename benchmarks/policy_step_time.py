"""Time of a training step, algorithm against algorithm in the same loop, in one run.

python benchmarks/policy_step_time.py [--threads 1] [--hidden_size 128]

A random policy writes completions of the greatest length, so that every algorithm has the same work; the algorithms
take turns, step by step, and the shortest step of each counts.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from modeling_dvpo.training.run.config import parse_config
from modeling_dvpo.training.tasks import arithmetic, imitation
from modeling_dvpo.training.trainers.dvpo_trainer import ARGUMENTS, PolicyRun

ALGORITHMS = ("grpo", "ppo", "dvpo", "robust_bellman")


def start(algorithm: str, folder: Path, options) -> PolicyRun:
    parsed = parse_config(
        ARGUMENTS,
        [
            *("--model_name_or_path", str(folder / "policy"), "--dataset", str(folder / "prompts.jsonl")),
            *("--reward_funcs", "modeling_dvpo.training.tasks.arithmetic:exact_reward"),
            *(
                "--output_dir",
                str(folder / algorithm),
                "--algorithm",
                algorithm,
                "--critic_lam",
                str(options.critic_lam),
            ),
            *("--prompts_per_step", "16", "--num_generations", "8", "--generation_batch_size", "128"),
            *("--max_completion_length", "64", "--num_mini_batches", "4", "--logging_steps", "1000000"),
            *("--max_steps", "1000000"),
        ],
    )
    settings = {name: value for part in parsed for name, value in asdict(part).items()}
    return PolicyRun(*parsed, settings, torch.device("cpu"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--critic_lam", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokenizer = imitation.build_tokenizer(arithmetic.WORDS, arithmetic.CHARACTERS)
        tokenizer.save_pretrained(folder / "policy")
        policy = imitation.build_policy(tokenizer, hidden_size=options.hidden_size)
        policy.lm_head.weight.data[tokenizer.eos_token_id] = 0  # tied to the embedding: the end is no likelier
        policy.save_pretrained(folder / "policy")
        problems = arithmetic.distinct_problems(200, seed=0, domain="single_digits")
        lines = [json.dumps({"prompt": problem.prompt}) + "\n" for problem in problems]
        (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        runs = {algorithm: start(algorithm, folder, options) for algorithm in ALGORITHMS}
        times = {algorithm: [] for algorithm in ALGORITHMS}
        for step in range(1, options.steps + 2):
            for algorithm, run in runs.items():
                metrics = run.step(step)
                if step > 1:  # the first also makes the critic and its optimizer's state
                    times[algorithm].append((metrics["seconds"], metrics["rollout_seconds"]))
    fastest = {algorithm: min(seconds) for algorithm, seconds in times.items()}
    print("| algorithm | step | rollouts of it | ratio to grpo | ratio of the rest |")
    print("|---|---|---|---|---|")
    base = fastest["grpo"]
    for algorithm, (step, rollouts) in fastest.items():
        rest = (step - rollouts) / (base[0] - base[1])
        print(f"| {algorithm} | {step:.2f} s | {rollouts:.2f} s | {step / base[0]:.2f} | {rest:.2f} |", flush=True)
