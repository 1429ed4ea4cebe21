"""Every metric of a critic on one set, from sums: batch by batch, rank by rank, without keeping the predictions."""

from collections.abc import Callable

import torch
from torch import Tensor

from .calibration import (
    distance_from_uniform,
    pit_bounds,
    pit_slope,
    share_inside,
)
from .scores import (
    crps,
    head_disagreement,
    pinball_loss,
    wasserstein_1,
)
from .two_valued import as_distribution, two_values

COVERAGES = (50, 80, 90)
# What a report has, in words: Z is the quantiles' mean over the heads, G the return that followed.
MEANINGS = {
    "explained_variance": "1 − Var(G − mean Z) / Var(G) over all states; NaN where returns do not vary",
    "bias": "mean of (mean Z − G)",
    "mae": "mean of |mean Z − G|",
    "crps": "mean of E|X − G| − ½ E|X − X'|, X and X' drawn from the M atoms of Z; those of a scalar critic (M = 1) "
    "of two-valued returns are low and high, and its mean says how often, here and below",
    "pinball": "mean over states and levels τ_j = (j − ½)/M of (τ_j − 1{G < Z_j})(G − Z_j)",
    "head_disagreement": "mean over states of the standard deviation, over heads, of the heads' means",
    "coverage_50": "share of returns inside the central interval of 50 %, ties counting in part; this and all that "
    "follow only of distributions: not of a scalar critic whose returns take more than two values",
    "coverage_80": "the same of 80 %",
    "coverage_90": "the same of 90 %",
    "pit_ks": "largest distance of the randomised probability integral transform of G from uniform; 0 is calibrated",
    "crossing_rate": "share of neighbouring quantiles of a head in the wrong order",
    "sd": "mean standard deviation of Z",
    "wasserstein_1": "mean over states of the distance between Z and the K returns; only where K > 1",
}
# Up to this many distinct returns, a set counts as discrete.
DISCRETE_VALUES = 32


class CriticReport:
    """Adds up a critic's held-out metrics; exact for any cut into batches and any number of ranks.

    Args:
        all_returns: the returns of the whole set, any shape: they fix `tolerance` and a centre for the moments.
        tolerance: as in `pit`. By default a tenth of the smallest gap between returns where they take at most 32
            distinct values, and 0 otherwise.
        values: `two_values` of a larger set, where `all_returns` are a part of it; by default of these.
    """

    def __init__(
        self,
        all_returns: Tensor,
        *,
        tolerance: float | None = None,
        values: tuple[float, ...] | None = None,
    ):
        all_returns = torch.as_tensor(all_returns).double()
        if not all_returns.numel():
            raise ValueError("There are no returns to report on: the set is empty.")
        self.tolerance = discrete_tolerance(all_returns) if tolerance is None else tolerance
        self.values = two_values(all_returns) if values is None else values
        self.centre = all_returns.mean().item()
        self.sums: dict[str, Tensor] = {}

    def add(self, quantiles: Tensor, returns: Tensor) -> None:
        """Add R states.

        Args:
            quantiles: (R, N, M) raw heads, in the reward's units.
            returns: (R,), or (R, K) Monte-Carlo continuations of each state.
        """
        quantiles, returns = quantiles.detach().double(), returns.detach().double()
        if quantiles.dim() != 3 or returns.dim() not in (1, 2) or quantiles.shape[0] != returns.shape[0]:
            raise ValueError(
                f"quantiles {tuple(quantiles.shape)} must be (R, N, M) and returns {tuple(returns.shape)} (R,) or "
                "(R, K)."
            )
        returns = returns if returns.dim() == 2 else returns[:, None]
        ensemble, true_means = quantiles.mean(1), returns.mean(-1)
        errors = ensemble.mean(-1) - true_means
        centred = true_means - self.centre
        ensemble = as_distribution(ensemble, self.values)
        num_quantiles = ensemble.shape[-1]
        added = {
            "states": torch.ones_like(errors),
            "error": errors,
            "squared_error": errors.square(),
            "true": centred,
            "squared_true": centred.square(),
            "mae": errors.abs(),
            "crps": crps(ensemble, returns),
            "pinball": pinball_loss(ensemble, returns),
            "head_disagreement": head_disagreement(quantiles),
        }
        added = {name: per_state.sum() for name, per_state in added.items()}
        if num_quantiles > 1:
            low, high = pit_bounds(ensemble, returns, self.tolerance)
            for percent in COVERAGES:
                inside = share_inside(low, high, percent / 100, num_quantiles)
                added[f"coverage_{percent}"] = inside.mean(-1).sum()
            added["pit"] = pit_slope(low, high, num_quantiles) / returns.shape[-1]
            if quantiles.shape[-1] > 1:
                added["crossing_rate"] = (quantiles.diff(dim=-1) < 0).double().mean((-2, -1)).sum()
            added["sd"] = ensemble.var(-1, correction=0).sqrt().sum()
            if returns.shape[-1] > 1:
                added["wasserstein_1"] = wasserstein_1(ensemble, returns).sum()
        for name, value in added.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def reduce(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add up the ranks' sums, in place; every rank must have added at least once (no states will do)."""
        names, values = zip(*sorted(self.sums.items()), strict=True)
        total = sum_over_ranks(torch.cat([value.reshape(-1) for value in values]))
        parts = total.split([value.numel() for value in values])
        self.sums = {n: part.reshape(value.shape) for n, value, part in zip(names, values, parts, strict=True)}

    def compute(self) -> dict[str, float]:
        """The metrics that `MEANINGS` names; with K returns a state, G is their mean, or each of them in turn."""
        sums = dict(self.sums)
        states = sums.pop("states")
        pit = sums.pop("pit", None)
        means = {name: (total / states).item() for name, total in sums.items()}
        bias, true = means.pop("error"), means.pop("true")
        error_variance = means.pop("squared_error") - bias**2
        true_variance = means.pop("squared_true") - true**2
        # a variance below the rounding of its two terms is none
        varies = true_variance > 1e-12 * max(self.centre**2, 1e-12)
        report = {"explained_variance": 1 - error_variance / true_variance if varies else float("nan"), "bias": bias}
        report.update(means)
        if pit is not None:
            report["pit_ks"] = distance_from_uniform(pit, states.item())
        return report


def critic_report(quantiles: Tensor, returns: Tensor, *, tolerance: float | None = None) -> dict[str, float]:
    """`CriticReport` of a set that fits in memory: quantiles (R, N, M), returns (R,) or (R, K)."""
    report = CriticReport(returns, tolerance=tolerance)
    report.add(torch.as_tensor(quantiles), torch.as_tensor(returns))
    return report.compute()


def discrete_tolerance(returns: Tensor) -> float:
    """A tenth of the smallest gap between distinct returns, where there are few of them; else 0."""
    distinct = returns.unique()
    return 0.1 * distinct.diff().min().item() if 1 < distinct.numel() <= DISCRETE_VALUES else 0.0
