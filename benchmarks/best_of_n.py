"""What a critic is worth as a judge: accuracy of the completion it picks among n, against other ways to pick.

    python benchmarks/best_of_n.py --policy outputs/demo/policy --critic outputs/demo/exact/composite/last \\
        --scalar_critic outputs/demo/exact/scalar/last --quantile_critic "outputs/demo/exact/quantile only/last" \\
        --output outputs/best_of_n.json

On held-out prompts of the arithmetic task the policy writes `--n` completions of each; of n = 1, 2, 4, ... of them,
the first ones, the next ones and so on are chosen from, and averaged. Then candidates are pruned while they are
written, and single completions are written with the critic's guidance, token by token. Intervals hold 95 % of
bootstrap samples of the prompts. Writes JSON, prints Markdown.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from best_of_n_choices import Choices, interval, markdown, percent, signed
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from modeling_dvpo import AutoModelForDistributionalValue, best_of_n
from modeling_dvpo.inference.guided_decoding import CriticGuidance
from modeling_dvpo.inference.risk_measures import parse_risk_measure
from modeling_dvpo.inference.sampling import Continuation, Sampler, Sampling, as_sampled
from modeling_dvpo.inference.scoring import score_tokens
from modeling_dvpo.text.batches import padded_tokens
from modeling_dvpo.text.completion_tokens import Tokens, completion_of, prompt_tokens
from modeling_dvpo.training.tasks import arithmetic

SCORES = ("mean", "cvar=0.1", "cvar=0.5", "upper_tail=0.1", "upper_tail=0.5", "lower_confidence=1")
PRUNINGS = ({"every": 6, "share": 0.25}, {"every": 6, "share": 0.5}, {"every": 12, "share": 0.5})
GUIDANCE = ((5.0, "mean"), (20.0, "mean"), (80.0, "mean"), (20.0, "cvar=0.5"))
CANDIDATES = 4
MAX_NEW_TOKENS = 96


class Bench:
    """Policy, critics and prompts of one domain."""

    def __init__(self, options, domain: str):
        def load(auto_class, directory, dtype=torch.float32):
            return auto_class.from_pretrained(directory, dtype=dtype).to(options.device).eval()

        self.options = options
        self.policy = load(AutoModelForCausalLM, options.policy)
        self.tokenizer = AutoTokenizer.from_pretrained(options.policy)
        directories = {"distributional": options.critic, "scalar": options.scalar_critic}
        if options.quantile_critic:
            directories["quantile only"] = options.quantile_critic
        dtype = getattr(torch, options.dtype)
        self.critics = {
            name: load(AutoModelForDistributionalValue, directory, dtype) for name, directory in directories.items()
        }
        rows = arithmetic.prompt_rows(options.prompts, seed=options.prompt_seed, domain=domain, held_out=True)
        self.prompts = [row["prompt"] for row in rows]

    def run(self, seed: int, n: int, critic: str = "distributional", **settings):
        return best_of_n(
            self.policy,
            self.critics[critic],
            self.tokenizer,
            self.prompts,
            n,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
            batch_size=self.options.batch_size,
            use_cache=self.options.use_cache,
            **settings,
        )

    def choices(self, seed: int) -> Choices:
        """n completions of each prompt, and what every way to score says of them."""
        n, results = self.options.n, self.run(seed, self.options.n)
        candidates = [sorted(result.candidates, key=lambda candidate: candidate.place) for result in results]
        flat = [candidate for some in candidates for candidate in some]
        each, texts = [prompt for prompt in self.prompts for _ in range(n)], [one.completion for one in flat]
        rows = [self.tokens(*pair) for pair in zip(each, flat, strict=True)]
        states = {"distributional": torch.stack([one.quantiles for one in flat])}
        for name in self.critics.keys() - states.keys():
            scored = score_tokens(self.critics[name], rows)
            states[name] = torch.stack([one.last_state for one in scored])
        scores = {
            "likelihood": torch.tensor(self.log_likelihoods(rows)),
            "scalar critic, mean": states.pop("scalar").mean((-2, -1)),
        }
        for name in sorted(states):
            for score in SCORES:
                scores[f"{name} critic, {score}"] = parse_risk_measure(score)(states[name].mean(-2))
        return Choices(
            right=torch.tensor(arithmetic.exact_reward(each, texts)).reshape(-1, n),
            answers=[[arithmetic.stated_answer(candidate.completion) for candidate in some] for some in candidates],
            scores={name: numbers.reshape(-1, n) for name, numbers in scores.items()},
            tokens=sum(result.tokens_generated for result in results) / len(results),
        )

    def tokens(self, prompt: str, candidate) -> Tokens:
        """The very tokens that were sampled: the task's texts are tokenised in one way only."""
        before = self.tokenizer(prompt).input_ids
        ids = self.tokenizer(candidate.completion).input_ids
        ids += [self.tokenizer.eos_token_id] * (candidate.num_tokens - len(ids))
        return Tokens(before + ids, [False] * len(before) + [True] * len(ids))

    @torch.no_grad()
    def log_likelihoods(self, rows: list[Tokens], batch: int = 256) -> list[float]:
        """Of completions under the policy, end token included."""
        found = []
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            ids, _ = padded_tokens([row.input_ids for row in some])
            actions, _ = padded_tokens([row.actions for row in some])
            logits = self.policy(input_ids=ids.to(self.policy.device)).logits[:, :-1].float().log_softmax(-1).cpu()
            found += (logits.gather(2, ids[:, 1:, None])[..., 0] * actions[:, 1:]).sum(1).tolist()
        return found

    def pruned(self, seed: int, critic: str, pruning: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,) whether the best candidate is right, and tokens written, with pruning."""
        results = self.run(seed, self.options.n, critic, pruning=pruning)
        right = arithmetic.exact_reward(self.prompts, [result.best.completion for result in results])
        return torch.tensor(right), torch.tensor([float(result.tokens_generated) for result in results])

    def guided(self, seed: int, beta: float, score: str, *, temperature: float = 1.0) -> torch.Tensor:
        """(P,) whether one completion is right, each of its tokens weighed by the critic; beta 0 is plain sampling."""
        rows, texts = [prompt_tokens(self.tokenizer, prompt) for prompt in self.prompts], []
        sampler = Sampler(self.policy, self.tokenizer, Sampling(temperature=temperature))
        with as_sampled(self.policy, seed=seed):
            for start in range(0, len(rows), self.options.batch_size):
                continuation = Continuation(sampler, rows[start : start + self.options.batch_size])
                guidance = CriticGuidance(
                    self.critics["distributional"],
                    beta=beta,
                    score=score,
                    num_candidates=CANDIDATES,
                    end_ids=sampler.end_ids,
                    prompt_mask=continuation.mask,
                )
                written = continuation.write(MAX_NEW_TOKENS, [guidance] if beta else [])
                texts += [completion_of(self.tokenizer, "", ids, sampler.end_ids) for ids, _ in written]
        return torch.tensor(arithmetic.exact_reward(self.prompts, texts))


def measure(options, domain: str) -> dict:
    """Everything of one domain; prompts' accuracies are averaged over seeds before they are resampled."""
    bench, started = Bench(options, domain), time.perf_counter()
    by_seed = [bench.choices(seed) for seed in options.seeds]
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= options.n]
    ways = by_seed[0].ways()
    accuracy = {
        way: {size: torch.stack([choices.accuracy(way, size) for choices in by_seed]).mean(0) for size in sizes}
        for way in ways
    }
    tokens = sum(choices.tokens for choices in by_seed) / len(by_seed)
    found = {
        "domain": domain,
        "tokens_of_n": {str(size): tokens * size / options.n for size in sizes},
        "accuracy": {
            way: {str(size): interval(right) for size, right in some.items()} for way, some in accuracy.items()
        },
        "pairs_in_order": pairs_in_order(by_seed),
        "less_scalar_mean": {
            way: {str(size): interval(some[size] - accuracy["scalar critic, mean"][size]) for size in sizes}
            for way, some in accuracy.items()
        },
        "pruning": [],
        "guidance": [],
    }
    plain = [(0.0, "mean", temperature) for temperature in (1.0, 0.5, 0.01)]
    for beta, score, temperature in (*plain, *((*some, 1.0) for some in GUIDANCE)) if options.guide else ():
        right = [bench.guided(seed, beta, score, temperature=temperature) for seed in options.seeds]
        row = {"beta": beta, "score": score, "temperature": temperature}
        found["guidance"].append({**row, "accuracy": interval(torch.stack(right).mean(0))})
    for critic in ("distributional", "scalar"):
        for pruning in PRUNINGS if options.prune else ():
            right, written = zip(*[bench.pruned(seed, critic, pruning) for seed in options.seeds], strict=True)
            unpruned = accuracy[f"{critic} critic, mean"][options.n]
            right = torch.stack(right).mean(0)
            found["pruning"].append(
                {
                    "critic": critic,
                    **pruning,
                    "tokens": torch.stack(written).mean().item(),
                    "accuracy": interval(right),
                    "less_unpruned": interval(right - unpruned),
                }
            )
    found["seconds"] = time.perf_counter() - started
    return found


def pairs_in_order(by_seed: list[Choices]) -> dict[str, float]:
    """Of each score, the mean over seeds; of none where there are no pairs."""
    measured = {name: [choices.pairs_in_order(name) for choices in by_seed] for name in by_seed[0].scores}
    return {name: sum(some) / len(some) for name, some in measured.items() if None not in some}


def tables(found: dict, n: int) -> str:
    sizes = list(found["tokens_of_n"])
    rows = [
        [
            way,
            *(percent(some[size]) for size in sizes),
            signed(found["less_scalar_mean"][way][str(n)]),
            f"{found['pairs_in_order'][way]:.3f}" if way in found["pairs_in_order"] else "",
        ]
        for way, some in found["accuracy"].items()
    ]
    header = ["chosen by", *(f"n = {size}" for size in sizes), f"less scalar critic, n = {n}", "pairs in order"]
    parts = [f"### {found['domain']}", markdown(header, rows)]
    if found["pruning"]:
        rows = [
            [f"{critic}, n = {size}, unpruned", f"{tokens:.0f}", percent(some[size]), ""]
            for critic, some in [
                (name, found["accuracy"][f"{name} critic, mean"]) for name in ("distributional", "scalar")
            ]
            for size, tokens in found["tokens_of_n"].items()
        ]
        rows += [
            [
                f"{row['critic']}, n = {n}, {row['share']:.0%} dropped every {row['every']} tokens",
                f"{row['tokens']:.0f}",
                percent(row["accuracy"]),
                signed(row["less_unpruned"]),
            ]
            for row in found["pruning"]
        ]
        parts.append(markdown(["critic's mean", "tokens a prompt", "accuracy", "less unpruned"], rows))
    if found["guidance"]:
        rows = [
            [
                f"{row['temperature']:g}",
                f"β = {row['beta']:g}, {row['score']}" if row["beta"] else "none",
                percent(row["accuracy"]),
            ]
            for row in found["guidance"]
        ]
        parts.append(markdown(["temperature", "guidance", "accuracy"], rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--critic", required=True, help="distributional")
    parser.add_argument("--scalar_critic", required=True)
    parser.add_argument("--quantile_critic", help="another distributional one: quantile only, in the demo")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domains", nargs="+", default=["single_digits"], choices=list(arithmetic.DOMAINS))
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--prompt_seed", type=int, default=11)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--no_pruning", dest="prune", action="store_false")
    parser.add_argument("--no_guidance", dest="guide", action="store_false")
    parser.add_argument("--use_cache", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the critics")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    results = []
    for domain in options.domains:
        results.append(measure(options, domain))
        print(tables(results[-1], options.n), f"\n\n{results[-1]['seconds']:.0f} s\n", flush=True)
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            json.dumps({"settings": settings, "domains": results}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
