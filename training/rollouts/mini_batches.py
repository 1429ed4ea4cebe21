"""A step's samples as tensors: mini-batches, the same for every rank, and this rank's micro-batches of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modeling_dvpo.ranks import rank, world_size

from ..data.packing import RewardBatchSampler, RewardCollator
from .samples import TOKEN_COLUMNS, Sample, SampleCollator


@dataclass
class MiniBatch:
    """What one optimizer step learns from: this rank's micro-batches, and how much there is over all ranks.

    A step's micro-batches are made once and gather what is computed on them; its epochs go through the same
    mini-batches, in an order of their own.
    """

    batches: list[dict]
    num_tokens: int
    num_sequences: int


class Layout:
    """Lays out what one step learns from.

    Args:
        packing: packed rows; otherwise padded ones.
        pad_token_id: of the padded layout.
        max_tokens: tokens of one micro-batch on one rank, padding included.
        num_mini_batches: parts of equal size, each for one optimizer step.
        drop_truncated_rewards: see `SampleCollator`.
        device: where the tensors go.
    """

    def __init__(
        self,
        *,
        packing: bool,
        pad_token_id: int | None,
        max_tokens: int,
        num_mini_batches: int,
        drop_truncated_rewards: bool,
        device: torch.device,
    ):
        collate = RewardCollator(packing=packing, pad_token_id=pad_token_id, token_columns=TOKEN_COLUMNS)
        self.collate = SampleCollator(collate, drop_truncated_rewards=drop_truncated_rewards)
        self.packing, self.max_tokens, self.num_mini_batches = packing, max_tokens, num_mini_batches
        self.device = device

    def __call__(self, samples: Sequence[Sample], *, seed: int) -> list[MiniBatch]:
        """Cut a step's samples into mini-batches, in an order of `seed`; each has only this rank's tensors."""
        lengths = [len(sample.input_ids) for sample in samples]
        order: dict[str, Any] = {"rows_per_step": len(samples) // self.num_mini_batches, "seed": seed}
        own: dict[str, Any] = {"max_tokens": self.max_tokens, "packing": self.packing}
        own |= {"rank": rank(), "world_size": world_size()}
        everything: dict[str, Any] = {"max_tokens": sum(lengths)}
        plans = RewardBatchSampler(lengths, **order, **own).steps()
        members = RewardBatchSampler(lengths, **order, **everything).steps()
        mini_batches = []
        for plan, (whole,) in zip(plans, members, strict=True):
            chosen = [samples[row] for row in whole.rows]
            batches = [self.collate([samples[row] for row in micro.rows], filler=micro.filler) for micro in plan]
            mini_batches.append(
                MiniBatch(
                    [{name: tensor.to(self.device) for name, tensor in batch.items()} for batch in batches],
                    num_tokens=sum(sample.num_actions for sample in chosen),
                    num_sequences=len(chosen),
                )
            )
        return mini_batches
