"""Held-out evaluation during training: every action token's prediction against the return that followed."""

import math

import torch

from modeling_dvpo.metrics.report import CriticReport

from ..data.packing import RewardBatchSampler
from ..engine.distributed import sum_over_ranks
from .critic_loss import critic_quantiles
from .targets import monte_carlo_targets

# Metrics of `CriticReport` that can choose the best weights, and whether more of them is better.
BEST_METRICS = {"explained_variance": True, "crps": False, "pinball": False, "mae": False}


@torch.no_grad()
def evaluate(critic, rows, returns, collate, gamma: float, layout: dict, device) -> dict[str, float]:
    """`CriticReport` over all action tokens of `rows`; every rank must call it, every rank gets the result.

    Args:
        returns: Monte-Carlo returns of all action tokens of `rows`.
        collate: a `RewardCollator`.
        layout: `max_tokens`, `packing`, `rank`, `world_size`.
    """
    training = critic.training
    critic.eval()
    report = CriticReport(returns)
    sampler = RewardBatchSampler(rows["length"], rows_per_step=len(rows), shuffle=False, **layout)
    for micro in next(sampler.steps()):
        batch = collate([rows[i] for i in micro.rows], filler=micro.filler)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        mask = batch["completion_mask"]
        report.add(critic_quantiles(critic, batch)[mask], monte_carlo_targets(batch, gamma)[mask])
    report.reduce(sum_over_ranks)
    critic.train(training)
    return report.compute()


def is_better(report: dict[str, float], best: dict[str, float] | None, metric: str) -> bool:
    """Whether `report` beats `best` by this metric; anything beats nothing, or a metric that was undefined."""
    if best is None or math.isnan(best[metric]):
        return True
    return report[metric] > best[metric] if BEST_METRICS[metric] else report[metric] < best[metric]
