"""Heads that turn hidden states into N distributions of the return, each read as M quantiles (METHOD eq. 1).

Shipped into every critic repository as part of its remote code: imports torch and transformers only.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

# Named one by one: transformers ships a file with a model only if it is imported as `from .file import name`.
from .categorical import project_returns, slice_means
from .quantiles import quantile_levels

# Normalised units: fresh heads differ from each other by about this much, for hidden states of unit variance.
FRESH_HEAD_SPREAD = 0.01
# Returns are often discrete, so training-return quantiles have gaps of 0, which softplus reaches only at -inf.
SMALLEST_GAP = 1e-3
# of which the start of categorical heads is made, where there are more returns
MOST_START_RETURNS = 1 << 16


class ValueHeads(nn.Module):
    """N independent linear maps R^H -> R^O, and what a subclass makes of their outputs.

    All heads are one matrix: `weight` (N * O, H) and `bias` (N * O,), float32 whatever the body's dtype. They are bare
    parameters, not an `nn.Linear`, so that weight quantisation and LoRA's `all-linear` leave them alone.

    Args:
        hidden_size: H, width of the hidden states.
        num_value_heads: N.
        num_quantiles: M, in how many numbers a distribution is given.
        support: atoms or ends of the range, reward units; for heads that have one.
        num_outputs: O, if not M.
    """

    in_reward_units = True
    """Whether what `quantiles` gives is in the reward's own units; in normalised ones otherwise."""
    projection: str
    """Of returns on the atoms, where `logits` has some."""

    def __init__(
        self,
        hidden_size: int,
        num_value_heads: int,
        num_quantiles: int,
        support: list[float] | None = None,
        *,
        num_outputs: int | None = None,
    ):
        super().__init__()
        self.hidden_size = hidden_size
        self.num_value_heads = num_value_heads
        self.num_quantiles = num_quantiles
        self.num_outputs = num_outputs or num_quantiles
        self.support = support or []
        size = num_value_heads * self.num_outputs
        self.weight = nn.Parameter(torch.empty(size, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(size, dtype=torch.float32))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., H) of any float dtype -> outputs (..., N, O), float32."""
        # autocast would otherwise run the product in half precision
        with torch.autocast(device_type=hidden_states.device.type, enabled=False):
            outputs = F.linear(hidden_states.float(), self.weight.float(), self.bias.float())
        return outputs.unflatten(-1, (self.num_value_heads, self.num_outputs))

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs (..., N, O) -> quantiles (..., N, M)."""
        raise NotImplementedError

    def logits(self, outputs: torch.Tensor) -> torch.Tensor | None:
        """Outputs (..., N, O) -> logits (..., N, B) of a distribution on `support`; None where there is none."""
        return None

    def value(self, quantiles: torch.Tensor | None, logits: torch.Tensor | None) -> torch.Tensor:
        """Expected return (...), mean over heads, from logits (..., N, B) or quantiles (..., N, M)."""
        if logits is None:
            assert quantiles is not None, "heads without logits have quantiles"
            return quantiles.mean(dim=(-2, -1))
        return (logits.softmax(-1).mean(-2) * self.atoms(logits.device)).sum(-1)

    def atoms(self, device: torch.device) -> torch.Tensor:
        """`support`, (B,) float32."""
        return torch.tensor(self.support, dtype=torch.float32, device=device)

    def first_bias(self, returns: torch.Tensor | None, mean: float, scale: float) -> torch.Tensor:
        """The bias (O,) under which hidden states of zero say what is known before training.

        Args:
            returns: (n,) float64 in the reward's units, sorted; None where nothing is known of them.
            mean, scale: the normalised units.
        """
        raise NotImplementedError

    @torch.no_grad()
    def reset(self, bias: torch.Tensor) -> None:
        """Make the heads fresh: small distinct weights, and `bias` (O,) in common.

        All outputs of a head share one random direction, so that a fresh head shifts its distribution with the state
        and quantiles never cross.
        """
        direction = torch.randn(self.num_value_heads, 1, self.hidden_size) * FRESH_HEAD_SPREAD / self.hidden_size**0.5
        # init.copy_ leaves parameters alone that came from a checkpoint
        init.copy_(self.weight, (direction * self.direction_mask()).reshape(self.weight.shape))
        init.copy_(self.bias, bias.float().repeat(self.num_value_heads))

    def direction_mask(self) -> torch.Tensor:
        """How far each of the O outputs moves in a shift of the whole distribution, (O, 1)."""
        return torch.ones(self.num_outputs, 1)

    def extra_repr(self) -> str:
        return f"{self.hidden_size} -> {self.num_value_heads} x {self.num_outputs}"


class LinearQuantileHeads(ValueHeads):
    """Each output is a quantile, in normalised units; the paper's head, whose quantiles may cross."""

    in_reward_units = False

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs

    def to_bias(self, quantiles: torch.Tensor) -> torch.Tensor:
        """The bias (M,) under which hidden states of zero give `quantiles` (M,), normalised units."""
        return quantiles

    def first_bias(self, returns, mean, scale) -> torch.Tensor:
        """That of the returns' quantiles; without returns those of a standard normal."""
        levels = quantile_levels(self.num_quantiles, dtype=torch.float64)
        if returns is None:
            return self.to_bias(torch.special.ndtri(levels).float())
        # midpoint quantiles of an equal-weight sample: atom floor(n * level)
        quantiles = returns[(levels * len(returns)).long().clamp(max=len(returns) - 1)]
        if self.num_quantiles == 1:
            quantiles = returns.mean().reshape(1)
        return self.to_bias(((quantiles - mean) / scale).float())


class MonotoneQuantileHeads(LinearQuantileHeads):
    """Heads that cannot cross: a first quantile, then gaps through softplus, summed up (our choice)."""

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
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


class BoundedHeads(ValueHeads):
    """A scalar critic that cannot leave its range: V = low + (high - low) (½ + atan(z)/π) (arXiv:2608.23566).

    M is 1; `support` is [low, high].
    """

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        low, high = self.support
        return low + (high - low) * (0.5 + outputs.atan() / torch.pi)

    def first_bias(self, returns, mean, scale) -> torch.Tensor:
        """That of the returns' mean, kept off the ends; without returns the middle of the range."""
        low, high = self.support
        share = 0.5 if returns is None else (returns.mean().item() - low) / (high - low)
        return torch.tan(torch.pi * (torch.tensor([share]).clamp(0.01, 0.99) - 0.5))


class CategoricalHeads(ValueHeads):
    """Each output is the logit of one atom of `support`, reward units; see `categorical`."""

    def __init__(
        self, hidden_size, num_value_heads, num_quantiles, support, *, projection="two_hot", num_outputs=None
    ):
        super().__init__(hidden_size, num_value_heads, num_quantiles, support, num_outputs=num_outputs or len(support))
        self.projection = projection

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """Means over M equal slices of the levels (`slice_means`): their mean is the distribution's."""
        return slice_means(self.logits(outputs).softmax(-1), self.atoms(outputs.device), self.num_quantiles)

    def first_bias(self, returns, mean, scale) -> torch.Tensor:
        """Log of the returns' own histogram, of which each atom has one return more; without returns uniform."""
        if returns is None:
            return torch.zeros(self.num_outputs)
        places = torch.linspace(0, len(returns) - 1, min(len(returns), MOST_START_RETURNS)).round().long()
        masses = project_returns(returns[places][:, None], self.atoms(returns.device), self.projection).sum(0)
        return (masses + 1).log() - (masses + 1).log().mean()

    def direction_mask(self) -> torch.Tensor:
        return torch.linspace(-1, 1, self.num_outputs)[:, None]


class BernoulliHeads(CategoricalHeads):
    """One logit a head, of the upper of two returns: `support` is [low, high]."""

    def __init__(self, hidden_size, num_value_heads, num_quantiles, support):
        super().__init__(hidden_size, num_value_heads, num_quantiles, support, num_outputs=1)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return F.pad(outputs, (1, 0))

    def first_bias(self, returns, mean, scale) -> torch.Tensor:
        if returns is None:
            return torch.zeros(1)
        upper = (returns > sum(self.support) / 2).sum()
        return ((upper + 1) / (len(returns) - upper + 1)).log().reshape(1)

    def direction_mask(self) -> torch.Tensor:
        return torch.ones(1, 1)


VALUE_HEAD_TYPES: dict[str, type[ValueHeads]] = {
    "linear": LinearQuantileHeads,
    "monotone": MonotoneQuantileHeads,
    "categorical": CategoricalHeads,
    "bernoulli": BernoulliHeads,
    "bounded": BoundedHeads,
}


def make_heads(hidden_size: int, config) -> ValueHeads:
    """The heads that a critic's config describes, uninitialised."""
    sizes = hidden_size, config.num_value_heads, config.num_quantiles
    kind = VALUE_HEAD_TYPES[config.value_head_type]
    if kind is CategoricalHeads:
        return CategoricalHeads(*sizes, config.value_support, projection=config.value_projection)
    return kind(*sizes, config.value_support)
