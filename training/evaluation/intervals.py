"""How sure a share over states is, where states come in groups that share their luck."""

import torch
from torch import Tensor

from modeling_dvpo.metrics.calibration import wilson_interval


def share_interval(
    shares: Tensor, units: Tensor, confidence: float = 0.95, *, trials_per_state: int = 1
) -> tuple[float, float]:
    """Wilson's interval for the mean of `shares` over states, with as many trials as the units are worth.

    States of one response, and responses to one prompt, share their outcome: S states tell less than S independent
    ones would. The number of trials n is the one for which a share's binomial variance p (1 − p)/n equals the variance
    between units, Σ_u (Σ_{s in u} (x_s − p))² / S² · U/(U − 1) (Kish, 1965: S over the design effect); where no
    variance can be seen, or there is one unit, it is their number U.

    Args:
        shares: (S,) between 0 and 1.
        units: (S,) number of each state's unit, such as its prompt.
        confidence: between 0 and 1.
        trials_per_state: returns that each state's share is of; there are never more trials than returns.
    """
    shares = shares.double()
    mean = shares.mean().item()
    _, units = units.unique(return_inverse=True)
    num_units = int(units.max()) + 1
    deviations = torch.zeros(num_units, dtype=torch.float64).index_add_(0, units, shares - mean)
    variance = deviations.square().sum().item() / len(shares) ** 2
    trials = float(num_units)
    if num_units > 1 and variance > 1e-12:
        trials = mean * (1 - mean) / (variance * num_units / (num_units - 1))
        trials = min(trials, float(len(shares) * trials_per_state))
    return wilson_interval(mean * trials, trials, confidence)
