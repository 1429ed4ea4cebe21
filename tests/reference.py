"""Slow, obvious implementations that the tests compare the package with. float64, loops, one line per definition."""

import math

import torch
from torch import Tensor


def quantile_huber(q: Tensor, y: Tensor, kappa: float, levels=None, level_weights=None) -> Tensor:
    """All pairs of (..., M) and (..., K), by definition; differentiable in q. Leading dimensions broadcast."""
    q, y = q.double(), y.detach().double()
    num = q.shape[-1]
    levels = (torch.arange(num).double() + 0.5) / num if levels is None else levels.double()
    weights = torch.ones(num).double() if level_weights is None else level_weights.double()
    u = y[..., None, :] - q[..., :, None]
    huber = torch.where(u.abs() <= kappa, 0.5 * u**2, kappa * (u.abs() - 0.5 * kappa))
    check = (levels[:, None] - (u < 0).double()).abs()
    return (weights[:, None] * check * huber / kappa).mean((-1, -2))


def normal_atoms(count: int, mean: float = 0.0, sd: float = 1.0) -> Tensor:
    """The quantiles of a normal distribution at `count` midpoint levels."""
    return mean + sd * torch.special.ndtri((torch.arange(count).double() + 0.5) / count)


def cvar(z: Tensor, alpha: float) -> Tensor:
    """(..., M) -> (...), differentiable: weights of the lowest share, one atom at a time."""
    z = z.sort(-1).values
    num, left, total = z.shape[-1], alpha, 0.0
    for j in range(num):
        part = max(0.0, min(left, 1 / num))
        total = total + part * z[..., j]
        left -= part
    return total / alpha


def utm(z: Tensor, beta: float) -> Tensor:
    return -cvar(-z, beta)


def var(z: Tensor, alpha: float) -> Tensor:
    """Smallest atom with at least a share alpha of the atoms at or under it."""
    z = z.sort(-1).values
    for j in range(z.shape[-1]):
        if (j + 1) / z.shape[-1] >= alpha - 1e-9:
            return z[..., j]
    raise AssertionError


def gae(rewards, quantiles, mask, gamma, lam, bootstrap=None, segment_ids=None):
    """Token loop, index-wise target. bootstrap (B, M) or (B, S, M); returns float64 advantages and returns."""
    rewards, quantiles = rewards.double(), quantiles.double()
    num_rows, num_tokens, num_quantiles = quantiles.shape
    advantages, returns = torch.zeros_like(quantiles), torch.zeros_like(quantiles)
    for b in range(num_rows):
        row_lam = float(lam[b]) if isinstance(lam, Tensor) else lam
        steps = [t for t in range(num_tokens) if mask[b, t]]
        segments = [0 if segment_ids is None else int(segment_ids[b, t]) for t in steps]
        order = list(dict.fromkeys(segments))
        for index, segment in enumerate(order):
            chain = [t for t, s in zip(steps, segments, strict=True) if s == segment]
            if bootstrap is None:
                next_value = torch.zeros(num_quantiles).double()
            else:
                next_value = (bootstrap[b] if bootstrap.dim() == 2 else bootstrap[b, index]).double()
            advantage = torch.zeros(num_quantiles).double()
            for t in reversed(chain):
                delta = rewards[b, t] + gamma * next_value - quantiles[b, t]
                advantage = delta + gamma * row_lam * advantage
                advantages[b, t], returns[b, t] = advantage, quantiles[b, t] + advantage
                next_value = quantiles[b, t]
    return advantages, returns


def to_levels(y: Tensor, num: int) -> Tensor:
    """Sorted (K,) atoms at midpoint levels, read at `num` midpoint levels by linear interpolation, flat outside."""
    y = sorted(float(value) for value in y)
    out = []
    for j in range(num):
        place = (j + 0.5) / num * len(y) - 0.5
        place = min(max(place, 0.0), len(y) - 1.0)
        low = min(math.floor(place), len(y) - 1)
        high = min(low + 1, len(y) - 1)
        out.append(y[low] + (place - low) * (y[high] - y[low]))
    return torch.tensor(out).double()


def critic_terms(quantiles: Tensor, returns: Tensor, mask: Tensor, config, num_items=None) -> dict[str, Tensor]:
    """Every term of the composite loss, state by state, in float64; differentiable in `quantiles`."""
    form, alpha, beta = config.form, config.alpha, config.beta
    num_heads, num = quantiles.shape[-2:]
    count = int(mask.sum()) if num_items is None else num_items
    omega = torch.exp(-config.risk_aversion * (torch.arange(num).double() + 0.5) / num)
    omega = omega / omega.mean()
    zero = quantiles.double().sum() * 0
    names = ("quantile", "risk", "cvar", "gain", "shift", "shape", "curvature", "consistency")
    total = dict.fromkeys(names, zero)
    underestimate = zero
    for b, t in mask.nonzero().tolist():
        q, y = quantiles[b, t].double(), returns[b, t].double()
        z = q.mean(0).sort().values
        state = dict.fromkeys(names, zero)
        if num_heads > 1:
            pairs = [(i, j) for i in range(num_heads) for j in range(i)]
            state["consistency"] = sum(((q[i] - q[j]) ** 2).mean() for i, j in pairs) / len(pairs)
        if num == 1:
            state["quantile"] = ((q - y.mean()) ** 2).mean()
        else:
            state["quantile"] = sum(quantile_huber(head, y, config.kappa) for head in q) / num_heads
            state["risk"] = sum(quantile_huber(head, y, config.kappa, level_weights=omega) for head in q) / num_heads
            if form == "paper":
                cvar_of_y, utm_of_y = cvar(y, alpha), utm(y, beta)
                state["shift"] = (y.mean() - z.mean()).clamp(min=0)
            else:
                low, high = var(z, alpha).detach(), var(z, 1 - beta).detach()
                cvar_of_y = (low - (low - y).clamp(min=0) / alpha).mean()
                utm_of_y = (high + (y - high).clamp(min=0) / beta).mean()
                underestimate = underestimate + (y.mean() - z.mean())
            state["cvar"] = (cvar(z, alpha) - cvar_of_y) ** 2
            state["gain"] = (utm(z, beta) - utm_of_y) ** 2
            if form == "paper" or len(y) > 1:
                y_levels = to_levels(y, num)
                num_low, num_up = math.ceil(alpha * num - 1e-9), math.ceil(beta * num - 1e-9)
                state["shape"] = (variance(z[:num_low]) - variance(y_levels[:num_low])).clamp(min=0) + (
                    variance(y_levels[num - num_up :]) - variance(z[num - num_up :])
                ).clamp(min=0)
                for size, side in ((num_low, slice(0, num_low)), (num_up, slice(num - num_up, num))):
                    if size >= 3:
                        bend = [num**2 * (x[side][2:] - 2 * x[side][1:-1] + x[side][:-2]) for x in (z, y_levels)]
                        state["curvature"] = state["curvature"] + (bend[1] - bend[0]).clamp(min=0).mean()
        for name in names:
            total[name] = total[name] + state[name] / count
    if form == "calibrated":
        total["shift"] = (underestimate / max(count, 1)).clamp(min=0)
    return total


def variance(x: Tensor) -> Tensor:
    return ((x - x.mean()) ** 2).mean()


def pairs_in_order(values: Tensor, truths: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Every pair of a group, one by one: how many are in order, ties half, and how many there are."""
    in_order, pairs = torch.zeros(num_groups).double(), torch.zeros(num_groups).double()
    for i in range(len(values)):
        for j in range(i):
            if groups[i] == groups[j] and truths[i] != truths[j]:
                sign = (truths[i] - truths[j]) * (values[i] - values[j])
                in_order[groups[i]] += 0.5 if sign == 0 else float(sign > 0)
                pairs[groups[i]] += 1
    return in_order, pairs


def variance_split(values: Tensor, returns: Tensor, groups: Tensor) -> tuple[float, float, float]:
    """Between, within and the share within, from each state's group mean; NaN where a variance is 0."""
    values, returns = values.double(), returns.double()
    of_group = [groups == group for group in groups]
    means = torch.stack([returns[mine].mean() for mine in of_group])
    predicted = torch.stack([values[mine].mean() for mine in of_group])
    true, error = variance(means), variance(means - predicted)
    own_true, own_error = ((returns - means) ** 2).mean(), ((returns - means - values + predicted) ** 2).mean()
    # 0 / 0 is NaN, and so is what else has no variance to explain
    return tuple(
        float(figure) if total > 1e-12 else math.nan
        for figure, total in (
            (1 - error / true, true),
            (1 - own_error / own_true, own_true),
            (own_true / (true + own_true), true + own_true),
        )
    )


def policy_loss(
    rows, *, temperature, aggregation, clip_low, clip_high, kl_coef, entropy_coef, max_completion_length
) -> Tensor:
    """Clipped policy loss of a whole update, token by token; differentiable in the rows' logits.

    rows: dicts of `logits` (T, V), `input_ids`, `mask`, `advantages`, `old` and `reference` log-probabilities (T,).
    """
    loss, num_tokens = torch.zeros(()).double(), sum(int(row["mask"].sum()) for row in rows)
    for row in rows:
        actions = row["mask"].nonzero()[:, 0].tolist()
        for t in actions:
            weight = {
                "token": 1 / num_tokens,
                "sequence": 1 / len(actions) / len(rows),
                "constant": 1 / max_completion_length / len(rows),
            }[aggregation]
            log_probs = (row["logits"][t - 1].double() / temperature).log_softmax(-1)
            log_prob, advantage = log_probs[row["input_ids"][t]], float(row["advantages"][t])
            ratio = (log_prob - float(row["old"][t])).exp()
            if advantage > 0 and ratio > 1 + clip_high:
                gain = (1 + clip_high) * advantage
            elif advantage < 0 and ratio < 1 - clip_low:
                gain = (1 - clip_low) * advantage
            else:
                gain = ratio * advantage
            x = log_prob - float(row["reference"][t])
            entropy = -sum(p.exp() * p for p in log_probs)
            loss = loss + weight * (kl_coef * ((-x).exp() - 1 + x) - gain - entropy_coef * entropy)
    return loss
