"""Advantages and target returns of every algorithm, against numbers worked by hand."""

import pytest
import torch
from torch.testing import assert_close

from modeling_dvpo.inference.risk_measures import risk_measure
from modeling_dvpo.returns import align_to_actions, distributional_gae, monte_carlo_returns
from modeling_dvpo.training.algorithms.advantages import (
    ALGORITHMS,
    bootstrap_quantiles,
    critic_advantages,
    group_advantages,
    length_adaptive_lam,
    whiten,
)


def scalar(*heads):
    """(1, T, N, 1) from one list of values a head."""
    return torch.tensor(heads).T[None, ..., None]


class TestGroups:
    # three prompts, their completions not side by side
    scores = torch.tensor([1.0, 2.0, 0.0, 5.0, 0.0, 2.0, 3.0])
    groups = torch.tensor([7, 3, 7, 5, 7, 3, 7])
    # prompt 7: mean of 1, 0, 0, 3 is 1; prompt 3 has equal scores, prompt 5 a single one
    centred = torch.tensor([0.0, 0.0, -1.0, 0.0, -1.0, 0.0, 2.0])

    def test_dr_grpo_by_hand(self):
        assert_close(group_advantages(self.scores, self.groups, standardize=False), self.centred)

    def test_grpo_by_hand(self):
        # squares of 0, -1, -1, 2 sum to 6; 6 / (4 - 1) = 2
        found = group_advantages(self.scores, self.groups, standardize=True)
        assert found.dtype == torch.float32
        assert_close(found, self.centred / (2**0.5 + 1e-4))
        assert_close(found[0] - found[2], torch.tensor(1 / (2**0.5 + 1e-4)))

    def test_no_difference_is_exactly_no_advantage(self):
        """0.1 is not a binary fraction: a rounding error in the mean, over epsilon, would be a signal."""
        scores, groups = torch.full((7,), 0.1), torch.zeros(7, dtype=torch.long)
        assert not group_advantages(scores, groups, standardize=True, epsilon=1e-12).any()

    def test_which_algorithm_does_what(self):
        assert ALGORITHMS["grpo"].standardize and not ALGORITHMS["dr_grpo"].standardize
        assert {name: a.aggregation for name, a in ALGORITHMS.items() if a.advantages == "group"} == {
            "grpo": "sequence",
            "dr_grpo": "constant",
        }


class TestCritic:
    def test_ppo_by_hand(self):
        """γ = λ = ½; the tokens between the actions are no steps. Values 1, 6, 4, and 6 at the end.

        Last: δ = 6 - 4 = 2 = A. Second: δ = ½·4 - 6 = -4, A = -4 + ¼·2 = -7/2. First: δ = ½·6 - 1 = 2,
        A = 2 - ¼·7/2 = 9/8. Returns: 6, then ½·6 = 3, then 3/2.
        """
        mask = torch.tensor([[False, True, True, False, True]])
        rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 6.0]])
        quantiles = scalar([99.0, 1.0, 6.0, 99.0, 4.0])
        advantages, returns = critic_advantages(rewards, quantiles, mask, gamma=0.5, lam=0.5, critic_lam=1.0)
        assert_close(advantages, torch.tensor([[0, 9 / 8, -7 / 2, 0, 2]]))
        assert_close(returns, torch.tensor([[0, 3 / 2, 3, 0, 6]])[..., None])
        _, returns = critic_advantages(rewards, quantiles, mask, gamma=0.5, lam=1.0, critic_lam=0.5)
        assert_close(returns, torch.tensor([[0, 1 + 9 / 8, 6 - 7 / 2, 0, 4 + 2]])[..., None])

    def test_dvpo_is_gae_on_the_mean_of_heads_and_quantiles(self):
        rewards, quantiles, mask = random_rollout()
        advantages, returns = critic_advantages(rewards, quantiles, mask, gamma=0.9, lam=0.7, critic_lam=0.4)
        options = {"gamma": 0.9, "lam": 0.7}
        scalar_gae, _ = distributional_gae(rewards, quantiles.mean((-2, -1))[..., None], mask, **options)
        assert_close(advantages, scalar_gae[..., 0], rtol=1e-5, atol=1e-5)
        per_quantile, _ = distributional_gae(rewards, quantiles.mean(-2), mask, **options)
        assert_close(advantages, per_quantile.mean(-1), rtol=1e-5, atol=1e-5)
        _, expected = distributional_gae(rewards, quantiles.mean(-2), mask, gamma=0.9, lam=0.4)
        assert_close(returns, expected)

    def test_monte_carlo_targets_are_one_atom_whatever_the_critic_says(self):
        rewards, quantiles, mask = random_rollout()
        _, returns = critic_advantages(rewards, quantiles, mask, gamma=0.9, lam=0.7, critic_lam=1.0)
        assert returns.shape == (*mask.shape, 1)
        assert_close(returns[..., 0], monte_carlo_returns(rewards, mask, gamma=0.9))

    def test_sampled_targets_are_passed_on(self):
        """With λ = ½, each atom of the last but one step is the value that follows or the reward, nothing between."""
        mask, rewards = torch.tensor([[True, True]]), torch.tensor([[0.0, 8.0]])
        quantiles = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 1, 64)
        options = {"gamma": 1.0, "lam": 0.5, "critic_lam": 0.5}
        _, sampled = critic_advantages(rewards, quantiles, mask, critic_target="sampled", **options)
        _, index = critic_advantages(rewards, quantiles, mask, critic_target="index", **options)
        assert set(sampled[0, 0].tolist()) == {2.0, 8.0} and set(index[0, 0].tolist()) == {5.0}

    @pytest.mark.parametrize(
        ("name", "level", "expected"),
        [
            ("expectation", None, -2.0),
            ("cvar", 0.5, -4.0),
            ("cvar", None, -4.0),
            ("upper_tail_mean", 0.5, 0.0),
            ("value_at_risk", None, -4.0),
            ("value_at_risk", 0.75, 0.0),
            ("lower_confidence", None, -4.0),
            ("lower_confidence", 0.5, -3.0),
            ("wang", 0.0, -2.0),
            ("spectral", 0.0, -2.0),
        ],
    )
    def test_risk_measures_by_hand(self, name, level, expected):
        """Heads (0, 2) and (2, 8) make the ensemble (1, 5); a reward of 1 gives the advantages 0 and -4."""
        quantiles = torch.tensor([[[[0.0, 2.0], [2.0, 8.0]]]]).expand(1, 2, 2, 2)
        mask, rewards = torch.tensor([[False, True]]), torch.tensor([[0.0, 1.0]])
        measure = risk_measure(name, level)
        advantages, _ = critic_advantages(
            rewards, quantiles, mask, gamma=1.0, lam=0.95, critic_lam=1.0, measure=measure
        )
        assert_close(advantages, torch.tensor([[0.0, expected]]))


class TestRobustBellman:
    """Values of the two heads: (9, 1), (1, 5), (5, 3); their means 5, 3, 4, their minima 1, 1, 3. γ = λ = ½."""

    quantiles = scalar([9.0, 1.0, 5.0], [1.0, 5.0, 3.0])
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = torch.tensor([[0.0, 0.0, 6.0]])

    def run(self, *, critic_lam=1.0, pessimistic=True, rewards=rewards, **options):
        return critic_advantages(
            rewards, self.quantiles, self.mask, gamma=0.5, lam=0.5, critic_lam=critic_lam, pessimistic=pessimistic,
            **options,
        )  # fmt: skip

    def test_by_hand(self):
        """Only the next state's value is the minimum: δ = 6 - 4 = 2, ½·3 - 3 = -3/2, ½·1 - 5 = -9/2."""
        advantages, _ = self.run()
        assert_close(advantages, torch.tensor([[-9 / 2 - 1 / 4, -3 / 2 + 1 / 2, 2]]))
        plain, _ = self.run(pessimistic=False)
        assert_close(plain, torch.tensor([[-7 / 2 - 1 / 8, -1 + 1 / 2, 2]]))

    @pytest.mark.parametrize(
        ("critic_lam", "expected"),
        [
            (0.0, [1 / 2, 3 / 2, 6.0]),  # ½ of the next minimum: the robust Bellman operator
            (0.5, [13 / 16, 9 / 4, 6.0]),  # ½ (½·3 + ½·6), then ½ (½·1 + ½·9/4)
            (1.0, [3 / 2, 3.0, 6.0]),  # the return, in which no value has a part
        ],
    )
    def test_targets_by_hand(self, critic_lam, expected):
        _, returns = self.run(critic_lam=critic_lam)
        assert_close(returns[0, :, 0], torch.tensor(expected))

    def test_disagreement_does_not_add_up_over_a_completion(self):
        """200 tokens whose heads differ by 0.2 (0.4 and 0.6), reward ½: targets stay within 0.1 of ½.

        V + A with the minimum in δ would at λ = 1 be ½ - 199 · 0.1.
        """
        quantiles, mask = scalar([0.4] * 200, [0.6] * 200), torch.ones(1, 200, dtype=torch.bool)
        rewards = torch.zeros(1, 200)
        rewards[0, -1] = 0.5
        for critic_lam in (0.0, 0.95, 0.999, 1.0):
            _, returns = critic_advantages(
                rewards, quantiles, mask, gamma=1.0, lam=0.95, critic_lam=critic_lam, pessimistic=True
            )
            assert returns.min() >= 0.4 - 1e-5 and returns.max() <= 0.5 + 1e-5

    def test_the_worst_head_bootstraps_too(self):
        """After the last token the heads say 8 and 4: δ = ½·4 - 4 = -2 in place of the reward."""
        after = torch.cat([self.quantiles[:, 1:], scalar([8.0], [4.0])], dim=1)  # the model's frame
        end = bootstrap_quantiles(after, self.mask, torch.tensor([True]), pessimistic=True)
        assert_close(end, torch.tensor([[4.0]]))
        advantages, returns = self.run(rewards=self.rewards * 0, bootstrap=end)
        assert_close(advantages[0, 2], torch.tensor(-2.0))
        assert_close(returns[0, 2], torch.tensor([2.0]))

    def test_heads_that_agree_are_ppo(self):
        rewards, quantiles, mask = random_rollout(num_heads=1)
        quantiles = quantiles.expand(-1, -1, 3, -1)
        options = {"gamma": 0.9, "lam": 0.7, "critic_lam": 0.8}
        robust = critic_advantages(rewards, quantiles, mask, pessimistic=True, **options)
        assert_close(robust, critic_advantages(rewards, quantiles, mask, **options), rtol=1e-5, atol=1e-5)


class TestBootstrap:
    """Row 0 (tokens 0-3) is cut after its action at 2, row 1 (tokens 4-8) ends. Heads of two quantiles each."""

    mask = torch.tensor([[False, True, True, False, False], [False, False, True, False, True]])
    truncated = torch.tensor([True, False])
    # head 0 says (t, 10 t) after token t of the layout, head 1 (t + 2, 10 t + 4)
    tokens = torch.arange(9.0)
    packed_output = torch.stack([tokens, 10 * tokens, tokens + 2, 10 * tokens + 4], -1).reshape(1, 9, 2, 2)
    segments = torch.tensor([[0] * 4 + [1] * 5])

    @property
    def padded_output(self):
        padding = torch.full((1, 1, 2, 2), 1000.0)
        return torch.cat([torch.cat([self.packed_output[:, :4], padding], 1), self.packed_output[:, 4:]])

    @property
    def packed_mask(self):
        return torch.cat([self.mask[0, :4], self.mask[1]])[None]

    def test_by_hand(self):
        """Read after the action at 2, not at the row's end: (2, 20), (4, 24) make (3, 22); a row that ended has 0."""
        expected = torch.tensor([[3.0, 22.0], [0.0, 0.0]])
        assert_close(bootstrap_quantiles(self.padded_output, self.mask, self.truncated), expected)
        packed = bootstrap_quantiles(self.packed_output, self.packed_mask, self.truncated, self.segments)
        assert_close(packed, expected[None])

    def test_the_worst_mean_keeps_its_distributions_shape(self):
        """Means of the heads are 11 and 14: the ensemble (3, 22) of mean 12.5 moves down by 1.5."""
        found = bootstrap_quantiles(self.padded_output, self.mask, self.truncated, pessimistic=True)
        assert_close(found, torch.tensor([[1.5, 20.5], [0.0, 0.0]]))

    @pytest.mark.parametrize("packed", [True, False])
    def test_a_truncated_row_ends_in_its_bootstrap(self, packed):
        """γ = ½: the last action of row 0 has no reward; (½·3, ½·22) is its target, its value stands before it."""
        output, mask, segments = (
            (self.packed_output, self.packed_mask, self.segments) if packed else (self.padded_output, self.mask, None)
        )
        rewards = torch.zeros(mask.shape)
        rewards[0 if packed else 1, -1] = 7.0
        advantages, returns = critic_advantages(
            rewards,
            align_to_actions(output, mask, segments),
            mask,
            gamma=0.5,
            lam=0.5,
            critic_lam=1.0,
            bootstrap=bootstrap_quantiles(output, mask, self.truncated, segments),
            segment_ids=segments,
        )
        # before token 2: (1, 10), (3, 14) -> (2, 12); δ = (1.5 - 2, 11 - 12)
        assert_close(returns[0, 2], torch.tensor([1.5, 11.0]))
        assert_close(advantages[0, 2], torch.tensor(-0.75))
        assert_close(returns[0, 1], torch.tensor([0.75, 5.5]))
        # row 1 ended: its reward and nothing after it
        assert_close(returns[0 if packed else 1, -1], torch.tensor([7.0, 7.0]))

    def test_without_actions(self):
        """A filler: nothing is read, nothing fails."""
        none = torch.zeros_like(self.mask)
        assert bootstrap_quantiles(self.padded_output, none, self.truncated).shape == (2, 2)
        assert bootstrap_quantiles(
            self.packed_output, torch.zeros_like(self.packed_mask), self.truncated, self.segments
        ).shape == (1, 2, 2)


def test_length_adaptive_lambda_by_hand():
    """VAPO's α = 0.05: 1 - 1/(0.05 · 100) = 0.8; up to 20 tokens 0; padding (length 0) stays in [0, 1]."""
    lam = length_adaptive_lam(torch.tensor([100.0, 1000.0, 20.0, 5.0, 0.0]), 0.05)
    assert_close(lam, torch.tensor([0.8, 0.98, 0.0, 0.0, 0.0]))


class TestWhiten:
    def test_by_hand(self):
        """1, 2 and 6: mean 3, squares 4 + 1 + 9, over n = 3."""
        advantages = [torch.tensor([[1.0, 99.0]]), torch.tensor([[2.0, 6.0]])]
        masks = [torch.tensor([[True, False]]), torch.tensor([[True, True]])]
        whitened, deviation = whiten(advantages, masks, lambda x: x)
        sd = (14 / 3) ** 0.5
        assert deviation == pytest.approx(sd)
        assert_close(whitened[0], torch.tensor([[-2 / sd, 0.0]]))
        assert_close(whitened[1], torch.tensor([[-1 / sd, 3 / sd]]))

    def test_any_cut_into_micro_batches_and_ranks_is_the_same(self):
        """A rank adds what the other one has, in the order of the sums: count, total, squares."""
        torch.manual_seed(0)
        advantages, mask = torch.randn(12, 5) * 3 + 100, torch.rand(12, 5) < 0.6
        (whole,), deviation = whiten([advantages], [mask], lambda x: x)
        assert whole[mask].mean().abs() < 1e-5 and whole[mask].std(correction=0).item() == pytest.approx(1, abs=1e-5)
        assert not whole[~mask].any()
        sizes, other = [1, 6, 2], advantages[9:][mask[9:]].double()
        mean = advantages[mask].double().mean()
        theirs = iter([other.new_tensor(len(other)), other.sum(), (other - mean).square().sum()])
        parts, own = whiten(advantages[:9].split(sizes), mask[:9].split(sizes), lambda x: x + next(theirs))
        assert own == pytest.approx(deviation)
        assert_close(torch.cat(parts), whole[:9])

    def test_equal_advantages_become_exactly_zero(self):
        advantages, mask = torch.full((3, 7), 0.1), torch.ones(3, 7, dtype=torch.bool)
        (whitened,), deviation = whiten([advantages], [mask], lambda x: x)
        assert deviation == 0 and not whitened.any()


def random_rollout(num_heads=3):
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(3, 9, generator=generator) < 0.6
    rewards = torch.randn(3, 9, generator=generator) * mask
    return rewards, torch.randn(3, 9, num_heads, 4, generator=generator), mask
