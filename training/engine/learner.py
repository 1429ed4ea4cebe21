"""A model in training: gradients over micro-batches and ranks, one clipped optimizer step, its learning rates."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import get_scheduler

from .distributed import (
    backward,
    compute_dtype,
    full_value,
    sum_over_ranks,
)


class Learner:
    """A model with its optimizer and schedule; make it after sharding.

    Args:
        model: whose `requires_grad` says what trains.
        args: `learning_rate`, `heads_learning_rate` (of quantile heads; may be None where there are none),
            `weight_decay`, `lr_scheduler_type`, `warmup_ratio`, `max_grad_norm`, `bf16`.
        total_steps: length of the schedule.
        device: where it runs.
    """

    def __init__(self, model: nn.Module, args, total_steps: int, device: torch.device):
        self.model, self.device = model, device
        self.max_grad_norm, self.bf16 = args.max_grad_norm, args.bf16
        self.optimizer = make_optimizer(model, args)
        warmup = math.ceil(args.warmup_ratio * total_steps)
        self.schedule = get_scheduler(args.lr_scheduler_type, self.optimizer, warmup, total_steps)

    def compute_dtype(self):
        """Context of every forward pass."""
        return compute_dtype(self.device, bf16=self.bf16)

    def update(self, batches: Iterable[dict], loss_of: Callable, *, where: str) -> dict[str, float]:
        """One optimizer step on the summed loss of all micro-batches of all ranks; every rank must call it.

        Args:
            batches: this rank's micro-batches, as many as every other rank's.
            loss_of: micro-batch -> (loss () with gradient, dict of () detached), all of them additive.
            where: begins the error's message.

        Returns:
            `loss` and what `loss_of` gave, summed over micro-batches and ranks, and `grad_norm` before clipping.

        Raises:
            FloatingPointError: loss or gradient is not finite; the model is as it was.
        """
        batches = list(batches)
        sums: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(batches):
            if isinstance(self.model, FSDPModule):  # gradients meet once a step
                self.model.set_requires_gradient_sync(i == len(batches) - 1)
            with self.compute_dtype():
                loss, terms = loss_of(batch)
            backward(loss)
            for name, value in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums.get(name, 0) + value
        totals = sum_over_ranks(torch.stack(list(sums.values()))).tolist()
        metrics = dict(zip(sums, totals, strict=True))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        metrics["grad_norm"] = full_value(norm).item()
        if not all(math.isfinite(metrics[name]) for name in ("loss", "grad_norm")):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"{where}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}. No update was made; what the "
                "run has saved is unharmed. Lower the learning rates, or look for extreme rewards."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics

    def learning_rates(self) -> tuple[float, float]:
        """Of the body and of the heads; equal where the model has none."""
        rates = self.schedule.get_last_lr()  # the heads' come last
        return rates[0], rates[-1]


def make_optimizer(critic: nn.Module, args) -> torch.optim.Optimizer:
    """AdamW with a rate for the body and one for the heads; norms and biases do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in critic.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(("quantile_heads." in name, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": args.heads_learning_rate if heads else args.learning_rate,
                "weight_decay": args.weight_decay if decays else 0.0,
            }
            for (heads, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        betas=(0.9, 0.95),
    )
