"""A model in training: gradients over micro-batches and ranks, one clipped optimizer step, its learning rates."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LambdaLR

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
            `weight_decay`, `lr_scheduler_type`, `warmup_ratio`, `max_grad_norm`, `max_skipped_updates`, `bf16`.
        total_steps: length of the schedule.
        device: where it runs.

    Attributes:
        skipped: how many updates were skipped in `total`, and `in_a_row` since the last that was made; checkpoints
            keep it.
    """

    def __init__(self, model: nn.Module, args, total_steps: int, device: torch.device):
        self.model, self.device = model, device
        self.max_grad_norm, self.bf16 = args.max_grad_norm, args.bf16
        self.max_skipped_updates, self.skipped = args.max_skipped_updates, {"total": 0, "in_a_row": 0}
        self.optimizer = make_optimizer(model, args)
        warmup = math.ceil(args.warmup_ratio * total_steps)
        share = partial(rate_share, name=args.lr_scheduler_type, warmup=warmup, total=total_steps)
        self.schedule = LambdaLR(self.optimizer, lambda steps_done: share(steps_done + 1))

    def compute_dtype(self):
        """Context of every forward pass."""
        return compute_dtype(self.device, bf16=self.bf16)

    def update(self, batches: Iterable[dict], loss_of: Callable, *, where: str) -> dict[str, float]:
        """One optimizer step on the summed loss of all micro-batches of all ranks; every rank must call it.

        Where loss or gradient is not finite, on whichever rank, all ranks skip the update: the model, the optimizer's
        moments and their step count are as they were.

        Args:
            batches: this rank's micro-batches, as many as every other rank's.
            loss_of: micro-batch -> (loss () with gradient, dict of () detached), all of them additive.
            where: begins the error's message.

        Returns:
            `loss` and what `loss_of` gave, summed over micro-batches and ranks, `grad_norm` before clipping, and
            `skipped_updates`, in total so far.

        Raises:
            FloatingPointError: more than `max_skipped_updates` in a row were skipped; the model is as it was.
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
        finite = all(math.isfinite(metrics[name]) for name in ("loss", "grad_norm"))
        if finite:
            self.optimizer.step()
            self.skipped["in_a_row"] = 0
        else:
            self.skipped = {name: count + 1 for name, count in self.skipped.items()}
        self.optimizer.zero_grad()
        metrics["skipped_updates"] = self.skipped["total"]
        if self.skipped["in_a_row"] > self.max_skipped_updates:
            raise FloatingPointError(
                f"{where}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}. No update was made"
                f"{self._nor_in_those_before()}; what the run has saved is unharmed. Lower the learning rates, or "
                "look for extreme rewards."
            )
        return metrics

    @property
    def was_updated(self) -> bool:
        """Whether the last update was made, and its metrics mean something; True before the first."""
        return not self.skipped["in_a_row"]

    def _nor_in_those_before(self) -> str:
        earlier = self.skipped["in_a_row"] - 1
        return f", nor in the {earlier} before (max_skipped_updates {self.max_skipped_updates})" if earlier else ""

    def learning_rates(self) -> tuple[float, float]:
        """Of the body and of the heads; equal where the model has none."""
        rates = self.schedule.get_last_lr()  # the heads' come last
        return rates[0], rates[-1]


def rate_share(step: int, *, name: str, warmup: int, total: int) -> float:
    """Share of the peak rate in step 1, 2, ..., total.

    step / warmup up to the peak in step `warmup` (in step 1 without a warm-up), so that the first step learns, too.
    From there the rate stays ("constant_with_warmup"), or falls to where it would be 0 in step total + 1: along a line
    ("linear"), or along half a cosine ("cosine").
    """
    if step < warmup:
        return step / warmup
    left = max(0.0, (total + 1 - step) / (total + 1 - max(warmup, 1)))
    return {"constant_with_warmup": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[name]


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
