"""Rewards, and the ways to learn a value from them, of `value_losses.py`.

A method is heads and a loss. Its run knows the training returns of one seed and reward: from them come its units
(`return_units`) and its support. Heads are linear maps of the last hidden state, three a critic, as in the product,
whose losses these are.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeling_dvpo.critic.categorical import categorical_cross_entropy, project_returns, slice_means
from modeling_dvpo.critic.losses import TERMS, CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.critic.units import return_units

HEADS, QUANTILES = 3, 200
ALONE = {**dict.fromkeys(TERMS, 0.0), "quantile": 1.0}
MARGIN = 3


def labels(reward: str, exact: Tensor, graded: Tensor, seed: int) -> Tensor:
    """What a critic is given for each completion: the reward and its noise, (n,) float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(len(exact), generator=generator)

    if reward == "exact":
        return exact
    if reward == "graded":
        return graded
    if reward == "heavy-tailed":  # Student t of 1.5 degrees, scale 1/2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chi = torch.distributions.Chi2(torch.tensor(1.5)).sample((len(exact),))
        return exact + 0.5 * normal() / (chi / 1.5).sqrt()
    if reward == "outliers":  # ±10 on one label in twenty
        wrong = torch.rand(len(exact), generator=generator) < 0.05
        return exact + 10 * wrong * torch.rand(len(exact), generator=generator).sub(0.5).sign()
    if reward == "skewed":  # never too low: lognormal, whose mean is 1.65 and deviation 2.16
        return exact + normal().exp()
    raise ValueError(f"no reward {reward!r}")


REWARDS = ("exact", "graded", "heavy-tailed", "outliers", "skewed")


@dataclass(frozen=True)
class Method:
    """`kind` is what its heads put out; the rest is its loss or support."""

    name: str
    kind: str
    outputs: int
    loss: CriticLossConfig | None = None
    projection: str = ""
    share: float = 1.0
    """Of the training returns that the support spans; those beyond count as its ends."""

    def run(self, returns: Tensor) -> "Run":
        """What a run of it knows of its training returns, (n,)."""
        centre, scale = return_units(returns.double())
        ordered, cut = returns.sort().values, (1 - self.share) / 2
        last = len(ordered) - 1
        low, high = ordered[int(last * cut)].item(), ordered[last - int(last * cut)].item()
        if self.projection == "hl_gauss":
            margin = (high - low) / (self.outputs - 1 - 2 * MARGIN) * MARGIN
            low, high = low - margin, high + margin
        return Run(self, centre, scale, low, high, returns)


@dataclass
class Run:
    method: Method
    centre: float
    scale: float
    low: float
    high: float
    returns: Tensor = field(repr=False)

    def first_bias(self) -> Tensor:
        """Where fresh heads begin, (O,): the training returns, as in the product."""
        method, returns = self.method, self.returns.double()
        if method.kind == "quantiles":
            levels = (torch.arange(method.outputs) + 0.5) / method.outputs
            ordered = returns.sort().values
            return ((ordered[(levels * len(ordered)).long()] - self.centre) / self.scale).float()
        if method.kind == "scalar":
            return torch.tensor([(returns.mean().item() - self.centre) / self.scale])
        if method.kind == "bounded":
            share = (returns.mean().item() - self.low) / (self.high - self.low)
            return torch.tensor([math.tan(math.pi * (min(max(share, 0.01), 0.99) - 0.5))])
        some = self.on_support(returns)[torch.linspace(0, len(returns) - 1, 1 << 16).round().long()]
        masses = project_returns(some[:, None], torch.arange(method.outputs).double(), method.projection).sum(0) + 1
        return (masses.log() - masses.log().mean()).float()

    def on_support(self, returns: Tensor) -> Tensor:
        """Returns as places on atoms 0, 1, ..., B - 1, those beyond at the ends."""
        last = self.method.outputs - 1
        return ((returns - self.low) / (self.high - self.low) * last).clamp(0, last)


METHODS = {
    method.name: method
    for method in (
        Method("scalar", "scalar", 1, CriticLossConfig(consistency=0.0)),
        Method("bounded scalar", "bounded", 1, CriticLossConfig(consistency=0.0)),
        Method("cross-entropy, 2 atoms", "atoms", 2, projection="two_hot"),
        Method("HL-Gauss, 51 bins", "atoms", 51, projection="hl_gauss"),
        Method("HL-Gauss, 101 bins", "atoms", 101, projection="hl_gauss"),
        Method("HL-Gauss, 101 bins, central 99 %", "atoms", 101, projection="hl_gauss", share=0.99),
        Method("two-hot, 51 bins", "atoms", 51, projection="two_hot"),
        Method("quantile, κ = .02", "quantiles", QUANTILES, CriticLossConfig.from_dict(ALONE)),
        Method("quantile, κ = 1", "quantiles", QUANTILES, CriticLossConfig.from_dict({**ALONE, "kappa": 1.0})),
        Method("composite, calibrated", "quantiles", QUANTILES, CriticLossConfig()),
        Method("composite, paper", "quantiles", QUANTILES, CriticLossConfig.paper()),
    )
}


class StackedHeads:
    """The heads of runs of one method, (R, N * O, H) and (R, N * O), float32 leaves."""

    def __init__(self, runs: list[Run], hidden: int, device: str, seeds: list[int]):
        self.runs, self.method = runs, runs[0].method
        weights = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            direction = torch.randn(HEADS, 1, hidden, generator=generator) * 0.01 / hidden**0.5
            outputs = self.method.outputs
            shift = torch.linspace(-1, 1, outputs)[:, None] if self.method.kind == "atoms" else torch.ones(outputs, 1)
            weights.append((direction * shift).reshape(-1, hidden))
        self.weight = torch.stack(weights).to(device).requires_grad_()
        bias = torch.stack([run.first_bias().repeat(HEADS) for run in runs])
        self.bias = bias.to(device).requires_grad_()

        def numbers(name):
            return torch.tensor([getattr(run, name) for run in runs], device=device)

        self.centre, self.scale, self.low, self.high = map(numbers, ("centre", "scale", "low", "high"))

    def outputs(self, states: Tensor) -> Tensor:
        """(R, S, H) hidden states -> (R, S, N, O)."""
        found = torch.baddbmm(self.bias[:, None], states.float(), self.weight.mT)
        return found.unflatten(-1, (HEADS, -1))

    def loss(self, states: Tensor, returns: Tensor, mask: Tensor, underestimated: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over runs of their sums over actions / the runs' mean count; each run's mean of target less prediction.

        Args:
            states, returns, mask: (R, S, H), (R, S) in the reward's units, (R, S) bool.
            underestimated: (R,) bool, the gates of the calibrated `shift` term.
        """
        method, outputs, counts = self.method, self.outputs(states), mask.sum(1).clamp(min=1)
        share = mask.float() / counts[:, None]
        if method.kind == "atoms":
            last = method.outputs - 1
            places = ((returns - self.low[:, None]) / (self.high - self.low)[:, None] * last)[..., None]
            support = torch.arange(method.outputs, device=states.device, dtype=torch.float32)
            loss, _ = categorical_cross_entropy(outputs, places, mask, support, method.projection, num_items=1)
            value = self.values(outputs)
            gap = ((returns - value.detach()) / self.scale[:, None] * share).sum(1)
            return loss / counts.float().mean(), gap
        if method.kind == "bounded":
            wide = (self.high - self.low)[:, None, None, None]
            outputs = self.low[:, None, None, None] + wide * (0.5 + outputs.atan() / math.pi)
            outputs = (outputs - self.centre[:, None, None, None]) / self.scale[:, None, None, None]
        wanted = (returns - self.centre[:, None]) / self.scale[:, None]
        gap = ((wanted - outputs.mean((-2, -1))) * share).sum(1)
        config = method.loss
        shift = config.shift if config.form == "calibrated" else 0.0
        plain = CriticLossConfig.from_dict({**config.to_dict(), "shift": 0.0}) if shift else config
        loss, _ = dvpo_critic_loss(outputs, wanted[..., None], mask, plain, num_items=1)
        # its gate is of a whole batch: of each run's own
        return loss / counts.float().mean() + shift * (gap * underestimated).sum(), gap.detach()

    def values(self, outputs: Tensor) -> Tensor:
        """Mean of the distribution, the reward's units, (R, S)."""
        if self.method.kind == "atoms":
            last = self.method.outputs - 1
            place = (outputs.softmax(-1).mean(-2) * torch.arange(last + 1, device=outputs.device)).sum(-1)
            return self.low[:, None] + place / last * (self.high - self.low)[:, None]
        return self.quantiles(outputs).mean(-1)

    def quantiles(self, outputs: Tensor) -> Tensor:
        """Of the heads' mean, ascending, the reward's units, (R, S, M)."""
        wide = (self.high - self.low)[:, None, None]
        if self.method.kind == "atoms":
            support = torch.arange(self.method.outputs, device=outputs.device, dtype=torch.float32)
            places = slice_means(outputs.softmax(-1), support, QUANTILES).mean(-2)
            return self.low[:, None, None] + places / (self.method.outputs - 1) * wide
        if self.method.kind == "bounded":
            return self.low[:, None, None] + wide * (0.5 + outputs.atan() / math.pi).mean(-2)
        return outputs.mean(-2).sort(-1).values * self.scale[:, None, None] + self.centre[:, None, None]


def readings(quantiles: Tensor) -> dict[str, Tensor]:
    """One number of each distribution (..., M), several ways."""
    number = quantiles.shape[-1]
    found = {"mean": quantiles.mean(-1)}
    if number > 1:
        found["median"] = quantiles[..., number // 2 - 1 : number // 2 + 1].mean(-1)
        for share in (0.1, 0.25):
            cut = int(number * share)
            found[f"mean without {share:.0%} either side"] = quantiles[..., cut : number - cut].mean(-1)
    return found
