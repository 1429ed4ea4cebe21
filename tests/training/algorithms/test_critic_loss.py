import pytest
import torch
from tiny_models import VOCABULARY, tiny_config

from modeling_dvpo import AutoModelForDistributionalValue, CriticLossConfig, distributional_gae
from modeling_dvpo.training.algorithms.critic_loss import critic_loss, critic_quantiles
from modeling_dvpo.training.algorithms.targets import Targets, monte_carlo_targets, target_returns
from modeling_dvpo.training.data.packing import RewardCollator

MONTE_CARLO = Targets(returns="monte_carlo", gamma=0.9, lam=0.95, target="index")
LAMBDA = Targets(returns="lambda", gamma=0.9, lam=0.6, target="index")
# every term is on, and the tails have several atoms, so that each term must add up
LOSS = CriticLossConfig(shift=0.5, shape=0.1, curvature=1e-3, alpha=0.5, beta=0.5)
# prompt and action tokens of each row; the last has two turns
SHAPES = ["ppaaaa", "paa", "pppaaaaa", "ppaaappaa"]


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    critic = AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), num_value_heads=2, num_quantiles=7)
    critic.fit_return_scale(torch.tensor([-1.0, 0.0, 2.0]), fresh_heads=True)
    with torch.no_grad():
        critic.quantile_heads.weight.normal_(0, 0.3)
    return critic.eval()


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(1)
    rows = []
    for shape in SHAPES:
        actions = torch.tensor([letter == "a" for letter in shape])
        rewards = torch.randn(len(shape), generator=generator) * actions
        ids = torch.randint(3, VOCABULARY, (len(shape),), generator=generator)
        rows.append({"input_ids": ids, "completion_mask": actions, "rewards": rewards})
    return rows


def collate(rows, packing):
    return RewardCollator(packing=packing, pad_token_id=0)(rows)


def returns_of(batch, targets):
    return lambda quantiles: target_returns(batch, quantiles, targets)


class TestTargets:
    def test_monte_carlo_by_hand(self):
        row = {
            "input_ids": torch.tensor([5, 6, 7, 8, 9]),
            "completion_mask": torch.tensor([False, True, True, False, True]),
            "rewards": torch.tensor([0.0, 1.0, 0.0, 0.0, 4.0]),
        }
        # the user's token between the turns is no step: 4, then .9 * 4, then 1 + .9 * .9 * 4
        expected = torch.tensor([[0.0, 4.24, 3.6, 0.0, 4.0]])
        torch.testing.assert_close(monte_carlo_targets(collate([row], packing=True), 0.9), expected)

    @pytest.mark.parametrize("packing", [True, False])
    @pytest.mark.parametrize("targets", [MONTE_CARLO, LAMBDA], ids=lambda targets: targets.returns)
    def test_equal_to_gae_of_each_row_alone(self, critic, rows, packing, targets):
        batch = collate(rows, packing)
        found = target_returns(batch, critic_quantiles(critic, batch), targets)[batch["completion_mask"]]
        expected = []
        for row in rows:
            with torch.no_grad():
                outputs = critic(row["input_ids"][None]).quantiles.mean(-2)
            before = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], dim=1)
            mask = row["completion_mask"][None]
            lam = 1.0 if targets.returns == "monte_carlo" else targets.lam
            _, returns = distributional_gae(row["rewards"][None], before, mask, gamma=targets.gamma, lam=lam)
            expected.append(returns[mask])
        assert found.shape[-1] == (1 if targets.returns == "monte_carlo" else 7) and not found.requires_grad
        wanted = torch.cat(expected)
        torch.testing.assert_close(found.expand_as(wanted), wanted, rtol=1e-5, atol=1e-5)

    def test_sampled_targets_are_random_and_repeatable(self, critic, rows):
        batch, targets = collate(rows, packing=True), Targets(returns="lambda", gamma=0.9, lam=0.6, target="sampled")
        quantiles = critic_quantiles(critic, batch)
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(target_returns(batch, quantiles, targets))
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


class TestLoss:
    def run(self, critic, batches, targets, *, gate):
        critic.zero_grad()
        num_items = sum(batch["completion_mask"].sum() for batch in batches)
        totals = {}
        for batch in batches:
            loss, terms = critic_loss(
                critic, batch, returns_of(batch, targets), LOSS, num_items=num_items, shift_gate=gate
            )
            loss.backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                totals[name] = totals.get(name, 0) + value
        return totals, {name: p.grad.clone() for name, p in critic.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize("gate", [True, False])
    @pytest.mark.parametrize("targets", [MONTE_CARLO, LAMBDA], ids=lambda targets: targets.returns)
    def test_micro_batches_and_layouts_add_up(self, critic, rows, targets, gate):
        """Loss, every term and every gradient: one packed batch, packed parts, padded, padded parts."""
        whole, gradients = self.run(critic, [collate(rows, True)], targets, gate=gate)
        assert whole["loss"] > 0 and gradients["quantile_heads.weight"].abs().max() > 0
        assert (whole["shift"] != 0) == gate
        assert (whole["shape"] != 0) == (targets.returns == "lambda")
        for packing, parts in [(True, [rows[:1], rows[1:]]), (False, [rows]), (False, [rows[:3], rows[3:]])]:
            totals, found = self.run(critic, [collate(part, packing) for part in parts], targets, gate=gate)
            torch.testing.assert_close(totals, whole, rtol=2e-5, atol=1e-6)
            torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-5)

    def test_underestimation_by_hand(self, critic, rows):
        batch = collate(rows, packing=True)
        mask = batch["completion_mask"]
        _, terms = critic_loss(
            critic, batch, returns_of(batch, MONTE_CARLO), LOSS, num_items=mask.sum(), shift_gate=False
        )
        with torch.no_grad():
            values = critic_quantiles(critic, batch).mean((-2, -1))[mask]
        # mean and scale of the returns -1, 0, 2
        gap = (monte_carlo_targets(batch, 0.9)[mask] - values).mean() / ((1 + 0 + 4) / 3 - (1 / 3) ** 2) ** 0.5
        torch.testing.assert_close(terms["underestimation"], gap)

    def test_a_filler_adds_nothing(self, critic, rows):
        filler = RewardCollator(packing=True)(rows[:1], filler=True)
        critic.zero_grad()
        loss, terms = critic_loss(critic, filler, returns_of(filler, LAMBDA), LOSS, num_items=10, shift_gate=True)
        loss.backward()
        assert loss == 0 and all(value == 0 for value in terms.values())
        assert all(p.grad is None or not p.grad.any() for p in critic.parameters())

    def test_the_loss_is_in_normalised_units(self, critic, rows):
        """Rewards and return scale times 10: the same loss."""
        batch = collate(rows, packing=True)
        mask = batch["completion_mask"]

        def loss_of(factor):
            scaled = {**batch, "rewards": batch["rewards"] * factor}
            mean, scale = critic.config.return_mean, critic.config.return_scale
            critic.config.return_mean, critic.config.return_scale = mean * factor, scale * factor
            try:
                returns = returns_of(scaled, LAMBDA)
                return critic_loss(critic, scaled, returns, LOSS, num_items=mask.sum(), shift_gate=True)[0]
            finally:
                critic.config.return_mean, critic.config.return_scale = mean, scale

        torch.testing.assert_close(loss_of(10.0), loss_of(1.0), rtol=1e-4, atol=1e-6)
