import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from modeling_dvpo.returns import align_to_actions, distributional_gae, labels_from_returns, monte_carlo_returns


def rollout(num_rows=3, num_tokens=40, num_quantiles=5, seed=0, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_rows, num_tokens, generator=generator) < share
    rewards = torch.randn(num_rows, num_tokens, generator=generator) * mask
    quantiles = torch.randn(num_rows, num_tokens, num_quantiles, generator=generator)
    bootstrap = torch.randn(num_rows, num_quantiles, generator=generator)
    return rewards, quantiles, mask, bootstrap


def assert_matches_loop(rewards, quantiles, mask, gamma=1.0, lam=0.95, **options):
    ours = distributional_gae(rewards, quantiles, mask, gamma=gamma, lam=lam, **options)
    expected = reference.gae(rewards, quantiles, mask, gamma, lam, **options)
    largest = max(1.0, *(x.abs().max().item() for x in expected))
    assert_close(ours, expected, rtol=1e-5, atol=2e-5 * largest, check_dtype=False)


def test_two_turns_worked_by_hand():
    """Actions at 1, 2 and 5; γ = ½, λ = ½, one quantile; the step after token 2 is token 5.

    Token 5: δ = 8 + ½·16 - 4 = 12, A = 12, Y = 16.
    Token 2: δ = 0 + ½·4 - 6 = -4, A = -4 + ¼·12 = -1, Y = 5.
    Token 1: δ = 1 + ½·6 - 2 = 2, A = 2 - ¼ = 7/4, Y = 15/4.
    Stopping at the gap would give token 2 an A of -6; discounting the gap, something else again.
    """
    mask = torch.tensor([[False, True, True, False, False, True, False]])
    quantiles = torch.tensor([[99.0, 2.0, 6.0, 99.0, 99.0, 4.0, 99.0]])[..., None]
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 8.0, 0.0]])
    advantages, returns = distributional_gae(
        rewards, quantiles, mask, gamma=0.5, lam=0.5, bootstrap=torch.tensor([[16.0]])
    )
    assert_close(advantages[0, :, 0], torch.tensor([0, 7 / 4, -1, 0, 0, 12, 0]))
    assert_close(returns[0, :, 0], torch.tensor([0, 15 / 4, 5, 0, 0, 16, 0]))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 4),
    st.integers(1, 70),
    st.sampled_from([0.0, 1e-6, 0.5, 0.99, 1.0]),
    st.sampled_from([0.0, 1e-6, 0.3, 0.95, 1.0]),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_equals_the_token_loop(num_rows, num_tokens, gamma, lam, share, truncated, packed, seed):
    rewards, quantiles, mask, bootstrap = rollout(num_rows, num_tokens, 3, seed, share)
    segment_ids, generator = None, torch.Generator().manual_seed(seed + 1)
    if packed:
        segment_ids = (torch.rand(num_rows, num_tokens, generator=generator) < 0.15).cumsum(1)
        bootstrap = torch.randn(num_rows, num_tokens, 3, generator=generator)
        lam = lam ** torch.arange(1.0, num_rows + 1)  # a λ a row
    bootstrap = bootstrap if truncated else None
    assert_matches_loop(rewards, quantiles, mask, gamma, lam, bootstrap=bootstrap, segment_ids=segment_ids)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.999), (0.5, 0.01)])
def test_long_sequences_stay_accurate(gamma, lam):
    rewards, quantiles, mask, bootstrap = rollout(2, 4096, 3, share=0.9)
    assert_matches_loop(rewards, quantiles, mask, gamma, lam, bootstrap=bootstrap)


def test_packing_changes_nothing():
    """Two sequences in two rows, or one behind the other in one row, each with its λ: the same numbers."""
    rewards, quantiles, mask, bootstrap = rollout(2, 20)
    lam = torch.tensor([0.2, 0.9])
    apart = distributional_gae(rewards, quantiles, mask, gamma=0.9, lam=lam, bootstrap=bootstrap)
    advantages, returns = distributional_gae(
        rewards.reshape(1, 40), quantiles.reshape(1, 40, 5), mask.reshape(1, 40), gamma=0.9,
        bootstrap=bootstrap[None], segment_ids=torch.arange(2).repeat_interleave(20)[None],
        lam=lam.repeat_interleave(20)[None],
    )  # fmt: skip
    assert_close((advantages.reshape(2, 20, 5), returns.reshape(2, 20, 5)), apart)


@pytest.mark.parametrize("target", ["index", "sampled"])
def test_a_lambda_per_token_is_the_rows_lambda(target):
    """Constant within a row it is λ per row; what stands outside the mask is not used."""
    rewards, quantiles, mask, bootstrap = rollout()
    by_row = torch.tensor([0.0, 0.7, 1.0])

    def gae(lam):
        options = {"gamma": 0.9, "bootstrap": bootstrap, "target": target}
        return distributional_gae(
            rewards, quantiles, mask, lam=lam, generator=torch.Generator().manual_seed(0), **options
        )

    assert_close(gae(torch.where(mask, by_row[:, None], 0.3)), gae(by_row))
    assert not torch.equal(gae(0.7)[1][0], gae(by_row)[1][0])


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("target", ["index", "sampled"])
def test_padding_changes_nothing_even_if_it_holds_nan(left, target):
    rewards, quantiles, mask, bootstrap = rollout(1, 30)
    quantiles[~mask] = float("nan")
    # λ = 1 draws nothing at random; the index target is tested at a λ that uses values.
    options = {"lam": 1.0 if target == "sampled" else 0.7, "bootstrap": bootstrap, "target": target}
    plain = distributional_gae(rewards, quantiles, mask, **options)
    pad = lambda x, value: torch.nn.functional.pad(x.movedim(1, -1), (left, 7 - left), value=value).movedim(-1, 1)  # noqa: E731
    padded = distributional_gae(pad(rewards, 0.0), pad(quantiles, float("nan")), pad(mask, False), **options)
    assert_close(padded, tuple(pad(one, 0.0) for one in plain))
    assert all((one[~mask] == 0).all() and (one[mask] != 0).all() for one in plain)


def test_mean_over_quantiles_is_scalar_gae_on_the_mean():
    rewards, quantiles, mask, bootstrap = rollout()
    lam = torch.tensor([0.2, 0.95, 1.0])
    advantages, _ = distributional_gae(rewards, quantiles, mask, gamma=0.9, lam=lam, bootstrap=bootstrap)
    scalar, _ = distributional_gae(
        rewards, quantiles.mean(-1, keepdim=True), mask, gamma=0.9, lam=lam, bootstrap=bootstrap.mean(-1, keepdim=True)
    )
    assert_close(advantages.mean(-1), scalar[..., 0])


def test_lambda_one_is_monte_carlo_and_lambda_zero_is_one_step():
    rewards, quantiles, mask, _ = rollout()
    _, returns = distributional_gae(rewards, quantiles, mask, gamma=0.9, lam=1.0)
    outcomes = monte_carlo_returns(rewards, mask, gamma=0.9)
    assert_close(returns, outcomes[..., None].expand_as(returns))
    row = mask[0].nonzero().flatten()
    total = sum(0.9**i * rewards[0, t] for i, t in enumerate(row.tolist()))
    assert_close(outcomes[0, row[0]], total)
    _, one_step = distributional_gae(rewards, quantiles, mask, gamma=0.9, lam=0.0)
    assert_close(one_step[0, row[0]], rewards[0, row[0]] + 0.9 * quantiles[0, row[1]])


def test_monte_carlo_returns_of_packed_rows():
    rewards = torch.tensor([[0.0, 1.0, 2.0, 0.0, 4.0]])
    mask = torch.tensor([[False, True, True, False, True]])
    segment_ids = torch.tensor([[0, 0, 0, 1, 1]])
    assert_close(monte_carlo_returns(rewards, mask), torch.tensor([[0.0, 7.0, 6.0, 0.0, 4.0]]))
    assert_close(
        monte_carlo_returns(rewards, mask, segment_ids=segment_ids), torch.tensor([[0.0, 3.0, 2.0, 0.0, 4.0]])
    )


def test_sampled_target_draws_each_atom_from_the_lambda_return():
    """Three steps, values 1, 10, 100 (all atoms), reward 1000 at the end, λ = ¼.

    The first step's atoms: 10 with probability ¾, 100 with ¾·¼, 1000 with 1/16; the index target is their mean.
    """
    num_atoms = 40_000
    quantiles = torch.tensor([1.0, 10.0, 100.0])[None, :, None].expand(1, 3, num_atoms)
    rewards, mask = torch.tensor([[0.0, 0.0, 1000.0]]), torch.ones(1, 3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    _, sampled = distributional_gae(rewards, quantiles, mask, lam=0.25, target="sampled", generator=generator)
    shares = [(sampled[0, 0] == value).float().mean().item() for value in (10, 100, 1000)]
    assert shares == pytest.approx([3 / 4, 3 / 16, 1 / 16], abs=0.01)
    _, index = distributional_gae(rewards, quantiles, mask, lam=0.25)
    assert sampled[0, 0].mean().item() == pytest.approx(index[0, 0, 0].item(), rel=0.04)
    again = torch.Generator().manual_seed(0)
    _, repeated = distributional_gae(rewards, quantiles, mask, lam=0.25, target="sampled", generator=again)
    assert torch.equal(sampled, repeated)


def test_sampled_target_keeps_the_spread_that_the_index_target_loses():
    """A Bernoulli(½) outcome after 30 steps with an uninformed critic: variance ¼ is true."""
    generator = torch.Generator().manual_seed(0)
    num_rows, num_tokens, num_atoms = 200, 30, 50
    coin = (torch.arange(num_atoms) >= num_atoms / 2).float()
    quantiles = coin.expand(num_rows, num_tokens, num_atoms)
    rewards = torch.zeros(num_rows, num_tokens)
    rewards[:, -1] = (torch.rand(num_rows, generator=generator) < 0.5).float()
    mask = torch.ones_like(rewards, dtype=torch.bool)
    pooled = {
        target: distributional_gae(rewards, quantiles, mask, lam=0.95, target=target, generator=generator)[1][:, 0]
        for target in ("index", "sampled")
    }
    assert pooled["sampled"].var().item() == pytest.approx(0.25, abs=0.01)
    assert pooled["index"].var().item() < 0.22


def test_outputs_are_float32_and_carry_no_gradient():
    rewards, quantiles, mask, _ = rollout()
    advantages, returns = distributional_gae(rewards, quantiles.bfloat16().requires_grad_(), mask)
    assert advantages.dtype == returns.dtype == torch.float32 and not returns.requires_grad
    assert distributional_gae(rewards, quantiles.double(), mask)[0].dtype == torch.float64
    quantiles_before = quantiles.clone()
    distributional_gae(rewards, quantiles, torch.ones_like(mask))
    assert torch.equal(quantiles, quantiles_before), "inputs are left as they were"


def test_no_actions_give_zeros():
    rewards, quantiles, mask, bootstrap = rollout()
    outputs = distributional_gae(rewards * 0, quantiles, mask & False, bootstrap=bootstrap)
    assert_close(outputs, (torch.zeros_like(quantiles),) * 2)


def test_alignment_shifts_by_one_and_a_value_never_sees_its_own_action():
    """The critic is a running sum of tokens: changing token t must not change the value used for action t."""
    tokens = torch.tensor([[5.0, 1.0, 2.0, 4.0]])
    mask = torch.tensor([[False, True, True, True]])
    assert_close(align_to_actions(tokens.cumsum(1), mask), torch.tensor([[0.0, 5.0, 6.0, 8.0]]))
    for t in (1, 2, 3):
        changed = tokens.clone()
        changed[0, t] += 10
        before, after = (align_to_actions(x.cumsum(1)[..., None, None], mask) for x in (tokens, changed))
        assert torch.equal(before[:, : t + 1], after[:, : t + 1])
        assert t == 3 or not torch.equal(before[:, t + 1], after[:, t + 1])


def test_labels_are_the_inverse_of_alignment():
    mask = torch.tensor([[False, True, False, True], [False, False, True, True]])
    returns = torch.arange(1.0, 9.0).reshape(2, 4)
    labels = labels_from_returns(returns, mask)
    assert_close(labels, torch.tensor([[2.0, -100, 4, -100], [-100, 7, 8, -100]]))
    assert_close(align_to_actions(labels, mask)[mask], returns[mask])
    many = torch.stack([returns, -returns], dim=-1)
    assert_close(align_to_actions(labels_from_returns(many, mask), mask)[mask], many[mask])
    assert (labels_from_returns(many, mask)[0, 1] == -100).all()


def test_a_true_return_of_minus_100_is_refused():
    mask = torch.tensor([[False, True, True]])
    with pytest.raises(ValueError, match="exactly -100.*Rescale"):
        labels_from_returns(torch.tensor([[0.0, 1.0, -100.0]]), mask)
    labels_from_returns(torch.tensor([[-100.0, 1.0, 2.0]]), mask)  # not an action: no label


def test_an_action_without_a_state_before_it_is_refused():
    mask = torch.tensor([[False, True, True, True]])
    x = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="row 0, token 2, the first token of its sequence: no state precedes"):
        align_to_actions(x, mask, torch.tensor([[0, 0, 1, 1]]))
    with pytest.raises(ValueError, match="row 0, token 0"):
        labels_from_returns(x, torch.ones(1, 4, dtype=torch.bool))
    align_to_actions(x, torch.tensor([[False, True, False, True]]), torch.tensor([[0, 0, 1, 1]]))


ONE_NAN = torch.zeros(2, 4, 3)
ONE_NAN[1, 3, 2] = float("nan")
FOUR = {"segment_ids": torch.arange(4).expand(2, 4), "mask": torch.ones(2, 4, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiles": torch.zeros(2, 4)}, r"quantiles must be \(batch, tokens, quantiles\), got shape \(2, 4\)"),
        ({"quantiles": torch.zeros(2, 4, 3, 5)}, r"pass their mean, quantiles.mean\(-2\)"),
        ({"rewards": torch.zeros(2, 5)}, r"rewards must be \(2, 4\) as quantiles are, got shape \(2, 5\)"),
        ({"mask": torch.ones(2, 4)}, r"mask must be bool of shape \(2, 4\), got torch.float32"),
        ({"rewards": torch.ones(2, 4), "mask": torch.eye(2, 4) > 0}, "non-zero entry at row 0, token 1, where mask"),
        ({"quantiles": ONE_NAN, "mask": FOUR["mask"]}, "rewards or quantiles are not finite"),
        ({"lam": torch.ones(3)}, r"number, \(2,\), one per row, or \(2, 4\), one per token, got shape \(3,\)"),
        ({"lam": 1.5}, r"lam must lie in \[0, 1\], got 1.5"),
        ({"gamma": -0.1}, r"gamma must lie in \[0, 1\]"),
        ({"target": "mean"}, "target must be 'index' or 'sampled', got 'mean'"),
        ({"bootstrap": torch.zeros(2, 4)}, r"bootstrap must be \(2, 3\) without segment_ids, got shape \(2, 4\)"),
        ({"bootstrap": ONE_NAN[:, 3]}, "bootstrap is not finite"),
        ({"segment_ids": torch.zeros(2, 3)}, r"segment_ids must have shape \(2, 4\)"),
        ({"segment_ids": torch.zeros(2, 4), "bootstrap": torch.zeros(2, 3)}, r"must be \(2, 'segments', 3\) with seg"),
        ({**FOUR, "bootstrap": torch.zeros(2, 3, 3)}, "bootstrap has 3 segments a row, but a row has 4 segments"),
        ({**FOUR, "bootstrap": torch.zeros(2, 2, 3)}, "bootstrap has 2 segments a row, but a row has 4 segments"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    rewards, quantiles, mask, _ = rollout(2, 4, 3)
    with pytest.raises(ValueError, match=message):
        distributional_gae(**{"rewards": rewards, "quantiles": quantiles, "mask": mask} | changes)
