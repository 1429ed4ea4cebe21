"""From nothing to a critic one can load: `make demo`, a quarter of an hour on two cores, no network.

A small policy learns to work out arithmetic from somebody careless; its own completions, scored by a verifier, are the
reward set. Critics are fine-tuned on it from the policy's weights: the distribution that the rewards ask for, the
paper's quantiles with all of DVPO's terms, and a scalar. They are held against what really happens in 64
continuations from each of 200 states, and judge 16 completions of each held-out prompt. One is saved, loaded again,
and fine-tuned on a second reward. Then the policy itself goes on: DVPO, with the critic that knows it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import torch
from comparison import against_truth, constant_critic, predict, table
from figure import Fan, plot_fans
from policy import train_policy
from rollouts import Rollout, every_state, held_out_states, monte_carlo_truth, read_rollouts, returns_of
from safetensors.torch import save_file
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.evaluation.document import best_of_n_table
from modeling_dvpo.training.tasks import arithmetic

ROOT = Path(__file__).parents[2]
SCRIPTS, RECIPES = ROOT / "training", ROOT / "training" / "recipes"
DOMAIN, TASK = "single_digits", arithmetic.__name__
TRAINING_ROWS, HELD_OUT_PROMPTS, EACH = 60000, 200, 16
# of them the second reward set is made
SECOND_ROWS = 12000
CRITICS = {
    "auto": [],
    "composite": ["--value_head_type", "linear", "--heads_learning_rate", "5e-3"],
    "scalar": ["--num_quantiles", "1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, seed, started = options.output_dir, options.seed, time.perf_counter()
    transformers_logging.disable_progress_bar()

    say("1. A policy, and its own completions, scored: dvpo sample")
    policy, tokenizer = train_policy(out / "policy", seed, domain=DOMAIN, num_steps=800, hidden_size=96, num_layers=6)
    for side in ("train", "eval"):
        sample(out, seed, side)
    held_out = read_rollouts(reward_set(out, "eval"))
    right = sum(reward for _, reward in held_out) / len(held_out)
    print(f"{TRAINING_ROWS} completions to train on, {len(held_out)} held out, {right:.1%} of these right")
    first = held_out[0][0]
    print(f"the first: {first.prompt}{first.completion}")

    say("2. The truth: 64 continuations from each of 200 held-out states")
    states = held_out_states([rollout for rollout, _ in held_out], 200, seed=seed)
    finished = monte_carlo_truth(policy, tokenizer, states, 64, seed=seed)

    say("3. Critics from the policy's weights; one on a second reward; policies that go on")
    run_all(out, seed)

    say("4. Saved, and loaded in a fresh process with and without the package")
    check_reload(out / "critics" / "auto" / "last", states)

    say("Result")
    print("Critics against Monte-Carlo truth (200 states x 64 continuations)\n")
    truth = compare(out, returns_of(finished, arithmetic.exact_reward), states)
    print(table(truth, "critic"), "\n")
    print(
        f"As judges of {EACH} completions of each of {HELD_OUT_PROMPTS} held-out prompts: accuracy of the one chosen\n"
    )
    print(judgements(out), "\n")
    print("The second reward, explained variance on held-out completions by optimizer step\n")
    print(by_step(out, "second", ("anew", "continued"), "start", "eval_explained_variance"), "\n")
    print("Accuracy of the policy on held-out prompts by step of 128 completions\n")
    print(by_step(out, "policies", ("dvpo", "grpo"), "algorithm", "eval/prompts-eval/exact_reward"))
    picture = draw(out, policy, tokenizer, held_out, seed)
    (out / "report.json").write_text(json.dumps({"monte_carlo": truth}, indent=1), encoding="utf-8")
    print(f"\nFigure: {picture}\nNumbers: {out / 'report.json'}, {out / 'evaluation'}")
    print(f"{time.perf_counter() - started:.0f} s in all\n")
    print("from modeling_dvpo import AutoModelForDistributionalValue")
    print(f'critic = AutoModelForDistributionalValue.from_pretrained("{out / "critics" / "auto" / "last"}")')
    print("quantiles = critic(input_ids).quantiles  # (batch, tokens, 3 heads, 200 quantiles), in the reward's units")


def say(heading: str) -> None:
    print(f"\n== {heading}", flush=True)


def reward_set(out: Path, side: str) -> Path:
    return out / "samples" / side / "reward_set.jsonl"


def sample(out: Path, seed: int, side: str) -> None:
    """Prompts of one side, and the policy's completions of them: `sample.py`, a rank a core."""
    held_out = side == "eval"
    if held_out:
        problems = arithmetic.distinct_problems(HELD_OUT_PROMPTS, seed=seed, domain=DOMAIN, held_out=True)
    else:
        problems = islice(arithmetic.generate_problems(seed=seed + 1, domain=DOMAIN), TRAINING_ROWS)
    lines = [json.dumps({"prompt": problem.prompt}) + "\n" for problem in problems]
    (out / f"prompts-{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    run_script(out, seed, ("sample", side), [
        "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={min(os.cpu_count() or 1, 8)}",
        SCRIPTS / "sample.py", "--model_name_or_path", out / "policy", "--dataset", out / f"prompts-{side}.jsonl",
        "--num_generations", EACH if held_out else 1, "--max_completion_length", 48, "--generation_batch_size", 512,
        "--reward_funcs", f"{TASK}:exact_reward", "--output_dir", out / "samples" / side,
    ])  # fmt: skip


def run_all(out: Path, seed: int) -> None:
    """Critics, evaluation and policies, as many at a time as there are cores; what waits for a critic comes last."""
    train, held_out, policy = reward_set(out, "train"), reward_set(out, "eval"), out / "policy"
    second = out / "samples" / "second.jsonl"
    with train.open(encoding="utf-8") as file:
        second.write_text("".join(islice(file, SECOND_ROWS)), encoding="utf-8")
    critic = [SCRIPTS / "train_critic.py", RECIPES / "demo.yaml", "--eval_dataset", held_out]
    exact = ["--dataset", train, "--reward_source", f"{TASK}:exact_reward"]
    process = ["--dataset", second, "--reward_funcs", f"{TASK}:process_reward", "--num_train_epochs", 1]
    process += ["--eval_steps", 47, "--value_head_type", "auto"]
    policies = [SCRIPTS / "train_dvpo.py", RECIPES / "arithmetic.yaml", "--model_name_or_path", policy]
    policies += ["--dataset", out / "prompts-train.jsonl", "--eval_dataset", out / "prompts-eval.jsonl"]
    policies += ["--max_steps", 40]
    jobs = {
        ("critics", name): [*critic, *exact, "--model_name_or_path", policy, *flags] for name, flags in CRITICS.items()
    }
    jobs[("policies", "grpo")] = [
        *policies, "--algorithm", "grpo", "--prompts_per_step", 16, "--num_generations", 8
    ]  # fmt: skip
    jobs[("second", "anew")] = [*critic, *process, "--model_name_or_path", policy]
    auto = out / "critics" / "auto" / "last"
    later = {
        ("policies", "dvpo"): [*policies, "--algorithm", "dvpo", "--critic", auto],
        ("second", "continued"): [*critic, *process, "--model_name_or_path", auto, "--fresh_heads"],
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # models this small gain more from a core each than from threads

        def start(some) -> dict[tuple[str, str], Future]:
            return {
                name: pool.submit(run_script, out, seed, name, [*command, "--output_dir", out / Path(*name)])
                for name, command in some.items()
            }

        running = start(jobs)
        running[("critics", "auto")].result()
        running |= start(later)
        for job in tqdm(as_completed(running.values()), total=len(running), desc="runs", unit="run"):
            job.result()
    judge(out, seed)


def judge(out: Path, seed: int) -> None:
    """`evaluate_critic.py`: the first critic beside the scalar one, the policy's likelihood and majority vote."""
    run_script(out, seed, ("evaluation",), [
        SCRIPTS / "evaluate_critic.py", "--critic", out / "critics" / "auto" / "last", "--scalar_critic",
        out / "critics" / "scalar" / "last", "--dataset", f"held-out={reward_set(out, 'eval')}", "--answer_func",
        f"{TASK}:stated_answer", "--output_dir", out / "evaluation",
    ])  # fmt: skip


def run_script(out: Path, seed: int, name: tuple[str, ...], arguments: list) -> None:
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


def compare(out: Path, returns, states) -> dict[str, dict[str, float]]:
    """Each critic against the truth, beside a constant."""
    critics = {name: load(out / "critics" / name / "last") for name in CRITICS}
    rewards = [json.loads(line)["reward"] for line in reward_set(out, "train").open(encoding="utf-8")]
    constant = constant_critic(torch.tensor(rewards), len(states), critics["auto"].config.num_quantiles)
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


def judgements(out: Path) -> str:
    """Accuracy by number of completions, and pairs in order, from evaluation.json."""
    [found] = [
        one["best_of_n"] for one in json.loads((out / "evaluation" / "evaluation.json").read_text("utf-8"))["sets"]
    ]
    return best_of_n_table(found)


def by_step(out: Path, folder: str, names: tuple[str, ...], first: str, metric: str) -> str:
    """A metric of runs by step, as a Markdown table."""
    lines = {name: (out / folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for name in names}
    found = {
        name: [(line["step"], line[metric]) for line in map(json.loads, some) if metric in line]
        for name, some in lines.items()
    }
    steps = [step for step, _ in found[names[0]]]
    rows = [f"| {first:<9} | " + " | ".join(f"{step:>6}" for step in steps) + " |"]
    rows.append("|-----------|" + "|".join("-------:" for _ in steps) + "|")
    rows += [
        f"| {name:<9} | " + " | ".join(f"{value:6.3f}" for _, value in some) + " |" for name, some in found.items()
    ]
    return "\n".join(rows)


def draw(out: Path, policy, tokenizer, held_out: list[tuple[Rollout, float]], seed: int) -> Path:
    """The critic's fan along a right response and two wrong ones of one prompt, beside the truth."""
    critic = load(out / "critics" / "auto" / "last")
    chosen = sibling_responses(held_out)
    fans = []
    for kind, rollout in chosen:
        states = every_state(rollout)
        returns = returns_of(monte_carlo_truth(policy, tokenizer, states, 64, seed=seed), arithmetic.exact_reward)
        tokens = [*tokenizer.convert_ids_to_tokens(list(rollout.completion_ids)), tokenizer.eos_token][: len(states)]
        quantiles = predict(critic, states).mean(1).sort(-1).values.numpy()
        fans.append(Fan(f"{rollout.prompt}   ({kind})", tokens, quantiles, returns))
    return plot_fans(fans, out / "fans.png", ylabel="reward")


def sibling_responses(held_out: list[tuple[Rollout, float]]) -> list[tuple[str, Rollout]]:
    """A right response and two different wrong ones of the first prompt of three steps or more that has them."""
    by_prompt: dict[str, list[tuple[Rollout, float]]] = {}
    for rollout, reward in held_out:
        by_prompt.setdefault(rollout.prompt, []).append((rollout, reward))
    for some in by_prompt.values():
        right = [rollout for rollout, reward in some if reward == 1]
        wrong = list({rollout.completion: rollout for rollout, reward in some if reward == 0}.values())
        if right and len(wrong) > 1 and right[0].completion.count(";") >= 3:
            return [("right", right[0]), ("wrong", wrong[0]), ("wrong", wrong[1])]
    raise RuntimeError("No held-out prompt has a right response and two wrong ones.")


if __name__ == "__main__":
    main()
