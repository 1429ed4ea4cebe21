"""Levels and risk functionals of a distribution given by equally weighted atoms.

A tensor `(..., M)` holds M atoms of weight 1/M; atom j of the *sorted* atoms is the τ_j-quantile, τ_j = (j - ½)/M.

Every mean-like functional here is one formula, a distorted expectation (Wang, 1996; Acerbi, 2002):

    ρ_G(Z) = Σ_j w_j Z_(j),    w_j = G(j/M) - G((j-1)/M),    G: [0, 1] -> [0, 1] non-decreasing, G(0) = 0, G(1) = 1

| functional                  | G(u)                           | equals the mean at |
|-----------------------------|--------------------------------|--------------------|
| `expectation`               | u                              | always             |
| `cvar(alpha)`               | min(u/α, 1)                    | α = 1              |
| `upper_tail_mean(beta)`     | max(0, (u - 1 + β)/β)          | β = 1              |
| `spectral_risk(eta)`        | (1 - e^{-ηu}) / (1 - e^{-η})   | η = 0              |
| `wang_risk(shift)`          | Φ(Φ⁻¹(u) + shift)              | shift = 0          |

Because G is taken at the atoms' edges, a boundary atom counts by exactly the fraction of it that lies in the tail:
`cvar([1, 2, 3, 4], 0.375)` is (1 + ½·2)/1.5 = 4/3.

Common to all: atoms `(..., M)` of any floating dtype, sorted or not (they are sorted here, and gradients follow the
permutation; `assume_sorted=True` skips that); the result `(...)` is float32, or float64 for float64 atoms.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def quantile_levels(num_quantiles: int, *, device: torch.device | str | None = None, dtype=torch.float32) -> Tensor:
    """Midpoint levels τ_j = (j - ½)/M, j = 1..M, of shape `(M,)` (QR-DQN, arXiv:1710.10044, Lemma 2)."""
    if isinstance(num_quantiles, bool) or int(num_quantiles) != num_quantiles or num_quantiles < 1:
        raise ValueError(f"num_quantiles must be a whole number of at least 1, got {num_quantiles!r}.")
    atoms = torch.arange(int(num_quantiles), dtype=torch.float64)
    return ((atoms + 0.5) / num_quantiles).to(device=device, dtype=dtype)


def expectation(quantiles: Tensor) -> Tensor:
    """Mean of the atoms: `(..., M) -> (...)`."""
    return _atoms(quantiles).mean(dim=-1)


def value_at_risk(quantiles: Tensor, alpha: float, *, assume_sorted: bool = False) -> Tensor:
    """VaR_α = inf{z : F(z) >= α}, the ⌈αM⌉-th smallest atom: `(..., M) -> (...)`, 0 < α <= 1.

    α = ½ is the (lower) median, α = 1 the largest atom. Not a distorted mean of the table above: one atom has all
    the weight, and all the gradient.
    """
    _check_share("alpha", alpha)
    atoms = _sorted_atoms(quantiles, assume_sorted)
    # α·M is rounded in binary: 0.07 · 100 is 7.000000000000001, yet the 7th atom is meant.
    position = math.ceil(alpha * atoms.shape[-1] - 1e-9)
    return atoms[..., max(position, 1) - 1]


def cvar(quantiles: Tensor, alpha: float, *, assume_sorted: bool = False) -> Tensor:
    """CVaR_α, the mean of the lowest α share of the atoms: `(..., M) -> (...)`, 0 < α <= 1.

    α = 1 is the mean; α <= 1/M the smallest atom (Rockafellar & Uryasev, 2000).
    """
    _check_share("alpha", alpha)
    return distorted_expectation(quantiles, lambda u: (u / alpha).clamp(max=1), assume_sorted=assume_sorted)


def upper_tail_mean(quantiles: Tensor, beta: float, *, assume_sorted: bool = False) -> Tensor:
    """UTM_β, the mean of the highest β share of the atoms: `(..., M) -> (...)`, 0 < β <= 1.

    The mirror of `cvar`: UTM_β(Z) = -CVaR_β(-Z).
    """
    _check_share("beta", beta)
    return distorted_expectation(
        quantiles, lambda u: ((u - 1 + beta) / beta).clamp(min=0), assume_sorted=assume_sorted
    )


def spectral_risk(quantiles: Tensor, spectrum: float | Tensor = 1.0, *, assume_sorted: bool = False) -> Tensor:
    """Spectral risk Σ_j φ_j Z_(j): `(..., M) -> (...)` (Acerbi, 2002).

    `spectrum` is either a number η, the exponential spectrum φ(u) ∝ e^{-ηu} (η > 0 averse to risk, 0 the mean,
    η < 0 seeking it), or a tensor `(M,)` of non-negative weights from the lowest atom to the highest, which is
    divided by its sum.
    """
    if not isinstance(spectrum, Tensor):
        eta = float(spectrum)
        if not math.isfinite(eta):
            raise ValueError(f"spectrum must be finite, got {spectrum!r}.")
        # e^{-ηu} overflows for a large negative η; the mirrored form, with e^{η(1-u)}, does not.
        if eta >= 0:
            rise = lambda u: -torch.expm1(-eta * u)  # noqa: E731
        else:
            rise = lambda u: torch.exp(eta * (1 - u)) - math.exp(eta)  # noqa: E731
        total = -math.expm1(-abs(eta))
        distortion = (lambda u: rise(u) / total) if total > 0 else (lambda u: u)
        return distorted_expectation(quantiles, distortion, assume_sorted=assume_sorted)
    atoms = _sorted_atoms(quantiles, assume_sorted)
    if spectrum.shape != atoms.shape[-1:]:
        raise ValueError(
            f"spectrum has shape {tuple(spectrum.shape)}; one weight per atom is needed, ({atoms.shape[-1]},)."
        )
    weights = spectrum.to(atoms)
    if not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError("spectrum needs weights >= 0, at least one of them positive.")
    return (atoms * (weights / weights.sum())).sum(dim=-1)


def wang_risk(quantiles: Tensor, shift: float, *, assume_sorted: bool = False) -> Tensor:
    """Wang's transform, G(u) = Φ(Φ⁻¹(u) + shift): `(..., M) -> (...)` (Wang, 2000; used in IQN, arXiv:1806.06923).

    shift > 0 is averse to risk: for a normal distribution the result is its mean minus `shift` standard deviations.
    """
    if not math.isfinite(shift):
        raise ValueError(f"shift must be finite, got {shift!r}.")
    return distorted_expectation(
        quantiles, lambda u: torch.special.ndtr(torch.special.ndtri(u) + shift), assume_sorted=assume_sorted
    )


def lower_confidence(quantiles: Tensor, width: float = 1.0) -> Tensor:
    """Mean minus `width` standard deviations of the atoms (population form): `(..., M) -> (...)`.

    width = 0 is the mean. Atoms that are all equal give their value, with the gradient of the mean.
    """
    if not math.isfinite(width):
        raise ValueError(f"width must be finite, got {width!r}.")
    atoms = _atoms(quantiles)
    return atoms.mean(dim=-1) - width * atoms.std(dim=-1, correction=0)


def distorted_expectation(
    quantiles: Tensor, distortion: Callable[[Tensor], Tensor], *, assume_sorted: bool = False
) -> Tensor:
    """Σ_j [G(j/M) - G((j-1)/M)] Z_(j) for any distortion G: `(..., M) -> (...)`.

    `distortion` maps a float64 tensor of levels in [0, 1] to one of the same shape, with G(0) = 0 and G(1) = 1.
    """
    atoms = _sorted_atoms(quantiles, assume_sorted)
    num_atoms = atoms.shape[-1]
    edges = torch.arange(num_atoms + 1, dtype=torch.float64) / num_atoms
    weights = distortion(edges).diff().to(atoms)
    return (atoms * weights).sum(dim=-1)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} is a share of the atoms and must lie in (0, 1], got {share!r}.")


def _atoms(quantiles: Tensor) -> Tensor:
    if quantiles.dim() == 0 or quantiles.shape[-1] == 0:
        raise ValueError(f"quantiles needs atoms in its last dimension, got shape {tuple(quantiles.shape)}.")
    if not quantiles.is_floating_point():
        raise ValueError(f"quantiles must be floating point, got {quantiles.dtype}.")
    return quantiles if quantiles.dtype == torch.float64 else quantiles.float()


def _sorted_atoms(quantiles: Tensor, assume_sorted: bool) -> Tensor:
    atoms = _atoms(quantiles)
    return atoms if assume_sorted else atoms.sort(dim=-1).values
