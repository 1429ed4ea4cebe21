"""From nothing to a critic one can load: `make demo`, minutes on two cores, no network.

A small policy learns to work out arithmetic from somebody careless; its own completions, scored by a verifier, are the
reward set. Critics are fine-tuned on it from the policy's weights (scalar, quantile-only, and with all of DVPO's
terms), held against what really happens in 64 continuations from each of 200 states, saved, loaded again, and
fine-tuned on a second reward set. Then the policy itself goes on: DVPO, with the critic that knows it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import torch
from comparison import against_truth, constant_critic, predict, table
from figure import Fan, plot_fans
from policy import train_policy
from rollouts import (
    every_state,
    held_out_states,
    monte_carlo_truth,
    returns_of,
    reward_rows,
    sample_completions,
    write_reward_set,
)
from safetensors.torch import save_file
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.tasks import arithmetic

ROOT = Path(__file__).parents[2]
CRITIC_SCRIPT, CRITIC_RECIPE = ROOT / "training" / "train_critic.py", ROOT / "training" / "recipes" / "demo.yaml"
POLICY_SCRIPT, POLICY_RECIPE = ROOT / "training" / "train_dvpo.py", ROOT / "training" / "recipes" / "arithmetic.yaml"
DOMAIN = "single_digits"
REWARDS = {"exact": arithmetic.exact_reward, "graded": arithmetic.graded_reward}
SECOND_REWARDS = {"process": arithmetic.process_reward}
TERMS_BESIDE_QUANTILE = ("risk", "cvar", "gain", "shift", "shape", "curvature", "consistency")
CRITICS = {
    "scalar": ["--num_quantiles", "1"],
    "quantile only": ["--critic_loss", json.dumps(dict.fromkeys(TERMS_BESIDE_QUANTILE, 0.0))],
    "composite": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, seed, started = options.output_dir, options.seed, time.perf_counter()
    transformers_logging.disable_progress_bar()

    say("1. A policy, and its own completions")
    policy, tokenizer = train_policy(out / "policy", seed, domain=DOMAIN, num_steps=600)
    train_rollouts = rollouts(policy, tokenizer, 12000, seed, held_out=False)
    eval_rollouts = rollouts(policy, tokenizer, 800, seed, held_out=True)
    for name, reward in {**REWARDS, **SECOND_REWARDS}.items():
        write_reward_set(reward_set(out, name, "train"), reward_rows(train_rollouts, reward))
        write_reward_set(reward_set(out, name, "eval"), reward_rows(eval_rollouts, reward))
    right = sum(arithmetic.exact_reward(*columns(eval_rollouts))) / len(eval_rollouts)
    print(f"{len(train_rollouts)} completions to train on, {len(eval_rollouts)} held out, {right:.1%} of these right")
    print(f"the first: {eval_rollouts[0].prompt}{eval_rollouts[0].completion}")

    say("2. The truth: 64 continuations from each of 200 held-out states")
    states = held_out_states(eval_rollouts, 200, seed=seed)
    finished = monte_carlo_truth(policy, tokenizer, states, 64, seed=seed)

    say("3. Critics, fine-tuned from the policy's weights")
    fine_tune(
        out, seed, [(reward, name, out / "policy", flags) for reward in REWARDS for name, flags in CRITICS.items()]
    )
    truth = {name: compare(out, name, returns_of(finished, reward), states) for name, reward in REWARDS.items()}

    say("4. Saved, and loaded in a fresh process with and without the package")
    check_reload(out / "exact" / "composite" / "last", states)

    say("5. A second reward set: the critic goes on, or starts anew")
    starts = {"anew": out / "policy", "continued": out / "exact" / "composite" / "last"}
    fine_tune(out, seed, [("process", name, start, []) for name, start in starts.items()])

    say("6. The policy goes on: DVPO with that critic, and GRPO, which needs none")
    train_policies(out, seed)

    say("Result")
    held_out = {name: held_out_reports(out, name) for name in REWARDS}
    for name in REWARDS:
        print(f"Reward '{name}' against Monte-Carlo truth (200 states x 64 continuations)\n")
        print(table(truth[name], "critic"), "\n")
        print(f"Reward '{name}' on the held-out completions (one return a state)\n")
        print(table(held_out[name], "critic"), "\n")
    print("Reward 'process', explained variance on the held-out completions by optimizer step\n")
    print(transfer_table(out))
    print("\nAccuracy of the policy on held-out prompts by step of 128 completions\n")
    print(policy_table(out))
    picture = draw(out, policy, tokenizer, eval_rollouts, seed)
    (out / "report.json").write_text(
        json.dumps({"monte_carlo": truth, "held_out": held_out}, indent=1), encoding="utf-8"
    )
    print(f"\nFigure: {picture}\nNumbers: {out / 'report.json'}\n{time.perf_counter() - started:.0f} s in all\n")
    print("from modeling_dvpo import AutoModelForDistributionalValue")
    print(f'critic = AutoModelForDistributionalValue.from_pretrained("{out / "exact" / "composite" / "last"}")')
    print("quantiles = critic(input_ids).quantiles  # (batch, tokens, 3 heads, 200 quantiles), in the reward's units")


def say(heading: str) -> None:
    print(f"\n== {heading}", flush=True)


def columns(some_rollouts):
    return [r.prompt for r in some_rollouts], [r.completion for r in some_rollouts]


def reward_set(out: Path, reward: str, side: str) -> Path:
    return out / "reward_sets" / f"{reward}-{side}.jsonl"


def rollouts(policy, tokenizer, number: int, seed: int, *, held_out: bool):
    problems = arithmetic.generate_problems(seed=seed + 1, domain=DOMAIN, held_out=held_out)
    prompts = [problem.prompt for problem in islice(problems, number)]
    return sample_completions(policy, tokenizer, prompts, seed=seed + held_out)


def fine_tune(out: Path, seed: int, runs) -> None:
    """Run `train_critic.py` for each (reward, name, start, flags)."""
    jobs = {
        (reward, name): [
            CRITIC_SCRIPT, CRITIC_RECIPE, "--model_name_or_path", start, "--dataset", reward_set(out, reward, "train"),
            "--eval_dataset", reward_set(out, reward, "eval"), "--output_dir", out / reward / name,
            "--reward_source", f"{arithmetic.__name__}:{reward}_reward", *flags,
        ]
        for reward, name, start, flags in runs
    }  # fmt: skip
    for reward, name in run_scripts(out, seed, jobs, "critics"):
        tqdm.write(f"{reward}/{name}: explained variance {evaluations(out / reward / name)[-1][1]:.3f} held out")


def train_policies(out: Path, seed: int) -> None:
    """Run `train_dvpo.py` from the same policy with two algorithms."""
    for side, count in (("train", 4000), ("eval", 400)):
        problems = arithmetic.distinct_problems(count, seed=seed, domain=DOMAIN, held_out=side == "eval")
        lines = [json.dumps({"prompt": problem.prompt}) + "\n" for problem in problems]
        (out / f"prompts-{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    starts = {
        "dvpo": ["--critic", out / "exact" / "composite" / "last"],
        "grpo": ["--prompts_per_step", "16", "--num_generations", "8"],
    }
    jobs = {
        ("policies", name): [
            POLICY_SCRIPT, POLICY_RECIPE, "--algorithm", name, "--model_name_or_path", out / "policy",
            "--dataset", out / "prompts-train.jsonl", "--eval_dataset", out / "prompts-eval.jsonl",
            "--output_dir", out / "policies" / name, *start,
        ]
        for name, start in starts.items()
    }  # fmt: skip
    for _, name in run_scripts(out, seed, jobs, "policies"):
        tqdm.write(f"{name}: {accuracies(out / 'policies' / name)[-1][1]:.1%} right")


def run_scripts(out: Path, seed: int, jobs: dict[tuple[str, str], list], unit: str):
    """Run each script as many at a time as there are cores; yields the names as they finish."""
    # models this small gain more from a core each than from threads
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(run_script, out, seed, name, command): name for name, command in jobs.items()}
        for job in tqdm(as_completed(running), total=len(running), desc=unit, unit="run"):
            job.result()
            yield running[job]


def run_script(out: Path, seed: int, name: tuple[str, str], arguments: list) -> None:
    log = out / "logs" / f"{'-'.join(name)}.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, *map(str, arguments), "--overwrite_output_dir", "--seed", str(seed)]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-2000:]}")


def load(directory: Path):
    return AutoModelForDistributionalValue.from_pretrained(directory).eval()


def compare(out: Path, reward: str, returns, states) -> dict[str, dict[str, float]]:
    """Each critic against the truth, beside a constant."""
    critics = {name: load(out / reward / name / "last") for name in CRITICS}
    rewards = [json.loads(line)["reward"] for line in reward_set(out, reward, "train").open(encoding="utf-8")]
    constant = constant_critic(torch.tensor(rewards), len(states), critics["composite"].config.num_quantiles)
    predictions = {"constant": constant, **{name: predict(critic, states) for name, critic in critics.items()}}
    return against_truth(predictions, returns)


RELOAD = """
import sys, torch
if sys.argv[2] == "without":
    sys.modules["modeling_dvpo"] = None  # as if it were not installed
    from transformers import AutoModel
    critic = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
else:
    from modeling_dvpo import AutoModelForDistributionalValue
    critic = AutoModelForDistributionalValue.from_pretrained(sys.argv[1])
from safetensors.torch import load_file
saved = load_file(sys.argv[3])
same = torch.equal(critic(input_ids=saved["input_ids"]).quantiles, saved["quantiles"])
print(f"{sys.argv[2]:>8} the package: quantiles", "equal bit for bit" if same else "DIFFER")
sys.exit(not same)
"""


def check_reload(directory: Path, states) -> None:
    input_ids = torch.tensor([max(states, key=lambda state: len(state.input_ids)).input_ids])
    quantiles = load(directory)(input_ids=input_ids).quantiles.detach()
    expected = directory.parent / "reload.safetensors"
    save_file({"input_ids": input_ids, "quantiles": quantiles.contiguous()}, expected)
    for package in ("with", "without"):
        subprocess.run(
            [sys.executable, "-c", RELOAD, directory, package, expected], check=True, stderr=subprocess.DEVNULL
        )


def evaluations(run: Path) -> list[tuple[int, float, dict[str, float]]]:
    """(step, explained variance, report) of each held-out evaluation of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    reports = [{k.removeprefix("eval_"): v for k, v in line.items() if k.startswith("eval_")} for line in lines]
    return [
        (line["step"], report["explained_variance"], report)
        for line, report in zip(lines, reports, strict=True)
        if report
    ]


def held_out_reports(out: Path, reward: str) -> dict[str, dict[str, float]]:
    return {name: evaluations(out / reward / name)[-1][2] for name in CRITICS}


def transfer_table(out: Path) -> str:
    runs = {name: evaluations(out / "process" / name) for name in ("anew", "continued")}
    lines = ["| start     | " + " | ".join(f"{step:>6}" for step, *_ in runs["anew"]) + " |"]
    lines.append("|-----------|" + "|".join("-------:" for _ in runs["anew"]) + "|")
    for name, evaluated in runs.items():
        lines.append(f"| {name:<9} | " + " | ".join(f"{explained:6.3f}" for _, explained, _ in evaluated) + " |")
    return "\n".join(lines)


def accuracies(run: Path) -> list[tuple[int, float]]:
    """(step, share of right answers) of each evaluation of a policy."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    name = "eval/prompts-eval/exact_reward"
    return [(line["step"], line[name]) for line in lines if name in line]


def policy_table(out: Path) -> str:
    runs = {name: accuracies(out / "policies" / name) for name in ("dvpo", "grpo")}
    lines = ["| algorithm | " + " | ".join(f"{step:>6}" for step, _ in runs["dvpo"]) + " |"]
    lines.append("|-----------|" + "|".join("-------:" for _ in runs["dvpo"]) + "|")
    for name, evaluated in runs.items():
        lines.append(f"| {name:<9} | " + " | ".join(f"{accuracy:6.3f}" for _, accuracy in evaluated) + " |")
    return "\n".join(lines)


def draw(out: Path, policy, tokenizer, eval_rollouts, seed: int) -> Path:
    """The composite critic's fan along the first right, half-right and wrong response, beside the truth."""
    critic = load(out / "graded" / "composite" / "last")
    scores = arithmetic.graded_reward(*columns(eval_rollouts))
    scored = [pair for pair in zip(eval_rollouts, scores, strict=True) if pair[0].completion.count(";") >= 3]
    chosen = {
        "right": next(rollout for rollout, score in scored if score == 1),
        "half right": next(rollout for rollout, score in scored if 0.3 < score < 0.8),
        "wrong": next(rollout for rollout, score in scored if score == 0),
    }
    fans = []
    for kind, rollout in chosen.items():
        states = every_state(rollout)
        returns = returns_of(monte_carlo_truth(policy, tokenizer, states, 64, seed=seed), arithmetic.graded_reward)
        tokens = [*tokenizer.convert_ids_to_tokens(list(rollout.completion_ids)), tokenizer.eos_token][: len(states)]
        quantiles = predict(critic, states).mean(1).sort(-1).values.numpy()
        fans.append(Fan(f"{rollout.prompt}   ({kind})", tokens, quantiles, returns))
    return plot_fans(fans, out / "fans.png", ylabel="graded reward")


if __name__ == "__main__":
    main()
