"""Which distribution a critic's fresh heads predict: what the training returns ask for."""

import warnings
from dataclasses import dataclass, replace

import torch

from modeling_dvpo.critic.categorical import outside
from modeling_dvpo.critic.loading import HEAD_SETTINGS

from ..errors import ConfigError

# returns that are atoms of their own: up to this many values, if each stands for ten returns or more on average
MOST_ATOMS = 32
RETURNS_PER_ATOM = 10
# the whole range is no more than this many times the central 99 %: no heavy tail
BOUNDED = 2.0
CENTRAL = 0.99
NUM_BINS, NUM_BINS_WIDE = 51, 101
# bins between the outermost return and the support's end: half a Gaussian of .75 bins would have its mean inside
MARGIN = 3


@dataclass(frozen=True)
class Representation:
    """Settings of fresh heads, and in words why."""

    value_head_type: str
    value_support: list[float] | None = None
    value_projection: str | None = None
    value_clip: bool = False
    reason: str = ""


def chosen_representation(critic_args, args, returns: torch.Tensor) -> Representation:
    """What `value_head_type` and its companions say, or, where they say nothing, what the returns ask for.

    `auto` is `bernoulli` for two values, `categorical` with an atom a value for few, with equally spaced bins for many
    in a bounded range, and with bins over their central share for heavy tails, where what lies outside counts as the
    ends. It is `linear` where the settings are about quantiles: one of them (a scalar critic), or `critic_loss`.

    Args:
        critic_args: `CriticArguments`.
        args: `TrainingArguments`.
        returns: of the training set, (tokens,), the reward's units.

    Raises:
        ConfigError: the heads that were asked for cannot hold these returns.
    """
    kind, support, projection = critic_args.value_head_type, critic_args.value_support, critic_args.value_projection
    returns = returns.detach().flatten().double().cpu()
    low, high = returns.min().item(), returns.max().item()
    values = returns.unique()
    if kind in (None, "auto"):
        return _automatic(critic_args, args, returns, values)
    if kind == "bernoulli":
        support = support or values.tolist()
        if len(values) != 2 or values.tolist() != support:
            shown = ", ".join(f"{value:g}" for value in values[:4].tolist())
            raise ConfigError(
                f"value_head_type is bernoulli, which is for two returns, and the training returns have {len(values)} "
                f"values ({shown}{', ...' if len(values) > 4 else ''}): use categorical or auto."
            )
        return Representation(kind, support)
    if kind == "bounded":
        return _checked(Representation(kind, support or [low, high]), returns)
    if kind != "categorical":
        return Representation(kind, support, projection)
    if support is None:
        chosen = _bins(returns, NUM_BINS if critic_args.support_quantile is None else NUM_BINS_WIDE, critic_args)
    else:
        chosen = Representation(kind, support, projection or _projection_for(support))
    return _checked(replace(chosen, value_clip=critic_args.support_quantile is not None), returns)


def _automatic(critic_args, args, returns, values) -> Representation:
    if critic_args.num_quantiles == 1:
        return Representation("linear", reason="a scalar critic, since num_quantiles is 1")
    if args.critic_loss:
        return Representation("linear", reason="critic_loss has terms of quantiles")
    if len(values) == 1:
        return Representation("linear", reason="all training returns are equal")
    if len(values) == 2:
        low, high = values.tolist()
        return Representation("bernoulli", [low, high], reason=f"the training returns are {low:g} or {high:g}")
    if len(values) <= MOST_ATOMS and len(returns) >= RETURNS_PER_ATOM * len(values):
        reason = f"the training returns have {len(values)} values"
        return Representation("categorical", values.tolist(), "two_hot", reason=reason)
    inner = _central(returns, CENTRAL)
    if values[-1] - values[0] <= BOUNDED * (inner[1] - inner[0]):
        return replace(_bins(returns, NUM_BINS, critic_args), reason="the training returns are many and bounded")
    chosen = _bins(returns, NUM_BINS_WIDE, replace(critic_args, support_quantile=CENTRAL))
    share = outside(returns, torch.tensor(chosen.value_support)).double().mean().item()
    reason = f"the training returns have heavy tails; {share:.2%} of them lie outside and count as the ends"
    return replace(chosen, value_clip=True, reason=reason)


def _central(returns: torch.Tensor, share: float) -> tuple[float, float]:
    ordered, cut = returns.sort().values, (1 - share) / 2
    last = len(ordered) - 1
    return ordered[int(last * cut)].item(), ordered[last - int(last * cut)].item()


def _bins(returns: torch.Tensor, number: int, critic_args) -> Representation:
    """Equally spaced atoms over the returns, or their central share, with a margin."""
    number = critic_args.num_bins or number
    low, high = _central(returns, critic_args.support_quantile or 1.0)
    if low == high:
        raise ConfigError(
            f"The training returns, or their central share, are all {low:g}: bins need a range. Use auto."
        )
    margin = (high - low) / (number - 1 - 2 * MARGIN) * MARGIN
    support = torch.linspace(low - margin, high + margin, number, dtype=torch.float64).tolist()
    return Representation("categorical", support, critic_args.value_projection or "hl_gauss")


def _projection_for(support: list[float]) -> str:
    gaps = torch.tensor(support, dtype=torch.float64).diff()
    return "hl_gauss" if len(support) > MOST_ATOMS and gaps.max() - gaps.min() <= 1e-3 * gaps.max() else "two_hot"


def _checked(chosen: Representation, returns: torch.Tensor) -> Representation:
    if chosen.value_support and not chosen.value_clip:
        _require_inside(chosen.value_support, returns)
    return chosen


def require_inside(config, returns: torch.Tensor) -> None:
    """Raises ConfigError for training returns beyond a loaded critic's support, unless they count as its ends.

    Warns where they lie between the two of Bernoulli heads, which then learn their mean and not their distribution.
    """
    if not config.value_support or config.value_clip:
        return
    _require_inside(config.value_support, returns)
    if config.value_head_type == "bernoulli" and len(returns.unique()) > 2:
        low, high = config.value_support
        warnings.warn(
            f"This critic's heads are for returns of {low:g} or {high:g}, and the training returns have other values "
            "between: their mean is learnt, and not their distribution. fresh_heads gives it heads that fit.",
            stacklevel=2,
        )


def _require_inside(support: list[float], returns: torch.Tensor) -> None:
    beyond = outside(returns.detach().flatten().double().cpu(), torch.tensor(support, dtype=torch.float64))
    if beyond.any():
        raise ConfigError(
            f"{int(beyond.sum())} of {beyond.numel()} training returns lie outside value_support, {support[0]:g} to "
            f"{support[-1]:g} (they go from {returns.min():g} to {returns.max():g}): set fresh_heads to replace a "
            "critic's heads, widen value_support for fresh ones, or set support_quantile, and they count as its ends."
        )


def with_heads(critic_args, chosen: Representation | None):
    """`CriticArguments` with the head settings that were chosen; none chosen: as they are, without `auto`."""
    if chosen is None:
        own = None if critic_args.value_head_type == "auto" else critic_args.value_head_type
        return replace(critic_args, value_head_type=own)
    return replace(critic_args, **{name: getattr(chosen, name) for name in HEAD_SETTINGS if hasattr(chosen, name)})


def describe_heads(config) -> str:
    """What a critic's heads are, in a few words."""
    heads = f"{config.num_value_heads} heads x {config.num_quantiles} quantiles"
    if not config.value_support:
        return heads if config.value_head_type == "linear" else f"{heads}, {config.value_head_type}"
    ends = f"{config.value_support[0]:g} to {config.value_support[-1]:g}"
    return f"{heads} of {config.value_head_type} heads, {len(config.value_support)} atoms from {ends}"
