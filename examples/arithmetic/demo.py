"""From nothing to a critic one can load: `make demo`, minutes on two cores, no network.

A small policy learns to work out arithmetic from somebody careless; its own completions, scored by a verifier, are the
reward set. Critics are fine-tuned on it from the policy's weights (scalar, quantile-only, and with all of DVPO's
terms), held against what really happens in 64 continuations from each of 200 states, saved, loaded again, and
fine-tuned on a second reward set.
"""

import argparse
import json
import subprocess
import sys
import time
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

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training import train_critic
from modeling_dvpo.training.tasks import arithmetic

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "training" / "recipes" / "demo.yaml"
REWARDS = {"exact": arithmetic.exact_reward, "graded": arithmetic.graded_reward}
SECOND_REWARD = ("process", arithmetic.process_reward)
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

    say("1. A policy, and its own completions")
    policy, tokenizer = train_policy(out / "policy", seed)
    train_rollouts = rollouts(policy, tokenizer, 3000, seed, held_out=False)
    eval_rollouts = rollouts(policy, tokenizer, 600, seed, held_out=True)
    right = sum(arithmetic.exact_reward(*columns(eval_rollouts))) / len(eval_rollouts)
    print(f"{len(train_rollouts)} completions to train on, {len(eval_rollouts)} held out, {right:.1%} of these right")

    say("2. The truth: 64 continuations from each of 200 held-out states")
    states = held_out_states(eval_rollouts, 200, seed=seed)
    finished = monte_carlo_truth(policy, tokenizer, states, 64, seed=seed)

    say("3. Critics, fine-tuned from the policy's weights")
    report = {}
    for reward_name, reward in REWARDS.items():
        for name, flags in CRITICS.items():
            fine_tune(out, f"{reward_name}/{name}", out / "policy", (reward_name, reward), train_rollouts,
                      eval_rollouts, seed, flags)  # fmt: skip
        report[reward_name] = compare(out, reward_name, returns_of(finished, reward), states, eval_rollouts)

    say("4. Saved, and loaded in a fresh process with and without the package")
    check_reload(out / "exact" / "composite" / "last", states)

    say("5. A second reward set: the critic goes on, or starts anew")
    for name, start in (("anew", out / "policy"), ("continued", out / "exact" / "composite" / "last")):
        fine_tune(out, f"process/{name}", start, SECOND_REWARD, train_rollouts, eval_rollouts, seed, [])

    say("Result")
    for reward_name, by_truth in report.items():
        print(f"Reward '{reward_name}' against Monte-Carlo truth (200 states x 64 continuations)\n")
        print(table(by_truth, "critic"), "\n")
        held_out = {name: last_evaluation(out / reward_name / name)[1] for name in CRITICS}
        print(f"Reward '{reward_name}' on the held-out completions (one return a state)\n")
        print(table(held_out, "critic"), "\n")
    print("Reward 'process', explained variance on held-out completions by optimizer step\n")
    print(transfer_table(out))
    picture = draw(out, policy, tokenizer, eval_rollouts, seed)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(f"\nFigure: {picture}   Numbers: {out / 'report.json'}   {time.perf_counter() - started:.0f} s in all\n")
    print("from modeling_dvpo import AutoModelForDistributionalValue")
    print(f'critic = AutoModelForDistributionalValue.from_pretrained("{out / "exact" / "composite" / "last"}")')
    print("quantiles = critic(input_ids).quantiles  # (batch, tokens, 3 heads, 200 quantiles), in the reward's units")


def say(heading: str) -> None:
    print(f"\n== {heading}", flush=True)


def columns(some_rollouts):
    return [r.prompt for r in some_rollouts], [r.completion for r in some_rollouts]


def rollouts(policy, tokenizer, number: int, seed: int, *, held_out: bool):
    problems = arithmetic.generate_problems(seed=seed + 1, held_out=held_out)
    prompts = [problem.prompt for problem in islice(problems, number)]
    return sample_completions(policy, tokenizer, prompts, seed=seed + held_out)


def fine_tune(out: Path, name: str, start: Path, reward, train_rollouts, eval_rollouts, seed: int, flags) -> None:
    """`train_critic.py` on the completions scored by this reward."""
    reward_name, function = reward
    sets = {side: out / "reward_sets" / f"{reward_name}-{side}.jsonl" for side in ("train", "eval")}
    for path, some_rollouts in zip(sets.values(), (train_rollouts, eval_rollouts), strict=True):
        write_reward_set(path, reward_rows(some_rollouts, function))
    print(f"\n{name}", flush=True)
    train_critic.main([
        str(RECIPE), "--model_name_or_path", str(start), "--dataset", str(sets["train"]),
        "--eval_dataset", str(sets["eval"]), "--output_dir", str(out / name), "--overwrite_output_dir",
        "--seed", str(seed), *flags,
    ])  # fmt: skip


def load(directory: Path):
    return AutoModelForDistributionalValue.from_pretrained(directory).eval()


def compare(out: Path, reward_name: str, returns, states, eval_rollouts) -> dict[str, dict[str, float]]:
    """Each critic against the truth, beside a constant."""
    critics = {name: load(out / reward_name / name / "last") for name in CRITICS}
    rewards = [json.loads(line)["reward"] for line in open(out / "reward_sets" / f"{reward_name}-train.jsonl")]
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
    from safetensors.torch import save_file

    input_ids = torch.tensor([max(states, key=lambda state: len(state.input_ids)).input_ids])
    quantiles = load(directory)(input_ids=input_ids).quantiles.detach()
    expected = directory.parent / "reload.safetensors"
    save_file({"input_ids": input_ids, "quantiles": quantiles.contiguous()}, expected)
    for package in ("with", "without"):
        subprocess.run([sys.executable, "-c", RELOAD, directory, package, expected], check=True)


def evaluations(run: Path) -> list[tuple[int, dict[str, float]]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        (line["step"], {key.removeprefix("eval_"): value for key, value in line.items() if key.startswith("eval_")})
        for line in lines
        if "eval_crps" in line
    ]


def last_evaluation(run: Path) -> tuple[int, dict[str, float]]:
    return evaluations(run)[-1]


def transfer_table(out: Path) -> str:
    runs = {name: evaluations(out / "process" / name) for name in ("anew", "continued")}
    steps = [step for step, _ in runs["anew"]]
    lines = ["| start     | " + " | ".join(f"{step:>6}" for step in steps) + " |"]
    lines.append("|-----------|" + "|".join("-------:" for _ in steps) + "|")
    for name, reports in runs.items():
        cells = [f"{report['explained_variance']:6.3f}" for _, report in reports]
        lines.append(f"| {name:<9} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(out: Path, policy, tokenizer, eval_rollouts, seed: int) -> Path:
    """The composite critic's fan along a right and a wrong response, with the truth beside it."""
    critic = load(out / "graded" / "composite" / "last")
    scores = arithmetic.graded_reward(*columns(eval_rollouts))
    # the first longest problem of each kind
    scored = [(r, s) for r, s in zip(eval_rollouts, scores, strict=True) if r.completion.count(";") >= 3]
    by_kind = {
        "right": next(rollout for rollout, score in scored if score == 1),
        "partly right": next(rollout for rollout, score in scored if 0 < score < 1),
        "wrong": next(rollout for rollout, score in scored if score == 0),
    }
    fans = []
    for kind, rollout in by_kind.items():
        states = every_state(rollout)
        returns = returns_of(monte_carlo_truth(policy, tokenizer, states, 64, seed=seed), arithmetic.graded_reward)
        tokens = [*tokenizer.convert_ids_to_tokens(list(rollout.completion_ids)), "<eos>"][: len(states)]
        quantiles = predict(critic, states).mean(1).sort(-1).values.numpy()
        fans.append(Fan(f"{rollout.prompt}   ({kind})", tokens, quantiles, returns))
    return plot_fans(fans, out / "fans.png", ylabel="graded reward")


if __name__ == "__main__":
    main()
