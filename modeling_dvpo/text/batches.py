"""Rows of tokens of like length together, and as one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def batches_by_length(
    lengths: Sequence[int], *, max_tokens: float = math.inf, max_rows: float = math.inf
) -> list[list[int]]:
    """Rows of like length together, so that little is padded, in as few batches as that allows.

    Args:
        lengths: tokens of each row.
        max_tokens: most tokens of a batch, its padding included; a longer row is a batch of its own.
        max_rows: most rows of a batch.

    Returns:
        Batches of places in `lengths`, each place once; the shortest rows first, of equal ones the first first.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        rows = len(batches[-1]) + 1 if batches else 1
        if not batches or rows > max_rows or rows * lengths[row] > max_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def padded(rows: Sequence[Tensor], value: float = 0, *, side: str = "right") -> Tensor:
    """(B, T) of rows of up to T numbers: tensors of one dtype, filled up with `value` on the "right" or the "left"."""
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)


def padded_tokens(
    rows: Sequence[Sequence[int] | Tensor], *, pad_id: int = 0, side: str = "right", device="cpu"
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, 1 on tokens: (B, T) int64 each."""
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    mask = padded([torch.ones_like(row) for row in tensors], side=side)
    return padded(tensors, pad_id, side=side).to(device), mask.to(device)
