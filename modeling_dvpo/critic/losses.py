"""The critic's loss: quantile regression plus weighted terms on risk, tails and agreement of heads."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

# Named one by one: transformers ships a file with a model only if it is imported as `from .file import name`.
from .loss_terms import (
    bounded,
    consistency,
    lower_tail,
    quantile_and_risk,
    squared_error,
    tail_curvature,
    tail_shape,
    underestimate,
    upper_tail,
)

TERMS = ("quantile", "risk", "cvar", "gain", "shift", "shape", "curvature", "consistency")
# of squared units; a scalar critic's `quantile` is, too, and stays the square whose minimum is the mean
SQUARES = ("cvar", "gain", "shape", "consistency")


@dataclass(frozen=True, kw_only=True)
class CriticLossConfig:
    """Form, weights and constants of `dvpo_critic_loss`. A weight of 0 switches its term off.

    Of the defaults, alpha, beta and the weight of `risk` are DVPO's (arXiv:2512.03847); everything else is our choice,
    made on the figures in docs/loss.md.
    """

    form: Literal["calibrated", "paper"] = "calibrated"
    """`calibrated`: tail terms minimised by the true tail at any K; `paper`: the paper's, per state."""
    quantile: float = 1.0
    """Weight of the quantile Huber loss (eq. 3)."""
    risk: float = 0.1
    """Weight of the quantile Huber loss that favours low levels (eq. 4)."""
    cvar: float = 0.01
    """Weight of the lower tail's mean (eq. 5)."""
    gain: float = 0.01
    """Weight of the upper tail's mean (eq. 6)."""
    shift: float = 0.001
    """Weight of the pull against underestimation (eq. 7)."""
    shape: float = 0.001
    """Weight of the tails' variances (eq. 8)."""
    curvature: float = 1e-7
    """Weight of the tails' second differences (eq. 9), which are of the order of M² quantile gaps."""
    consistency: float = 0.1
    """Weight of the heads' disagreement (eq. 10)."""
    alpha: float = 0.1
    """Share of the atoms that form the lower tail."""
    beta: float = 0.1
    """Share of the atoms that form the upper tail."""
    kappa: float = 0.02
    """Half-width of the Huber loss's quadratic zone, in normalised units."""
    risk_aversion: float = 2.0
    """η of the level weights ω_j ∝ exp(-η τ_j) of `risk`."""

    def __post_init__(self):
        if self.form not in ("calibrated", "paper"):
            raise ValueError(f"form must be 'calibrated' or 'paper', got {self.form!r}.")
        for name in TERMS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a weight and must be finite and at least 0, got {getattr(self, name)!r}.")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is a share of the atoms and must lie in (0, 1], got {getattr(self, name)!r}."
                )
        if not 0 < self.kappa < math.inf:
            raise ValueError(f"kappa must be positive and finite, got {self.kappa!r}.")
        if not math.isfinite(self.risk_aversion):
            raise ValueError(f"risk_aversion must be finite, got {self.risk_aversion!r}.")

    @classmethod
    def paper(cls, **changes: Any) -> "CriticLossConfig":
        """The paper's loss: `form="paper"`, κ = 1, α = β = 0.1, risk weight 0.1; weights it does not give are ours.

        Sound only where the targets are distributions: see docs/loss.md for what it does to single sampled returns.
        """
        return cls(**{"form": "paper", "kappa": 1.0, "cvar": 0.1, "gain": 0.1, "shift": 0.1, "shape": 0.01, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CriticLossConfig":
        """The inverse of `to_dict`; keys left out keep their defaults, an unknown key raises."""
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}."
                raise ValueError(f"CriticLossConfig has no field {key!r}; {hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-ready dictionary of every field."""
        return dataclasses.asdict(self)


def dvpo_critic_loss(
    quantiles: Tensor,
    returns: Tensor,
    mask: Tensor,
    config: CriticLossConfig,
    *,
    num_items: int | float | Tensor | None = None,
    shift_gate: bool | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Composite critic loss of DVPO (arXiv:2512.03847, eqs. 3-11) on action-aligned tensors in normalised units.

        loss = Σ_term weight_term · term,    term = Σ_{states with mask} term(state) / num_items

    | term          | what it compares, per state                                                    |
    |---------------|--------------------------------------------------------------------------------|
    | `quantile`    | every head with the target atoms: quantile Huber loss, mean over all pairs     |
    | `risk`        | the same, low levels weighing more                                             |
    | `cvar`, `gain`| mean of the ensemble's lower / upper tail with the target's, squared           |
    | `shift`       | ReLU of mean(y) - mean(q): per state (`paper`) or of the batch (`calibrated`)  |
    | `shape`       | variance of the tails                                                          |
    | `curvature`   | second differences of the tails                                                |
    | `consistency` | the heads with one another                                                     |

    The formulas of both forms are in `loss_terms` and docs/loss.md. In the calibrated form a single target atom
    (K = 1) has no shape: `shape` and `curvature` are 0 there; and `cvar`, `gain`, `shape` and `consistency`, which are
    squares u² in each state, go on as 2 c |u| - c² where |u| > c = 100 normalised units (`loss_terms.bounded`), so
    that none grows faster than the return.

    One quantile (M = 1) is the scalar critic: `quantile` is the squared error of each head against mean_k y_k, mean
    over heads; `consistency` keeps its meaning, the other terms are 0.

    Args:
        quantiles: `(B, T, N, M)` head outputs of the state *before* each action, any floating dtype.
        returns: `(B, T, K)` target atoms; detached. Any K >= 1, in any order.
        mask: `(B, T)` bool, true at action tokens. Nothing is computed, or read, elsewhere.
        config: form, weights and constants.
        num_items: what sums are divided by; `None` for the number of action tokens here. Pass the number over all
            micro-batches and ranks, and the losses (and gradients) of these add up to those of the whole batch.
        shift_gate: for the calibrated `shift`, whether the *global* batch is underestimated, that is
            Σ (mean(y) - mean(q)) > 0. `None` decides from this call, which is right when it holds the whole batch.
            Given (bool, or a 0-dim tensor of 0 or 1), `shift` here is the gate times this call's signed share of the
            mean, so that the parts add up exactly. The paper's form has its ReLU in each state and ignores it.

    Returns:
        The loss, a 0-dim float32 tensor (float64 for float64 quantiles), and the eight terms by name: unweighted,
        detached 0-dim float32. A term of weight 0 is not computed and reads 0. An all-false mask gives loss 0 with
        zero gradients.
    """
    heads, targets = _masked_states(quantiles, returns, mask)
    if num_items is None:
        num_items = heads.shape[0]
    num_items = num_items.clamp(min=1) if isinstance(num_items, Tensor) else max(num_items, 1)

    totals = {name: states.sum() / num_items for name, states in _terms_by_state(heads, targets, config).items()}
    if config.form == "calibrated" and "shift" in totals:
        totals["shift"] = totals["shift"].clamp(min=0) if shift_gate is None else shift_gate * totals["shift"]
    loss = heads[:0].sum()  # zero, and on the graph even where every weight is 0
    for name, total in totals.items():
        loss = loss + getattr(config, name) * total
    zero = torch.zeros((), device=heads.device)
    return loss, {name: totals[name].detach().float() if name in totals else zero for name in TERMS}


def _masked_states(quantiles: Tensor, returns: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(R, N, M) and (R, K), checked; only states with mask true, at least float32."""
    if quantiles.dim() != 4:
        raise ValueError(f"quantiles must be (batch, tokens, heads, quantiles), got shape {tuple(quantiles.shape)}.")
    batch = quantiles.shape[:2]
    if returns.dim() != 3 or returns.shape[:2] != batch or returns.shape[2] == 0:
        raise ValueError(
            f"returns must be {(*batch, 'K')} with K >= 1 target atoms a token to match quantiles "
            f"{tuple(quantiles.shape)}, got shape {tuple(returns.shape)}; one return a token is returns[..., None]."
        )
    if mask.shape != batch or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool of shape {tuple(batch)}, got {mask.dtype} of shape {tuple(mask.shape)}.")
    dtype = torch.float64 if quantiles.dtype == torch.float64 else torch.float32
    return quantiles[mask].to(dtype), returns.detach()[mask].to(dtype)


def _terms_by_state(heads: Tensor, targets: Tensor, config: CriticLossConfig) -> dict[str, Tensor]:
    """Terms of positive weight, (R,) each; those that are 0 by definition are left out."""
    terms = _unbounded_terms(heads, targets, config)
    if config.form == "paper":
        return terms
    return {name: bounded(states) if name in SQUARES else states for name, states in terms.items()}


def _unbounded_terms(heads: Tensor, targets: Tensor, config: CriticLossConfig) -> dict[str, Tensor]:
    calibrated = config.form == "calibrated"
    scalar_critic = heads.shape[-1] == 1
    has_shape = not calibrated or targets.shape[-1] > 1
    terms = {}
    if config.consistency:
        terms["consistency"] = consistency(heads)
    if scalar_critic:
        if config.quantile:
            terms["quantile"] = squared_error(heads, targets)
        return terms
    if config.quantile or config.risk:
        quantile, risk = quantile_and_risk(heads, targets, config.kappa, config.risk_aversion)
        if config.quantile:
            terms["quantile"] = quantile
        if config.risk:
            terms["risk"] = risk
    if config.shift:
        gap = underestimate(heads, targets)
        terms["shift"] = gap if calibrated else gap.clamp(min=0)
    if config.cvar or config.gain or (has_shape and (config.shape or config.curvature)):
        atoms = heads.mean(dim=1).sort(dim=-1).values
        if config.cvar:
            terms["cvar"] = lower_tail(atoms, targets, config.alpha, calibrated=calibrated)
        if config.gain:
            terms["gain"] = upper_tail(atoms, targets, config.beta, calibrated=calibrated)
        if has_shape and config.shape:
            terms["shape"] = tail_shape(atoms, targets, config.alpha, config.beta)
        if has_shape and config.curvature:
            terms["curvature"] = tail_curvature(atoms, targets, config.alpha, config.beta)
    return terms
