"""How far a critic's predictions are from the returns: pure functions of predicted quantiles and observed returns.

A prediction is M quantiles at the midpoint levels τ_j = (j − ½)/M, read as M equally weighted atoms; an ensemble of
heads is one prediction, its mean over heads quantile by quantile (`critic_report` does that). Every function takes
tensors or arrays of any float type, computes in float64, changes nothing and needs no gradient.

Shapes: R states (any leading dims), N heads, M quantiles, K returns of one state. `returns` is (R,), one return a
state, or (R, K), Monte-Carlo continuations of the same state; the mean over K is then taken inside. No function
builds an (M, K) tensor.

What one return (K = 1) cannot say: explained variance stays below 1 for a perfect critic, because the return's own
noise counts as error, and CRPS stays above 0. Compare critics with each other, or use Monte-Carlo truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..critic.quantiles import quantile_levels


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns), over the whole set at once.

    1 is perfect, 0 is what any constant gets, negative is worse than a constant. A constant offset is not an error
    here; see `bias` in `critic_report`. Not a mean of per-batch figures, which is another, lower number.

    Args:
        values: (...,) predicted means.
        returns: (...,) what they predict.

    Returns:
        NaN where the returns do not vary: nothing can be explained.
    """
    values, returns = double(values), double(returns)
    if values.shape != returns.shape:
        raise ValueError(f"values {tuple(values.shape)} and returns {tuple(returns.shape)} must have the same shape.")
    if not returns.numel() or bool((returns == returns.flatten()[0]).all()):
        return math.nan
    return 1.0 - ((returns - values).var(correction=0) / returns.var(correction=0)).item()


def explained_variance_by_position(
    values: Sequence[Tensor], returns: Sequence[Tensor | float], bins: int = 10
) -> list[dict[str, float]]:
    """Explained variance of the states at each tenth of their responses: how early a critic knows.

    Each bin is a set of its own, of all responses at once; a response may have several states in a bin, or none.

    Args:
        values: of each response, (S,) predicted means of its states in order; `position_bins` says where each falls.
        returns: of each response, (S,) or one number for all its states.
        bins: of equal width.

    Returns:
        `bins` dicts: from, to, states (how many), explained_variance (NaN where the bin's returns do not vary).
    """
    if len(values) != len(returns):
        raise ValueError(
            f"{len(values)} responses' values and {len(returns)} responses' returns: give as many of each."
        )
    predicted = [double(row) for row in values]
    followed = [double(row).expand(value.shape) for row, value in zip(returns, predicted, strict=True)]
    where = position_bins([len(row) for row in predicted], bins)
    all_values, all_returns = (torch.cat(rows) if rows else torch.empty(0) for rows in (predicted, followed))
    table = []
    for place in range(bins):
        here = where == place
        explained = explained_variance(all_values[here], all_returns[here])
        edges = {"from": place / bins, "to": (place + 1) / bins}
        table.append({**edges, "states": int(here.sum()), "explained_variance": explained})
    return table


def position_bins(lengths: Sequence[int], bins: int = 10) -> Tensor:
    """Which of `bins` equal parts of its response each state is in: (Σ lengths,) integers, 0..bins − 1.

    State t of a response's S states, t = 0..S − 1, is at t/(S − 1): its first state at 0, its last at 1, which belongs
    to the last part. A response's only state is at 0.
    """
    if bins < 1 or any(length < 1 for length in lengths):
        raise ValueError(
            f"bins is {bins} and the shortest response has {min(lengths)} states: both must be at least 1."
        )
    parts = [torch.arange(length) * bins // max(length - 1, 1) for length in lengths]
    return torch.cat(parts or [torch.empty(0, dtype=torch.long)]).clamp(max=bins - 1)


def auc(values: Tensor, flags: Tensor) -> float:
    """Probability that a flagged value lies above an unflagged one, ties counted half: area under the ROC curve.

    ½ is chance, and what any constant gets; below ½ the values point the wrong way.

    Args:
        values: (R,) scores.
        flags: (R,) 0/1 or bool.

    Returns:
        NaN where all flags are alike.
    """
    values, flags = double(values), double(flags)
    if values.dim() != 1 or values.shape != flags.shape:
        raise ValueError(f"values {tuple(values.shape)} and flags {tuple(flags.shape)} must have the same shape (R,).")
    if not bool(((flags == 0) | (flags == 1)).all()):
        strange = flags[(flags != 0) & (flags != 1)][0].item()
        raise ValueError(f"flags has {strange}; flags are 0 or 1: compare with a threshold first.")
    flagged, others = values[flags == 1], values[flags == 0].sort().values
    if not len(flagged) or not len(others):
        return math.nan
    # Twice the number of unflagged values below, ties half, is a whole number: exact in any order.
    below = torch.searchsorted(others, flagged) + torch.searchsorted(others, flagged, right=True)
    return below.sum().item() / (2 * len(flagged) * len(others))


def value_auc(
    values: Sequence[Tensor], flags: Tensor, percents: Sequence[int] = (0, 25, 50, 75, 100)
) -> dict[int, float]:
    """`auc` of the value after x % of the response against its success: how early a critic tells right from wrong.

    At 0 % it is that of the prompt alone, which knows how hard the prompt is and nothing of the response: what the
    others are to be held against.

    Args:
        values: of each response, (S,) values of its states in order: before the first token, after it, and so on to
            the state before the last token, so S − 1 tokens lie between first and last. The state after the last
            token is not one of them.
        flags: (R,) success of each response, 0/1.
        percents: whole numbers, 0 to 100. The state taken is the last with at most x % of the tokens read.

    Returns:
        By percent; NaN where all flags are alike.
    """
    if any(int(percent) != percent or not 0 <= percent <= 100 for percent in percents):
        raise ValueError(f"percents are {list(percents)}; they are whole numbers from 0 to 100.")
    if len(values) != len(flags):
        raise ValueError(f"{len(values)} responses and {len(flags)} flags: give one flag for each response.")
    values = [double(row) for row in values]
    if any(row.dim() != 1 or not len(row) for row in values):
        raise ValueError("Each response's values must be (S,) with at least one state.")
    table = {}
    for percent in map(int, percents):
        at = [row[percent * (len(row) - 1) // 100] for row in values]
        table[percent] = auc(torch.stack(at) if at else torch.empty(0), flags)
    return table


def constant_quantiles(returns: Tensor, num_quantiles: int) -> Tensor:
    """What a critic that ignores its input does best: the quantiles of these returns, in every state.

    Those that fresh heads start from (`fit_return_scale`): atom floor(n·τ) of the n sorted returns; their mean for
    one quantile.

    Args:
        returns: any shape; those of the training set, or a set's own, which gives the best constant in hindsight.

    Returns:
        (num_quantiles,) float64, sorted.
    """
    ordered = double(returns).flatten().sort().values
    if not len(ordered):
        raise ValueError("There are no returns to take quantiles of.")
    if num_quantiles == 1:
        return ordered.mean().reshape(1)
    levels = quantile_levels(num_quantiles, dtype=torch.float64).to(ordered.device)
    return ordered[(levels * len(ordered)).long().clamp(max=len(ordered) - 1)]


def pinball_loss(quantiles: Tensor, returns: Tensor, levels: Tensor | None = None) -> Tensor:
    """Mean over levels (and over K) of ρ_τ(y − q), with ρ_τ(u) = u · (τ − 1{u < 0}).

    Quantiles are taken at their own levels, in the order given, so crossings cost. Uses
    Σ_j ρ_{τ_j}(y − q_j) = Σ_j τ_j (y − q_j) + Σ_j ReLU(q_j − y), whose second sum does not depend on the order: one
    search into sorted quantiles and their prefix sums.

    Args:
        quantiles: (..., M).
        returns: (...,) or (..., K).
        levels: (M,), midpoints by default.

    Returns:
        (...,) float64, one a state.
    """
    quantiles, returns = paired(quantiles, returns)
    num_quantiles = quantiles.shape[-1]
    if levels is None:
        levels = quantile_levels(num_quantiles, dtype=torch.float64)
    levels = double(levels).to(quantiles.device)
    if levels.shape != (num_quantiles,):
        raise ValueError(f"levels {tuple(levels.shape)} must be ({num_quantiles},), one for each quantile.")
    # Centred, so that the prefix sums do not lose digits to a common offset.
    centre = quantiles.mean(-1, keepdim=True)
    quantiles, returns = quantiles - centre, returns - centre
    ordered = quantiles.sort(-1).values
    above = torch.nn.functional.pad(ordered.flip(-1).cumsum(-1).flip(-1), (0, 1))
    first = torch.searchsorted(ordered, returns, right=True)
    excess = above.gather(-1, first) - (num_quantiles - first) * returns
    tilted = levels.sum() * returns - (levels * quantiles).sum(-1, keepdim=True)
    return ((tilted + excess) / num_quantiles).mean(-1)


def crps(quantiles: Tensor, returns: Tensor) -> Tensor:
    """Continuous ranked probability score of the M atoms, exact: E|Z − y| − ½ E|Z − Z'|, mean over K.

    ∫ (F_Z(x) − 1{y ≤ x})² dx in the return's own units; lower is better; the absolute error for M = 1 (see
    `two_valued.as_distribution` for what else a single number may say). For atoms at
    the midpoint levels it is exactly twice the pinball loss of the sorted quantiles, which is how it is computed.

    Args:
        quantiles: (..., M), any order.
        returns: (...,) or (..., K).

    Returns:
        (...,) float64, one a state.
    """
    return 2.0 * pinball_loss(double(quantiles).sort(-1).values, returns)


def wasserstein_1(quantiles: Tensor, samples: Tensor) -> Tensor:
    """Wasserstein-1 distance between the M atoms and K samples, each equally weighted: ∫ |F⁻¹(u) − G⁻¹(u)| du, exact.

    Both quantile functions are steps, so the integral is a sum over the M + K − 1 merged pieces of [0, 1].

    Args:
        quantiles: (..., M), any order.
        samples: (..., K), any order.

    Returns:
        (...,) float64.
    """
    quantiles, samples = double(quantiles).sort(-1).values, double(samples).sort(-1).values
    num_quantiles, num_samples = quantiles.shape[-1], samples.shape[-1]
    # Breakpoints j/M and k/K in whole units of 1/(M·K): no rounding decides which atom a piece belongs to.
    steps = torch.cat([torch.arange(num_quantiles) * num_samples, torch.arange(num_samples) * num_quantiles]).unique()
    widths = torch.diff(steps, append=torch.tensor([num_quantiles * num_samples])).double()
    steps, widths = steps.to(quantiles.device), widths.to(quantiles.device)
    gaps = quantiles[..., steps // num_samples] - samples[..., steps // num_quantiles]
    return (gaps.abs() * widths).sum(-1) / (num_quantiles * num_samples)


def crossing_rate(quantiles: Tensor) -> float:
    """Share of adjacent quantile pairs that are out of order; of raw heads, since a mean over heads hides crossings.

    Args:
        quantiles: (..., M); 0 for M = 1.
    """
    quantiles = double(quantiles)
    if quantiles.shape[-1] < 2:
        return 0.0
    return (quantiles.diff(dim=-1) < 0).double().mean().item()


def head_disagreement(quantiles: Tensor) -> Tensor:
    """Standard deviation over heads (divided by N) of the heads' means; 0 for one head.

    Args:
        quantiles: (..., N, M).

    Returns:
        (...,) float64, one a state.
    """
    return double(quantiles).mean(-1).std(-1, correction=0)


def paired(quantiles: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles (..., M) and returns (..., K), K = 1 where the dimension was missing."""
    quantiles, returns = double(quantiles), double(returns)
    shapes = f"quantiles {tuple(quantiles.shape)}, returns {tuple(returns.shape)}"
    if returns.dim() == quantiles.dim() - 1:
        returns = returns[..., None]
    if not quantiles.dim() or returns.shape[:-1] != quantiles.shape[:-1]:
        raise ValueError(f"{shapes}: returns must be (...,) or (..., K) for quantiles (..., M).")
    if not quantiles.shape[-1] or not returns.shape[-1]:
        raise ValueError(f"{shapes}: at least one quantile and one return are needed.")
    return quantiles.contiguous(), returns.contiguous().to(quantiles.device)


def double(numbers) -> Tensor:
    """Any numbers as a detached float64 tensor."""
    return torch.as_tensor(numbers).detach().double()
