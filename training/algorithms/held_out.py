"""Held-out evaluation during training: every action token's prediction against the return that followed."""

import math

import torch

from modeling_dvpo.metrics.prompt_report import PROMPT_MEANINGS, PromptReport
from modeling_dvpo.metrics.ranking import group_numbers
from modeling_dvpo.metrics.report import CriticReport

from ..data.packing import RewardBatchSampler
from ..engine.distributed import sum_over_ranks
from .critic_loss import critic_quantiles
from .targets import monte_carlo_targets

# Metrics that can choose the best weights, and whether more of them is better.
BEST_METRICS = {
    "explained_variance_within": True,
    "ranking_accuracy": True,
    "explained_variance": True,
    "crps": False,
    "pinball": False,
    "mae": False,
}
# what is logged beside a `CriticReport` where a set has several completions of a prompt, in words
OF_PROMPTS = PROMPT_MEANINGS | {
    "ranking_accuracy_low": "lower end of what holds 95 % of its bootstrap samples of prompts",
    "ranking_accuracy_high": "upper end",
}
# what chooses in place of a metric of several completions of a prompt, where the set has none
FALLBACK = "explained_variance"


@torch.no_grad()
def evaluate(critic, rows, returns, collate, gamma: float, layout: dict, device) -> dict[str, float]:
    """`CriticReport` over all action tokens of `rows`; every rank must call it, every rank gets the result.

    Where the set has several completions of a prompt with unequal returns, also `PromptReport`.

    Args:
        rows: a tokenised reward set.
        returns: Monte-Carlo returns of all action tokens of `rows`.
        collate: a `RewardCollator`.
        layout: `max_tokens`, `packing`, `rank`, `world_size`.
    """
    training = critic.training
    critic.eval()
    report = CriticReport(returns)
    prompts = group_numbers(rows["prompt_id"])
    of_prompts = None
    if len(prompts.unique()) < len(prompts):
        of_prompts = PromptReport(prompts, centre=report.centre, scale=critic.config.return_scale)
    sampler = RewardBatchSampler(rows["length"], rows_per_step=len(rows), shuffle=False, **layout)
    for micro in next(sampler.steps()):
        chosen = [rows[i] for i in micro.rows]
        batch = collate(chosen, filler=micro.filler)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        mask = batch["completion_mask"]
        quantiles, followed = critic_quantiles(critic, batch)[mask], monte_carlo_targets(batch, gamma)[mask]
        report.add(quantiles, followed)
        if of_prompts and not micro.filler:
            states = torch.tensor([int(sum(row["completion_mask"])) for row in chosen])
            of_prompts.add(torch.tensor(micro.rows), states, quantiles.double().mean((-2, -1)), followed)
    report.reduce(sum_over_ranks)
    found = report.compute()
    if of_prompts:
        of_prompts.reduce(sum_over_ranks)
        if ordered := of_prompts.compute():
            low, high = of_prompts.intervals()["ranking_accuracy"]
            found |= ordered | {"ranking_accuracy_low": low, "ranking_accuracy_high": high}
    critic.train(training)
    return found


def is_better(report: dict[str, float], best: dict[str, float] | None, metric: str) -> bool:
    """Whether `report` beats `best` by this metric, or by `FALLBACK` where the set has no such metric; anything beats
    nothing, or a metric that was undefined."""
    metric = metric if metric in report else FALLBACK
    if best is None or math.isnan(best[metric]):
        return True
    return report[metric] > best[metric] if BEST_METRICS[metric] else report[metric] < best[metric]
