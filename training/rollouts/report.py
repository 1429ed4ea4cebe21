"""What people look at: means over a step's samples, clean rewards on held-out sets, and samples to read."""

from collections.abc import Callable, Sequence

import torch

from modeling_dvpo.ranks import rank, world_size

from ..data.prompts import Prompt, Prompts
from ..engine.distributed import gather_lists, share_of
from ..rewards.logs import add_logged
from .rollouts import Rollout
from .samples import Sample, Scorer


def sample_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over samples; of a reward function over those it applies to, NaN where there are none."""
    rewards = torch.tensor([sample.reward for sample in samples])
    metrics = {"reward": rewards.mean().item(), "reward_std": rewards.std(correction=0).item()}
    for name in samples[0].rewards:
        values = [reward for sample in samples if (reward := sample.rewards[name]) is not None]
        metrics[f"reward/{name}"] = sum(values) / len(values) if values else float("nan")
    for name, of in (
        ("completion_length", lambda sample: sample.num_actions),
        ("truncated", lambda sample: sample.truncated),
        ("turns", lambda sample: sample.num_turns),
    ):
        metrics[name] = sum(map(of, samples)) / len(samples)
    return metrics


def evaluate_policy(
    sets: dict[str, Prompts],
    answer: Callable[[list[Prompt]], list[Rollout]],
    score: Scorer,
    *,
    num_generations: int,
    num_shown: int,
) -> tuple[dict[str, float], list[dict]]:
    """Roll the policy out on held-out prompts, shared among the ranks, and score that without noise.

    Args:
        sets: prompts by name.
        answer: prompts -> rollouts.
        score: the run's.
        num_generations: completions of each prompt.
        num_shown: samples of each set to show.

    Returns:
        `eval/<set>/<function>`, `/completion_length`, `/truncated` and `/prompts`, how many these are means over,
        `eval/<set>/<name>` of what functions logged; and the rows of `sample_table`.
    """
    metrics: dict[str, float] = {}
    shown: list[dict] = []
    for name, prompts in sets.items():
        own = [place for place in share_of(prompts, rank(), world_size()) for _ in range(num_generations)]
        samples = gather_lists(score(answer([prompts[place] for place in own]), own, own, noise=False))
        metrics |= {
            f"eval/{name}/{metric.removeprefix('reward/')}": value
            for metric, value in sample_metrics(samples).items()
            if metric.startswith("reward/") or metric in ("completion_length", "truncated")
        }
        metrics[f"eval/{name}/prompts"] = len(prompts)
        logged = {f"eval/{name}/{metric}": value for metric, value in score.take_metrics().items()}
        metrics = add_logged(metrics, logged)
        shown += sample_table(samples[:num_shown], name)
    return metrics, shown


def sample_table(samples: Sequence[Sample], dataset: str) -> list[dict]:
    """One row a sample: where from, prompt, completion, the reward that counts, each function's, and logged columns.

    None where a function logged of other samples, and not of this one.
    """
    extra = sorted({name for sample in samples for name in sample.extra})
    return [
        {"dataset": dataset, "prompt": sample.prompt, "completion": sample.completion, "reward": sample.reward}
        | {f"reward/{name}": value for name, value in sample.rewards.items()}
        | {name: sample.extra.get(name) for name in extra}
        for sample in samples
    ]
