from types import SimpleNamespace

import pytest
import torch

from modeling_dvpo.training.algorithms.critic_arguments import CriticArguments
from modeling_dvpo.training.algorithms.representation import (
    chosen_representation,
    describe_heads,
    require_inside,
    with_heads,
)
from modeling_dvpo.training.errors import ConfigError

BOTH = torch.tensor([0.0] * 70 + [1.0] * 30)


def chosen(returns, critic_loss=None, **settings):
    critic_args = CriticArguments(model_name_or_path="policy", **settings)
    return chosen_representation(critic_args, SimpleNamespace(critic_loss=critic_loss or {}), torch.as_tensor(returns))


def student_t(number=5000, seed=0):
    torch.manual_seed(seed)
    return torch.distributions.StudentT(1.5).sample((number,)) * 0.5


class TestAutomatic:
    def test_two_values(self):
        found = chosen(BOTH * 3 - 1)
        assert (found.value_head_type, found.value_support) == ("bernoulli", [-1.0, 2.0])
        assert found.reason == "the training returns are -1 or 2"

    def test_few_values_are_the_atoms(self):
        """Unevenly spaced ones, too: outliers of +-10 on a 0/1 reward are six values."""
        values = [-10.0, -9.0, 0.0, 1.0, 10.0, 11.0]
        found = chosen(values * 20)
        assert (found.value_head_type, found.value_support, found.value_projection) == (
            "categorical",
            values,
            "two_hot",
        )
        assert not found.value_clip

    def test_many_values_in_a_range_get_bins_with_a_margin(self):
        found = chosen(torch.linspace(0, 1, 3001))
        support = torch.tensor(found.value_support)
        assert (found.value_head_type, found.value_projection, len(support)) == ("categorical", "hl_gauss", 51)
        # 45 bins between 0 and 1 and three beyond either
        assert support[3].item() == pytest.approx(0, abs=1e-6) and support[-4].item() == pytest.approx(1)
        assert "bounded" in found.reason

    def test_few_rows_of_many_values_are_no_atoms(self):
        assert len(chosen(torch.linspace(0, 1, 30)).value_support) == 51

    def test_heavy_tails_get_bins_over_their_central_share(self):
        returns = student_t()
        found = chosen(returns)
        ordered = returns.sort().values
        assert len(found.value_support) == 101 and found.value_clip
        assert found.value_support[3] == pytest.approx(ordered[24].item())
        assert found.value_support[-4] == pytest.approx(ordered[-25].item())
        share = float(found.reason.split("; ")[1].split("%")[0])
        outside = (returns < found.value_support[0]) | (returns > found.value_support[-1])
        assert share == pytest.approx(100 * outside.double().mean().item(), abs=0.01)

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [({"num_quantiles": 1}, "a scalar critic"), ({"critic_loss": {"risk": 0}}, "critic_loss has terms")],
    )
    def test_settings_about_quantiles_mean_quantiles(self, settings, reason):
        found = chosen(BOTH, **settings)
        assert found.value_head_type == "linear" and found.value_support is None and reason in found.reason

    def test_equal_returns(self):
        assert chosen(torch.ones(9)).value_head_type == "linear"


class TestAskedFor:
    def test_bins_of_ones_own(self):
        found = chosen(torch.linspace(0, 1, 301), value_head_type="categorical", num_bins=21)
        assert len(found.value_support) == 21 and found.value_projection == "hl_gauss"
        found = chosen(BOTH, value_head_type="categorical", value_support=[0.0, 0.5, 1.0])
        assert (found.value_support, found.value_projection) == ([0.0, 0.5, 1.0], "two_hot")

    def test_a_central_share(self):
        found = chosen(student_t(), value_head_type="categorical", support_quantile=0.9)
        assert len(found.value_support) == 101 and found.value_clip

    def test_returns_beyond_a_support_are_named(self):
        message = r"2 of 3 training returns lie outside value_support, 0 to 1 \(they go from -1 to 5\)"
        with pytest.raises(ConfigError, match=message):
            chosen([-1.0, 0.5, 5.0], value_head_type="categorical", value_support=[0.0, 1.0])
        with pytest.raises(ConfigError, match="outside value_support"):
            chosen([-1.0, 0.5], value_head_type="bounded", value_support=[0.0, 1.0], num_quantiles=1)
        config = SimpleNamespace(value_head_type="categorical", value_support=[0.0, 1.0], value_clip=False)
        with pytest.raises(ConfigError, match="set fresh_heads to replace a critic's heads"):
            require_inside(config, torch.tensor([5.0]))
        config.value_clip = True
        require_inside(config, torch.tensor([5.0]))

    def test_returns_between_those_of_a_bernoulli_critic_are_named(self, recwarn):
        config = SimpleNamespace(value_head_type="bernoulli", value_support=[0.0, 1.0], value_clip=False)
        require_inside(config, BOTH)
        assert not recwarn.list
        with pytest.warns(UserWarning, match="heads are for returns of 0 or 1, and the training returns have other"):
            require_inside(config, torch.tensor([0.0, 0.5, 1.0]))

    def test_a_range_for_bounded_heads(self):
        assert chosen([-1.0, 0.5], value_head_type="bounded", num_quantiles=1).value_support == [-1.0, 0.5]

    @pytest.mark.parametrize(
        ("returns", "settings", "message"),
        [
            ([0.0, 0.5, 1.0], {}, r"have 3 values \(0, 0.5, 1\): use categorical or auto"),
            ([0.0, 1.0], {"value_support": [0.0, 2.0]}, r"have 2 values \(0, 1\)"),
        ],
    )
    def test_bernoulli_is_for_two_returns(self, returns, settings, message):
        with pytest.raises(ConfigError, match=message):
            chosen(returns, value_head_type="bernoulli", **settings)

    def test_what_it_fixes_of_the_heads(self):
        asked = CriticArguments(model_name_or_path="policy", value_head_type="auto", num_value_heads=5)
        found = with_heads(asked, chosen(BOTH))
        assert (found.value_head_type, found.value_support, found.num_value_heads) == ("bernoulli", [0.0, 1.0], 5)
        assert with_heads(asked, None).value_head_type is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_head_type": "gaussian"}, "must be one of auto, linear, monotone, categorical, bernoulli, bounded"),
        ({"value_projection": "dirac"}, "must be one of hl_gauss, two_hot, one_hot"),
        ({"num_bins": 5}, "num_bins is 5; it must be at least 10"),
        ({"support_quantile": 99}, "support_quantile is 99; it must be between 0.5 and 1"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        CriticArguments(model_name_or_path="policy", **settings)


def test_heads_in_words():
    config = SimpleNamespace(
        num_value_heads=3, num_quantiles=200, value_head_type="bernoulli", value_support=[0.0, 1.0]
    )
    assert describe_heads(config) == "3 heads x 200 quantiles of bernoulli heads, 2 atoms from 0 to 1"
    config = CriticArguments(model_name_or_path="p", num_value_heads=3, num_quantiles=1, value_head_type="linear")
    assert describe_heads(config) == "3 heads x 1 quantiles"
