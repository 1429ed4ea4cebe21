"""Critics side by side: what each predicts at given states, and how good that is."""

from collections.abc import Sequence

import numpy as np
import torch
from rollouts import State

from modeling_dvpo.metrics.report import critic_report

METRICS = {
    "explained_variance": "expl. var.",
    "crps": "CRPS",
    "wasserstein_1": "W1",
    "coverage_50": "50 %",
    "coverage_80": "80 %",
    "coverage_90": "90 %",
}


@torch.inference_mode()
def predict(critic, states: Sequence[State], *, batch_size: int = 256) -> torch.Tensor:
    """The critic's quantiles at each state, (states, N, M): its output at the last token of the prefix."""
    pieces: dict[int, torch.Tensor] = {}
    order = sorted(range(len(states)), key=lambda i: len(states[i].input_ids))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [torch.tensor(states[i].input_ids) for i in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ends = torch.tensor([len(row) - 1 for row in rows])
        # padding on the right is invisible to causal attention
        quantiles = critic(input_ids=ids, use_cache=False).quantiles[torch.arange(len(rows)), ends]
        pieces.update(zip(batch, quantiles, strict=True))
    return torch.stack([pieces[i] for i in range(len(states))])


def constant_critic(training_returns: torch.Tensor, num_states: int, num_quantiles: int) -> torch.Tensor:
    """What a critic that ignores its input does best: the quantiles of the training returns at every state."""
    levels = (torch.arange(num_quantiles, dtype=torch.float64) + 0.5) / num_quantiles
    quantiles = training_returns.double().quantile(levels, interpolation="lower")
    return quantiles.expand(num_states, 1, num_quantiles)


def against_truth(predictions: dict[str, torch.Tensor], returns: np.ndarray) -> dict[str, dict[str, float]]:
    """`critic_report` of each critic against the Monte-Carlo returns (states, continuations)."""
    return {name: critic_report(quantiles, torch.from_numpy(returns)) for name, quantiles in predictions.items()}


def table(reports: dict[str, dict[str, float]], first: str) -> str:
    """Reports as a Markdown table, one row a critic; a metric that a critic does not have stays empty."""
    shown = [name for name in METRICS if any(name in report for report in reports.values())]
    width = max(len(first), *map(len, reports))
    lines = [
        f"| {first:<{width}} | " + " | ".join(f"{METRICS[name]:>10}" for name in shown) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * 11 + ":" for _ in shown) + "|",
    ]
    for name, report in reports.items():
        cells = [f"{report[metric]:10.3f}" if metric in report else " " * 10 for metric in shown]
        lines.append(f"| {name:<{width}} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
