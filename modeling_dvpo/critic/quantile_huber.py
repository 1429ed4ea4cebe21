"""Quantile Huber loss between all pairs of M predictions and K targets, without forming the pairs.

For one prediction q and sorted targets, the sum over targets is piecewise quadratic in q. With the one-sided sums

    below(x) = Σ_k ½ (x - y_k)₊²        above(x) = Σ_k ½ (y_k - x)₊²

the Huber function splits as H_κ(u) = ½u₊² - ½(u - κ)₊² on either side of zero, so that

    Σ_k |τ - 1{y_k < q}| H_κ(y_k - q) = (1 - τ) [below(q) - below(q - κ)] + τ [above(q) - above(q + κ)]

and the gradient is the same expression in below' and above'. Each of them needs only how many targets lie under x and
the prefix sums of y and y² there: O((M + K) log K) time and O(M + K) memory, exact up to rounding.
(The loss is QR-DQN's, arXiv:1710.10044, eq. 10, divided by κ as in IQN, arXiv:1806.06923, eq. 3.)
"""

import math
import zlib

import torch
from torch import Tensor

from .quantiles import quantile_levels

_CHUNK_ON_CPU = 1 << 15  # predictions worked on at once: their float64 temporaries stay within the cache
_CHUNK_ON_DEVICE = 1 << 22

# Remote code loads a second copy of this file beside an installed package: each copy gets operators of its own.
_NAMESPACE = f"dvpo_{zlib.crc32(__name__.encode()):08x}"


def quantile_huber_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    levels: Tensor | None = None,
    kappa: float = 1.0,
    level_weights: Tensor | None = None,
) -> Tensor:
    """Quantile Huber loss, averaged over both the M predictions and the K targets.

        loss = 1/(M K) Σ_j Σ_k ω_j |τ_j - 1{y_k < q_j}| H_κ(y_k - q_j) / κ
        H_κ(u) = ½u² if |u| <= κ, else κ(|u| - ½κ)

    Args:
        predictions: `(..., M)`, in any order; entry j is trained towards the τ_j-quantile.
        targets: `(..., K)`, in any order, any K >= 1; leading dimensions broadcast against those of `predictions`.
            Targets shared along a dimension (size 1, as in predictions `(R, N, M)`, targets `(R, 1, K)`) are sorted
            once. Always detached.
        levels: `(M,)` levels τ_j; `None` for the midpoints `quantile_levels(M)`.
        kappa: half-width of the quadratic zone, > 0. Where all |y_k - q_j| <= κ the minimiser is an expectile rather
            than a quantile: κ should be small against the spread of the returns.
        level_weights: weights ω_j, `(M,)`, used as they are (not normalised); `None` for ones. A matrix `(W, M)` gives
            W differently weighted losses from one pass, in a new last dimension.

    Returns:
        `(...)` (or `(..., W)`): float32 whatever the inputs, float64 if either is float64. Internally float64.
        Empty leading dimensions give an empty result.

    Not twice differentiable: the gradient is returned as a constant.

    Example:
        >>> quantile_huber_loss(torch.tensor([0.0, 2.0]), torch.tensor([-0.5, 1.5, 4.0]))  # 23/48
        tensor(0.4792)
    """
    num_levels, num_targets = _check_last_dims(predictions, targets)
    if not (kappa > 0 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be a positive, finite number, got {kappa!r}.")
    dtype = torch.float64 if torch.float64 in (predictions.dtype, targets.dtype) else torch.float32
    device = predictions.device
    if levels is None:
        levels = quantile_levels(
            num_levels, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64
        )
    elif levels.shape != (num_levels,):
        raise ValueError(
            f"levels has shape {tuple(levels.shape)}; predictions have {num_levels} in the last dimension."
        )
    if level_weights is None:
        weights = torch.ones(1, num_levels, device=device, dtype=dtype)
    elif level_weights.dim() in (1, 2) and level_weights.shape[-1] == num_levels:
        weights = level_weights.detach().to(device=device, dtype=dtype).reshape(-1, num_levels)
    else:
        raise ValueError(
            f"level_weights has shape {tuple(level_weights.shape)}; ({num_levels},) or (W, {num_levels}) is needed."
        )

    folded, target_rows, unfold = _fold_shared_targets(predictions, targets.detach())
    losses, _ = _quantile_huber(
        folded.to(dtype),
        target_rows,
        levels.detach().to(device),
        weights,
        float(kappa),
        torch.is_grad_enabled() and predictions.requires_grad,
    )
    losses = unfold(losses)
    return losses if level_weights is not None and level_weights.dim() == 2 else losses.squeeze(-1)


def _check_last_dims(predictions: Tensor, targets: Tensor) -> tuple[int, int]:
    for name, tensor in (("predictions", predictions), ("targets", targets)):
        if tensor.dim() == 0 or tensor.shape[-1] == 0:
            raise ValueError(f"{name} needs at least one entry in its last dimension, got {tuple(tensor.shape)}.")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}.")
    return predictions.shape[-1], targets.shape[-1]


def _fold_shared_targets(predictions: Tensor, targets: Tensor):
    """Bring predictions to (R, C, M) and targets to (R, K): one row per *distinct* row of targets.

    Returns both and the function that takes results (R, C, W) back to (*leading, W).
    """
    try:
        leading = torch.broadcast_shapes(predictions.shape[:-1], targets.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} do not broadcast in their "
            "leading dimensions; heads that share targets need predictions (R, N, M) and targets (R, 1, K)."
        ) from None
    predictions = predictions.expand(*leading, predictions.shape[-1])
    targets = targets[(None,) * (len(leading) + 1 - targets.dim())]
    shared = [dim for dim in range(len(leading)) if targets.shape[dim] == 1]
    own = [dim for dim in range(len(leading)) if targets.shape[dim] != 1]
    order = own + shared
    num_rows = math.prod([leading[dim] for dim in own])
    num_shared = math.prod([leading[dim] for dim in shared])
    folded = predictions.permute(*order, len(leading)).reshape(num_rows, num_shared, predictions.shape[-1])

    def unfold(results: Tensor) -> Tensor:
        results = results.reshape(*[leading[dim] for dim in order], results.shape[-1])
        inverse = [order.index(dim) for dim in range(len(leading))]
        return results.permute(*inverse, len(leading))

    return folded, targets.reshape(num_rows, targets.shape[-1]), unfold


@torch.library.custom_op(f"{_NAMESPACE}::quantile_huber", mutates_args=())
def _quantile_huber(
    predictions: Tensor, targets: Tensor, levels: Tensor, weights: Tensor, kappa: float, with_derivative: bool
) -> tuple[Tensor, Tensor]:
    """(R, C, M), (R, K), (M,), (W, M) -> losses (R, C, W) and d(Σ_j unweighted mean over k)/dq (R, C, M)."""
    num_rows, num_shared, num_levels = predictions.shape
    losses = predictions.new_empty(num_rows, num_shared, weights.shape[0])
    derivative = torch.empty_like(predictions) if with_derivative else predictions.new_empty(0)
    if predictions.numel() == 0:
        return losses, derivative
    if targets.shape[1] == 1:
        compute, work = _one_target, predictions.dtype
    else:
        # float64 sums, because squares of float32 targets keep no digits at a small kappa; MPS has no float64.
        compute, work = _many_targets, torch.float32 if predictions.device.type == "mps" else torch.float64
    levels, mean_weights = levels.to(work), weights.to(work).T / num_levels
    budget = _CHUNK_ON_CPU if predictions.device.type == "cpu" else _CHUNK_ON_DEVICE
    shared_step = max(1, min(num_shared, budget // num_levels))
    row_step = max(1, budget // (shared_step * num_levels))
    for row in range(0, num_rows, row_step):
        rows = slice(row, row + row_step)
        pairs = compute(targets[rows].to(work), levels, kappa)
        for first in range(0, num_shared, shared_step):
            block = (rows, slice(first, first + shared_step))
            loss, slope = pairs(predictions[block].to(work))
            losses[block] = loss @ mean_weights
            if with_derivative:
                derivative[block] = slope
    return losses, derivative


def _one_target(targets: Tensor, levels: Tensor, kappa: float):
    """K = 1: the pairs are the predictions themselves."""

    def pairs(predictions: Tensor) -> tuple[Tensor, Tensor]:
        excess = predictions - targets[:, :, None]
        # |τ - 1{excess > 0}|, then the Huber function by its clipped slope c: c (e - ½c).
        clipped = excess.clamp(-kappa, kappa)
        slope = torch.where(excess > 0, 1 - levels, levels).mul_(clipped).div_(kappa)
        return excess.sub_(clipped, alpha=0.5).mul_(slope), slope

    return pairs


def _many_targets(targets: Tensor, levels: Tensor, kappa: float):
    """K > 1: one-sided sums at q - κ, q and q + κ from prefix sums of the sorted, centred targets."""
    num_rows, num_targets = targets.shape
    centre = targets.mean(dim=1, keepdim=True)
    ordered = (targets - centre).sort(dim=1).values
    sums = torch.nn.functional.pad(ordered.cumsum(1), (1, 0))
    squares = torch.nn.functional.pad(ordered.square().cumsum(1), (1, 0))
    sums_above, squares_above = sums[:, -1:] - sums, squares[:, -1:] - squares
    search = _Search(ordered)

    def below(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        total = sums.gather(1, count)
        slope = x * count - total
        return (slope - total).mul_(x).add_(squares.gather(1, count)), slope  # twice the sum, and its derivative

    def above(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        total = sums_above.gather(1, count)
        slope = x * (num_targets - count) - total
        return (slope - total).mul_(x).add_(squares_above.gather(1, count)), slope

    def pairs(predictions: Tensor) -> tuple[Tensor, Tensor]:
        q = predictions.reshape(num_rows, -1) - centre
        low, high = q - kappa, q + kappa
        count = search(q)
        under, under_slope = below(q, count)
        over, over_slope = above(q, count)
        for one_sided, sum_at_q, slope_at_q, x in ((below, under, under_slope, low), (above, over, over_slope, high)):
            value, slope = one_sided(x, search(x))
            sum_at_q.sub_(value)
            slope_at_q.sub_(slope)

        def mix(lower: Tensor, upper: Tensor, scale: float) -> Tensor:
            lower, upper = lower.view(predictions.shape), upper.view(predictions.shape)
            return torch.lerp(lower, upper, levels).div_(scale)

        return mix(under, over, 2 * kappa * num_targets), mix(under_slope, over_slope, kappa * num_targets)

    return pairs


class _Search:
    """Number of sorted targets below x, row by row. Ties may fall either way: the loss is smooth there.

    `torch.searchsorted` mispredicts a branch per step on CPU; halving by gathers is several times faster there.
    """

    def __init__(self, ordered: Tensor):
        self.ordered = ordered
        self.num_steps = ordered.shape[1].bit_length()
        if ordered.device.type == "cpu":
            spare = 2**self.num_steps - 1 - ordered.shape[1]
            self.table = torch.nn.functional.pad(ordered, (0, spare), value=math.inf)

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return torch.searchsorted(self.ordered, x)
        count = torch.zeros(x.shape, dtype=torch.long)
        for step in reversed(range(self.num_steps)):
            hit = self.table[:, 2**step - 1 :].gather(1, count) < x
            count.add_(hit.long(), alpha=2**step)
        return count


@_quantile_huber.register_fake
def _(predictions, targets, levels, weights, kappa, with_derivative):
    losses = predictions.new_empty(predictions.shape[0], predictions.shape[1], weights.shape[0])
    derivative = torch.empty_like(predictions) if with_derivative else predictions.new_empty(0)
    return losses, derivative


def _keep_derivative(ctx, inputs, output):
    ctx.set_materialize_grads(False)  # no zeros in place of the derivative's own gradient, which nobody asks for
    ctx.save_for_backward(inputs[3], output[1])


def _scale_derivative(ctx, grad_losses, _):
    weights, derivative = ctx.saved_tensors
    if grad_losses is None:
        return None, None, None, None, None, None
    grad_losses = grad_losses / derivative.shape[-1]
    # (R, C, W) x (W, M) as a sum of outer products, because autocast would round a matrix product.
    scale = grad_losses[..., 0, None] * weights[0]
    for w in range(1, weights.shape[0]):
        scale.addcmul_(grad_losses[..., w, None], weights[w])
    return scale.mul_(derivative), None, None, None, None, None


_quantile_huber.register_autograd(_scale_derivative, setup_context=_keep_derivative)
