"""Whether a critic's judgement is worth something while completions are being written: pruning and guidance.

    python benchmarks/pruning_and_guidance.py --policy outputs/demo/policy \\
        --critics outputs/demo/critics/auto/last outputs/demo/critics/scalar/last --output outputs/pruning.json

On held-out prompts of the arithmetic task the policy writes `--n` completions of each, of which the critics drop the
worst on the way, and the best of those left is chosen; and single completions, each token weighed by the first critic.
Intervals hold 95 % of bootstrap samples of the prompts. Writes JSON, prints Markdown. (What a critic is worth among
*finished* completions, training/evaluate_critic.py says, on any set.)
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from modeling_dvpo import AutoModelForDistributionalValue, best_of_n
from modeling_dvpo.inference.guided_decoding import CriticGuidance
from modeling_dvpo.inference.sampling import Continuation, Sampler, Sampling, as_sampled
from modeling_dvpo.metrics.resampling import bootstrap_interval
from modeling_dvpo.text.completion_tokens import completion_of, prompt_tokens
from modeling_dvpo.training.tasks import arithmetic

PRUNINGS = ({"every": 6, "share": 0.25}, {"every": 6, "share": 0.5}, {"every": 12, "share": 0.5})
PLAIN = tuple({"temperature": temperature, "beta": 0.0, "score": "mean"} for temperature in (1.0, 0.5, 0.01))
GUIDANCE = tuple(
    {"temperature": 1.0, "beta": beta, "score": score}
    for beta, score in ((5.0, "mean"), (20.0, "mean"), (80.0, "mean"), (20.0, "cvar=0.5"))
)
CANDIDATES = 4
MAX_NEW_TOKENS = 96


class Bench:
    """Policy, critics and prompts."""

    def __init__(self, options):
        def load(auto_class, directory):
            return auto_class.from_pretrained(directory, dtype=torch.float32).to(options.device).eval()

        self.options = options
        self.policy = load(AutoModelForCausalLM, options.policy)
        self.tokenizer = AutoTokenizer.from_pretrained(options.policy)
        self.critics = {name: load(AutoModelForDistributionalValue, name) for name in options.critics}
        rows = arithmetic.prompt_rows(options.prompts, seed=11, domain=options.domain, held_out=True)
        self.prompts = [row["prompt"] for row in rows]

    def picked(self, critic: str, seed: int, **settings) -> tuple[Tensor, Tensor]:
        """(P,) whether the best of n is right, and tokens written, with these settings of `best_of_n`."""
        results = best_of_n(
            self.policy,
            self.critics[critic],
            self.tokenizer,
            self.prompts,
            self.options.n,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
            batch_size=self.options.batch_size,
            **settings,
        )
        right = arithmetic.exact_reward(self.prompts, [result.best.completion for result in results])
        return torch.tensor(right), torch.tensor([float(result.tokens_generated) for result in results])

    def guided(self, seed: int, *, temperature: float, beta: float, score: str) -> Tensor:
        """(P,) whether one completion is right, each of its tokens weighed by the first critic; beta 0 samples."""
        rows, texts = [prompt_tokens(self.tokenizer, prompt) for prompt in self.prompts], []
        critic = next(iter(self.critics.values()))
        sampler = Sampler(self.policy, self.tokenizer, Sampling(temperature=temperature))
        with as_sampled(self.policy, seed=seed):
            for start in range(0, len(rows), self.options.batch_size):
                continuation = Continuation(sampler, rows[start : start + self.options.batch_size])
                guidance = CriticGuidance(
                    critic,
                    beta=beta,
                    score=score,
                    num_candidates=CANDIDATES,
                    end_ids=sampler.end_ids,
                    prompt_mask=continuation.mask,
                )
                written = continuation.write(MAX_NEW_TOKENS, [guidance] if beta else [])
                texts += [completion_of(self.tokenizer, "", ids, sampler.end_ids) for ids, _ in written]
        return torch.tensor(arithmetic.exact_reward(self.prompts, texts))


def measure(bench: Bench) -> dict:
    """Prompts' accuracies are averaged over seeds before the prompts are resampled."""
    seeds = bench.options.seeds
    pruning = []
    for critic in bench.critics:
        unpruned = None
        for settings in (None, *PRUNINGS):
            runs = [bench.picked(critic, seed, **({"pruning": settings} if settings else {})) for seed in seeds]
            right, tokens = (torch.stack(of_seeds).double().mean(0) for of_seeds in zip(*runs, strict=True))
            unpruned = right if settings is None else unpruned
            row = {"critic": critic, **(settings or {}), "tokens": tokens.mean().item()}
            pruning.append({**row, "accuracy": with_interval(right), "less_unpruned": with_interval(right - unpruned)})
    guidance = [
        {
            **settings,
            "accuracy": with_interval(torch.stack([bench.guided(seed, **settings) for seed in seeds]).mean(0)),
        }
        for settings in (*PLAIN, *GUIDANCE)
    ]
    return {"pruning": pruning, "guidance": guidance}


def with_interval(per_prompt: Tensor) -> list[float]:
    return [per_prompt.double().mean().item(), *bootstrap_interval(per_prompt)]


def tables(found: dict, n: int) -> str:
    def percent(share):
        return f"{100 * share[0]:.1f} ({100 * share[1]:.1f} to {100 * share[2]:.1f})"

    def table(header, rows):
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [header, ["---"] * len(header), *rows])

    pruned = [
        [
            row["critic"],
            f"{row['share']:.0%} dropped every {row['every']} tokens" if "every" in row else "none dropped",
            f"{row['tokens']:.0f}",
            percent(row["accuracy"]),
            percent(row["less_unpruned"]),
        ]
        for row in found["pruning"]
    ]
    guided = [
        [f"{row['temperature']:g}", f"{row['beta']:g}", row["score"], percent(row["accuracy"])]
        for row in found["guidance"]
    ]
    return "\n\n".join(
        [
            table(["critic", f"best of {n}", "tokens a prompt", "accuracy, %", "less unpruned"], pruned),
            table(["temperature", "β of the guidance", "score", "accuracy, %"], guided),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--critics", nargs="+", required=True, help="the first also guides")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domain", default="single_digits", choices=list(arithmetic.DOMAINS))
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    found = measure(Bench(options))
    print(tables(found, options.n), flush=True)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"settings": settings, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
