"""Heads that turn hidden states into N sets of M quantiles (METHOD eq. 1).

Shipped into every critic repository as part of its remote code: imports torch and transformers only.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

# Normalised units: fresh heads differ from each other by about this much, for hidden states of unit variance.
FRESH_HEAD_SPREAD = 0.01
# Returns are often discrete, so training-return quantiles have gaps of 0, which softplus reaches only at -inf.
SMALLEST_GAP = 1e-3


class LinearQuantileHeads(nn.Module):
    """N independent linear heads, each R^H -> R^M; the paper's head, whose quantiles may cross.

    All heads are one matrix: `weight` (N * M, H) and `bias` (N * M,), float32 whatever the body's dtype. They are bare
    parameters, not an `nn.Linear`, so that weight quantisation and LoRA's `all-linear` leave them alone.

    Args:
        hidden_size: H, width of the hidden states.
        num_value_heads: N.
        num_quantiles: M.
    """

    def __init__(self, hidden_size: int, num_value_heads: int, num_quantiles: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.num_value_heads = num_value_heads
        self.num_quantiles = num_quantiles
        self.weight = nn.Parameter(torch.empty(num_value_heads * num_quantiles, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(num_value_heads * num_quantiles, dtype=torch.float32))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., H) of any float dtype -> quantiles (..., N, M), float32, normalised units."""
        # autocast would otherwise run the product in half precision
        with torch.autocast(device_type=hidden_states.device.type, enabled=False):
            outputs = F.linear(hidden_states.float(), self.weight.float(), self.bias.float())
        return self.to_quantiles(outputs.unflatten(-1, (self.num_value_heads, self.num_quantiles)))

    def to_quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """Raw outputs (..., N, M) -> quantiles (..., N, M)."""
        return outputs

    def to_bias(self, quantiles: torch.Tensor) -> torch.Tensor:
        """The bias (M,) under which hidden states of zero give `quantiles` (M,); inverse of `to_quantiles`."""
        return quantiles

    @torch.no_grad()
    def reset(self, quantiles: torch.Tensor) -> None:
        """Make the heads fresh: small distinct weights, and `quantiles` (M,), normalised units, as common bias.

        All quantiles of a head share one random direction, so that a fresh head shifts its distribution with the
        state but never crosses.
        """
        direction = torch.randn(self.num_value_heads, 1, self.hidden_size) * FRESH_HEAD_SPREAD / self.hidden_size**0.5
        # init.copy_ leaves parameters alone that came from a checkpoint
        init.copy_(self.weight, (direction * self.direction_mask()).reshape(self.weight.shape))
        init.copy_(self.bias, self.to_bias(quantiles.float()).repeat(self.num_value_heads))

    def direction_mask(self) -> torch.Tensor:
        """Which of the M raw outputs a shift of the whole distribution moves, (M, 1)."""
        return torch.ones(self.num_quantiles, 1)

    def extra_repr(self) -> str:
        return f"{self.hidden_size} -> {self.num_value_heads} x {self.num_quantiles}"


class MonotoneQuantileHeads(LinearQuantileHeads):
    """Heads that cannot cross: a first quantile, then gaps through softplus, summed up (our choice)."""

    def to_quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        first, gaps = outputs[..., :1], F.softplus(outputs[..., 1:])
        return torch.cat([first, first + gaps.cumsum(-1)], dim=-1)

    def to_bias(self, quantiles: torch.Tensor) -> torch.Tensor:
        """As for linear heads; gaps under SMALLEST_GAP are widened to it, which leaves the mean as it is."""
        ramp = SMALLEST_GAP * torch.arange(len(quantiles), dtype=quantiles.dtype, device=quantiles.device)
        # the least q' >= quantiles with such gaps: a jump takes back what equal quantiles before it were raised by
        widened = (quantiles - ramp).cummax(0).values + ramp
        widened = widened + (quantiles - widened).mean()
        gaps = widened.diff().clamp(min=SMALLEST_GAP / 2)  # only rounding is under SMALLEST_GAP
        return torch.cat([widened[:1], gaps + torch.log(-torch.expm1(-gaps))])

    def direction_mask(self) -> torch.Tensor:
        return torch.eye(self.num_quantiles, 1)


VALUE_HEAD_TYPES = {"linear": LinearQuantileHeads, "monotone": MonotoneQuantileHeads}
