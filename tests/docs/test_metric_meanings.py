"""Every number that a training run logs has a meaning, which is what the pages' tables of metrics are made from."""

import json
import re

import pytest
import torch

from modeling_dvpo.metrics.report import MEANINGS
from modeling_dvpo.training import train_critic, train_dvpo
from modeling_dvpo.training.algorithms.held_out import OF_PROMPTS
from modeling_dvpo.training.run.metric_meanings import CRITIC_METRICS, POLICY_METRICS
from modeling_dvpo.training.tasks import arithmetic, imitation

# of Monte-Carlo continuations, which no training run has
HELD_OUT = MEANINGS.keys() - {"wasserstein_1"}


@pytest.fixture
def inputs(tmp_path):
    torch.manual_seed(0)
    tokenizer = arithmetic.tokenizer()
    policy = imitation.build_policy(tokenizer, hidden_size=16, num_layers=1)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    problems = arithmetic.distinct_problems(4, seed=0, domain="single_digits", held_out=True)
    rows = [
        {"prompt": problem.prompt, "completion": problem.solution, "reward": reward}
        for problem in problems
        for reward in (0, 1)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def logged(script, folder, **settings) -> set[str]:
    """Names of all that one step logs."""
    common = {"model_name_or_path": folder / "policy", "dataset": folder / "rows.jsonl", "max_steps": 1}
    run = folder / settings.get("value_head_type", "run")
    settings |= common | {"num_quantiles": 4, "output_dir": run}
    script.main([f"--{name}={value}" for name, value in settings.items()])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {name for line in lines for name in json.loads(line)} - {"step"}


def test_of_a_critic(inputs):
    kinds = ("linear", "bernoulli")
    found = [logged(train_critic, inputs, eval_dataset=inputs / "rows.jsonl", value_head_type=kind) for kind in kinds]
    assert found[1] - found[0] == {"cross_entropy", "clipped"}
    names = set.union(*found)
    assert names == CRITIC_METRICS.keys() | {f"eval_{name}" for name in (*HELD_OUT, *OF_PROMPTS, "rows", "prompts")}


def test_of_a_policy_and_its_critic(inputs):
    (inputs / "held-out.jsonl").write_text((inputs / "rows.jsonl").read_text())
    names = logged(
        train_dvpo,
        inputs,
        reward_funcs="modeling_dvpo.training.tasks.arithmetic:exact_reward",
        eval_dataset=inputs / "held-out.jsonl",
        prompts_per_step=4,
        max_completion_length=8,
    )
    terms = {"loss", "underestimation", "grad_norm", *list(CRITIC_METRICS)[1:9]}
    kinds = {"<term>": terms, "<metric>": HELD_OUT, "<function>": ["exact_reward"], "<set>": ["held-out"]}

    def fits(name, pattern):
        return re.fullmatch(re.sub("<.*?>", lambda kind: f"({'|'.join(kinds[kind[0]])})", pattern), name)

    assert [name for name in names if not any(fits(name, pattern) for pattern in POLICY_METRICS)] == []
    assert [pattern for pattern in POLICY_METRICS if not any(fits(name, pattern) for name in names)] == []
