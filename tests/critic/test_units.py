import pytest
import torch

from modeling_dvpo.critic.units import return_units


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_mean_and_deviation_of_ordinary_returns():
    assert return_units(tensor(0, 0, 0, 1)) == (0.25, pytest.approx(0.1875**0.5))
    # one success in a thousand: most returns are equal, and a spread of 0 is no scale
    rare = return_units(torch.tensor([0.0] * 999 + [1.0]).double())
    assert rare == (pytest.approx(1e-3), pytest.approx((1e-3 * 0.999) ** 0.5))
    normal = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).double()
    assert return_units(normal) == (normal.mean().item(), normal.std(correction=0).item())


def test_median_and_spread_of_heavy_tails():
    """Student t with 1.5 degrees had a scale of 9.4, set by its most extreme labels, where half its spread is .88."""
    degrees, generator = 1.5, torch.Generator().manual_seed(0)
    normal = torch.randn(20_000, generator=generator).double()
    chi = torch.distributions.Chi2(tensor(degrees))
    torch.manual_seed(0)
    labels = 0.5 * normal / (chi.sample((20_000,))[:, 0] / degrees).sqrt()
    centre, scale = return_units(labels)
    assert abs(centre) < 0.02 and 0.6 < scale < 0.8 < labels.std(correction=0).item() / 3


def test_equal_returns():
    assert return_units(tensor(0.1, 0.1, 0.1)) == (0.1, 1.0)
