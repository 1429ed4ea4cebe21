"""How good the critics of the study became: each against Monte-Carlo truth from its own policy's states.

    python benchmarks/noisy_supervision_critics.py --seeds 0 1 2

Reads the pairs of policy and critic that `noisy_supervision.py` left in its work directory (arithmetic only). From
held-out prompts the final policy samples completions, one state is taken from each, and every state is continued many
times. A flip at rate p turns the chance of success c into p + (1 - 2p) c, which is what a critic of that run should
predict.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from noisy_supervision_grid import METHODS, Run
from noisy_supervision_runs import ROOT, Workplace
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.tasks.arithmetic import exact_reward

sys.path.append(str(ROOT / "examples" / "arithmetic"))
from comparison import predict  # noqa: E402
from rollouts import held_out_states, monte_carlo_truth, returns_of, sample_completions  # noqa: E402


def against_truth(directory: Path, prompts: list[str], flip: float, options) -> dict[str, float]:
    """Mean and spread of one run's critic at `options.states` states, beside the truth."""
    policy = AutoModelForCausalLM.from_pretrained(directory / "last" / "policy").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory / "last" / "policy")
    critic = AutoModelForDistributionalValue.from_pretrained(directory / "last" / "critic").eval()
    states = held_out_states(sample_completions(policy, tokenizer, prompts, seed=0), options.states, seed=0)
    finished = monte_carlo_truth(policy, tokenizer, states, options.continuations, seed=0)
    clean = torch.from_numpy(returns_of(finished, exact_reward)).mean(1)
    truth = flip + (1 - 2 * flip) * clean
    quantiles = predict(critic, states).double()
    value = quantiles.mean((-2, -1))
    return {
        "explained": (1 - (truth - value).var() / truth.var()).item(),
        "correlation": torch.corrcoef(torch.stack([truth, value]))[0, 1].item(),
        "bias": (value - truth).mean().item(),
        "truth_sd": truth.std().item(),
        # of a 0/1 return with this chance, and of the critic's distribution
        "return_sd": (truth * (1 - truth)).sqrt().mean().item(),
        "predicted_sd": quantiles.mean(1).std(-1, correction=0).mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["dvpo", "dvpo_paper", "ppo"])
    parser.add_argument("--flips", nargs="+", default=["0", "0.2", "0.4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--states", type=int, default=150)
    parser.add_argument("--continuations", type=int, default=32)
    parser.add_argument("--work_dir", type=Path, default=ROOT / "outputs" / "noisy_supervision")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/studies/noisy_supervision_critics.jsonl")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    workplace, found = Workplace(options.work_dir), []
    for flip in options.flips:
        for method in options.methods:
            for seed in options.seeds:
                run = Run(method, f"flip={flip}", seed, "arithmetic")
                lines = (workplace.data(run) / "single_digits.jsonl").open(encoding="utf-8")
                prompts = [json.loads(line)["prompt"] for line in lines]
                measured = against_truth(workplace.output(run), prompts, float(flip), options)
                found.append({"method": method, "flip": flip, "seed": seed, **measured})
    options.results.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    print(table(found))


def table(found: list[dict]) -> str:
    """Means over seeds, a row for each flip and method."""
    columns = {
        "explained": "explained variance",
        "correlation": "correlation",
        "bias": "bias",
        "truth_sd": "sd of the truth over states",
        "return_sd": "sd of returns",
        "predicted_sd": "predicted",
    }
    lines = [f"| flips | critic of | {' | '.join(columns.values())} |", "|---" * (2 + len(columns)) + "|"]
    for flip, method in dict.fromkeys((row["flip"], row["method"]) for row in found):
        rows = [row for row in found if (row["flip"], row["method"]) == (flip, method)]
        means = [sum(row[name] for row in rows) / len(rows) for name in columns]
        cells = [f"{mean:.3f}" for mean in means]
        if re.match("ppo", method):
            cells[-1] = ""  # a scalar critic has no spread
        lines.append(f"| {flip} | {METHODS[method].label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
