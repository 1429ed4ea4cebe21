import json
import math

import pytest
import reference
import torch
from scipy import stats

from modeling_dvpo.critic.loss_terms import bounded
from modeling_dvpo.critic.losses import TERMS, CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.critic.quantiles import cvar, quantile_levels

# Every term weighs enough to be seen in the loss's gradient.
LOUD = {"cvar": 0.7, "gain": 0.3, "shift": 0.9, "shape": 0.6, "curvature": 1e-3, "consistency": 0.4, "kappa": 0.3}


def batch(num_heads=3, num_quantiles=30, num_targets=30, dtype=torch.float32, seed=0, num_rows=2, num_tokens=7):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    quantiles = draw(num_rows, num_tokens, num_heads, num_quantiles)
    returns = 0.7 * draw(num_rows, num_tokens, num_targets) + 0.3
    mask = torch.rand(num_rows, num_tokens, generator=generator) < 0.6
    return quantiles.requires_grad_(), returns, mask


def only(term, **settings):
    """The loss that is this term alone."""
    return CriticLossConfig(**{name: float(name == term) for name in TERMS}, **settings)


def gradient_of(loss, quantiles):
    (gradient,) = torch.autograd.grad(loss, quantiles)
    return gradient


@pytest.mark.parametrize("form", ["calibrated", "paper"])
@pytest.mark.parametrize(
    ("num_heads", "num_quantiles", "num_targets"),
    [(3, 30, 30), (2, 30, 7), (3, 30, 1), (3, 8, 1), (1, 30, 40), (3, 1, 4), (2, 1, 1)],
)
def test_every_term_and_its_gradient_match_the_slow_definition(form, num_heads, num_quantiles, num_targets):
    quantiles, returns, mask = batch(num_heads, num_quantiles, num_targets)
    config = CriticLossConfig(form=form, **LOUD)
    loss, terms = dvpo_critic_loss(quantiles, returns, mask, config)
    slow_quantiles = quantiles.detach().double().requires_grad_()
    slow = reference.critic_terms(slow_quantiles, returns, mask, config)
    assert tuple(terms) == TERMS == tuple(slow)
    for name in TERMS:
        torch.testing.assert_close(
            terms[name].double(), slow[name].detach(), rtol=2e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )
        alone = only(name, form=form, kappa=0.3)
        alone_loss, alone_terms = dvpo_critic_loss(quantiles, returns, mask, alone)
        assert not any(alone_terms[other] for other in TERMS if other != name), "switched-off terms read zero"
        gradient = gradient_of(alone_loss, quantiles)
        expected = gradient_of(reference.critic_terms(slow_quantiles, returns, mask, alone)[name], slow_quantiles)
        if num_targets == 30:  # a guard: on these data each term of either form is alive, and has a gradient
            assert slow[name] > 1e-4 and expected.abs().sum() > 1e-4
        scale = max(expected.abs().max().item(), 1e-6)
        torch.testing.assert_close(
            gradient.double(), expected, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
    expected_loss = sum(getattr(config, name) * slow[name] for name in TERMS)
    torch.testing.assert_close(loss.detach().double(), expected_loss.detach(), rtol=2e-5, atol=1e-7)


def test_two_states_worked_by_hand():
    """One head, atoms [0, 2], one return of 1, then of 3; alpha = beta = 1/2, kappa = 1.

    quantile: state 1: 1/4·1/2, 1/4·1/2 -> mean 1/8;  state 2: 1/4·(3 - 1/2), 3/4·1/2 -> mean (5/8 + 3/8)/2 = 1/2.
    cvar: CVaR = 0, v = 0, v - (v - y)+/α = 0 for both -> 0 (calibrated); paper: (0 - 1)² and (0 - 3)².
    gain: UTM = 2, v = VaR_½ = 0: 0 + y/½ = 2 and 6 -> 0 and 16; paper: (2 - 1)² and (2 - 3)².
    shift: mean(y) - mean(q) = 0 and 2. consistency: one head, 0.
    """
    quantiles = torch.tensor([0.0, 2.0]).expand(1, 2, 1, 2)
    returns, mask = torch.tensor([[[1.0], [3.0]]]), torch.ones(1, 2, dtype=torch.bool)
    settings = {"alpha": 0.5, "beta": 0.5, "kappa": 1.0, "cvar": 1.0, "gain": 1.0, "shift": 1.0}
    _, terms = dvpo_critic_loss(quantiles, returns, mask, CriticLossConfig(**settings))
    expected = {"quantile": 5 / 16, "cvar": 0.0, "gain": 8.0, "shift": 1.0, "shape": 0.0, "curvature": 0.0}
    assert {name: terms[name].item() for name in expected} == pytest.approx(expected)
    _, terms = dvpo_critic_loss(quantiles, returns, mask, CriticLossConfig(form="paper", **settings))
    expected = {"quantile": 5 / 16, "cvar": 5.0, "gain": 1.0, "shift": 1.0, "consistency": 0.0}
    assert {name: terms[name].item() for name in expected} == pytest.approx(expected)


def test_beyond_the_bound_squares_are_lines():
    """c = 100: u² up to it, then 2 c |u| - c², with neither jump nor kink, in units² as they come."""
    u = torch.tensor([0.0, -3.0, 100.0, -100.0, 101.0, -250.0, 1e6], dtype=torch.float64, requires_grad=True)
    values = bounded(u.square())
    expected = [0.0, 9.0, 1e4, 1e4, 10_200.0, 40_000.0, 2e8 - 1e4]
    torch.testing.assert_close(values.detach(), torch.tensor(expected, dtype=torch.float64))
    slopes = torch.tensor([0.0, -6.0, 200.0, -200.0, 200.0, -200.0, 200.0], dtype=torch.float64)
    torch.testing.assert_close(gradient_of(values.sum(), u), slopes)
    away = torch.tensor([0.5, -99.0, 100.5, -1e3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bounded(x.square()), away)


@pytest.mark.parametrize(("form", "growth"), [("calibrated", 10), ("paper", 100)])
def test_an_extreme_return_does_not_swamp_the_tails(form, growth):
    """A return ten times as extreme made `gain` a hundred times as large; the paper's form keeps its squares.

    Single returns, α = β = 0.1: the calibrated target of `gain` is 10 y, of `cvar` -10 y for the mirror image.
    """
    mask = torch.ones(1, 1, dtype=torch.bool)
    for term, sign in (("gain", 1.0), ("cvar", -1.0)):
        found = []
        for size in (1e4, 1e5):
            quantiles = torch.zeros(1, 1, 1, 20, dtype=torch.float64, requires_grad=True)
            returns = torch.full((1, 1, 1), sign * size, dtype=torch.float64)
            loss, _ = dvpo_critic_loss(quantiles, returns, mask, only(term, form=form))
            found.append(loss.item())
            slope = gradient_of(loss, quantiles).sum().abs().item()
            assert slope == pytest.approx(200 if form == "calibrated" else 2 * size)
        assert found[1] / found[0] == pytest.approx(growth, rel=0.01)


def test_two_target_atoms_have_a_shape():
    """Atoms [0, 2, 5, 5], targets 0 and 4, which at the levels 1/8, 3/8, 5/8 and 7/8 are 0, 1, 3 and 4.

    Lower tail: its variance is 1, the targets' 1/4, too wide by 3/4. Upper tail: 0 and 1/4, too narrow by 1/4.
    """
    quantiles, mask = torch.tensor([0.0, 2.0, 5.0, 5.0]).reshape(1, 1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
    config = only("shape", alpha=0.5, beta=0.5)
    assert dvpo_critic_loss(quantiles, torch.tensor([[[4.0, 0.0]]]), mask, config)[0].item() == pytest.approx(1.0)
    assert dvpo_critic_loss(quantiles, torch.tensor([[[4.0]]]), mask, config)[0] == 0


def test_calibrated_shift_acts_on_the_batch_not_on_the_state():
    """One state over-, one underestimated by the same amount: no systematic underestimation, no pull."""
    quantiles = torch.zeros(1, 2, 1, 4, requires_grad=True)
    returns, mask = torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert dvpo_critic_loss(quantiles, returns, mask, only("shift"))[0] == 0
    assert dvpo_critic_loss(quantiles, returns - 0.75, mask, only("shift"))[0] == 0, "overestimated: nothing pulls"
    assert dvpo_critic_loss(quantiles, returns + 0.75, mask, only("shift"))[0] == 0.75
    assert dvpo_critic_loss(quantiles, returns, mask, only("shift", form="paper"))[0] == 0.5


@pytest.mark.parametrize("form", ["calibrated", "paper"])
@pytest.mark.parametrize("num_targets", [1, 30])
def test_micro_batches_add_up_to_the_batch(form, num_targets):
    quantiles, returns, mask = batch(num_targets=num_targets, num_rows=5)
    config = CriticLossConfig(form=form, **LOUD)
    whole, whole_terms = dvpo_critic_loss(quantiles, returns, mask, config)
    gate = (returns.mean(-1) - quantiles.mean((-2, -1)))[mask].sum() > 0
    assert gate, "the test needs an underestimated batch"
    count = mask.sum()
    parts = [
        dvpo_critic_loss(quantiles[rows], returns[rows], mask[rows], config, num_items=items, shift_gate=gate)
        for rows, items in ((slice(0, 1), count), (slice(1, 3), int(count)), (slice(3, 5), float(count)))
    ]
    total = sum(loss for loss, _ in parts)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(gradient_of(total, quantiles), gradient_of(whole, quantiles))
    for name in TERMS:
        torch.testing.assert_close(sum(terms[name] for _, terms in parts), whole_terms[name])


def test_a_closed_gate_switches_the_calibrated_shift_off():
    quantiles, returns, mask = batch()
    for gate in (False, torch.tensor(0.0), torch.tensor(False)):
        loss, _ = dvpo_critic_loss(quantiles, returns, mask, only("shift"), shift_gate=gate)
        assert loss == 0 and gradient_of(loss, quantiles).abs().sum() == 0
    signed, _ = dvpo_critic_loss(quantiles, returns - 10, mask, only("shift"), shift_gate=True)
    assert signed < -5, "with a gate, a part's share of the mean keeps its sign"


@pytest.mark.parametrize("form", ["calibrated", "paper"])
def test_padding_and_row_order_change_nothing(form):
    quantiles, returns, mask = batch()
    config = CriticLossConfig(form=form, **LOUD)
    loss, _ = dvpo_critic_loss(quantiles, returns, mask, config)
    pad = lambda x, value: torch.cat([torch.full_like(x[:, :3], value), x], dim=1)  # noqa: E731
    padded, _ = dvpo_critic_loss(pad(quantiles, math.nan), pad(returns, math.inf), pad(mask, False), config)
    torch.testing.assert_close(padded, loss)
    flipped, _ = dvpo_critic_loss(quantiles.flip(1), returns.flip(1), mask.flip(1), config)
    torch.testing.assert_close(flipped, loss)
    gradient = gradient_of(padded, quantiles)
    torch.testing.assert_close(gradient, gradient_of(loss, quantiles))
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()


@pytest.mark.parametrize("form", ["calibrated", "paper"])
@pytest.mark.parametrize("num_quantiles", [1, 30])
def test_an_empty_mask_gives_zero_and_stays_on_the_graph(form, num_quantiles):
    quantiles, returns, mask = batch(num_quantiles=num_quantiles)
    for config in (CriticLossConfig(form=form, **LOUD), CriticLossConfig(form=form, **dict.fromkeys(TERMS, 0.0))):
        for num_items in (None, 0, torch.tensor(0)):
            loss, terms = dvpo_critic_loss(quantiles, returns, mask & False, config, num_items=num_items)
            assert loss == 0 and all(terms[name] == 0 for name in TERMS)
            assert torch.equal(gradient_of(loss, quantiles), torch.zeros_like(quantiles))


def test_half_precision_heads_are_computed_in_float32():
    quantiles, returns, mask = batch()
    half = quantiles.detach().bfloat16().requires_grad_()
    config = CriticLossConfig(**LOUD)
    loss, terms = dvpo_critic_loss(half, returns, mask, config)
    expected, _ = dvpo_critic_loss(half.float(), returns, mask, config)
    assert loss.dtype == torch.float32 and all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert gradient_of(loss, half).dtype == torch.bfloat16
    loss, terms = dvpo_critic_loss(quantiles.double(), returns, mask, config)
    assert loss.dtype == torch.float64 and all(term.dtype == torch.float32 for term in terms.values())


def test_targets_get_no_gradient_and_terms_are_detached():
    quantiles, returns, mask = batch()
    returns.requires_grad_()
    for form in ("calibrated", "paper"):
        loss, terms = dvpo_critic_loss(quantiles, returns, mask, CriticLossConfig(form=form, **LOUD))
        loss.backward()
        assert returns.grad is None
        assert not any(term.requires_grad for term in terms.values())


def fit(config, sample, num_steps=1500, rows=256):
    """Atoms (50,) of one state trained on single sampled returns."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.zeros(1, 1, 1, 50, requires_grad=True)
    optimizer = torch.optim.Adam([atoms], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    mask = torch.ones(1, rows, dtype=torch.bool)
    for _ in range(num_steps):
        returns = sample(generator, rows)[None, :, None]
        loss, _ = dvpo_critic_loss(atoms.expand(1, rows, 1, 50), returns, mask, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return atoms.detach().flatten().sort().values


def normal(generator, rows):
    return torch.randn(rows, generator=generator)


def test_default_loss_recovers_a_normal_from_single_sampled_returns():
    atoms = fit(CriticLossConfig(), normal)
    exact = torch.special.ndtri(quantile_levels(50))
    assert atoms.mean().item() == pytest.approx(0, abs=0.05)
    assert (atoms.std() / exact.std()).item() == pytest.approx(1, abs=0.05)
    low, high = (torch.special.ndtr(atoms[j]).item() for j in (4, 45))  # levels .09 and .91
    assert high - low == pytest.approx(0.82, abs=0.03)
    true_cvar = -stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1
    assert cvar(atoms, 0.1).item() == pytest.approx(true_cvar, abs=0.12)


def test_default_loss_recovers_a_bernoulli_mean_from_single_sampled_returns():
    atoms = fit(CriticLossConfig(), lambda generator, rows: (torch.rand(rows, generator=generator) < 0.1).float())
    assert atoms.mean().item() == pytest.approx(0.1, abs=0.03)


def test_the_paper_form_collapses_on_single_sampled_returns():
    """Why `calibrated` is the default: the paper's tail terms pull both tails of N(0, 1) together."""
    assert fit(CriticLossConfig.paper(), normal, num_steps=600).std() < 0.6


def test_config_round_trips_through_json():
    config = CriticLossConfig.paper(cvar=0.25)
    assert (config.form, config.kappa, config.alpha, config.beta, config.risk) == ("paper", 1.0, 0.1, 0.1, 0.1)
    assert CriticLossConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert CriticLossConfig.from_dict({}) == CriticLossConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "mine"}, "form must be 'calibrated' or 'paper', got 'mine'"),
        ({"cvar": -0.1}, "cvar is a weight and must be finite and at least 0, got -0.1"),
        ({"quantile": math.nan}, "quantile is a weight"),
        ({"alpha": 0.0}, r"alpha is a share of the atoms and must lie in \(0, 1\], got 0.0"),
        ({"beta": 1.5}, "beta is a share"),
        ({"kappa": 0.0}, "kappa must be positive and finite"),
        ({"risk_aversion": math.inf}, "risk_aversion must be finite"),
        ({"curvatur": 1.0}, "no field 'curvatur'; did you mean 'curvature'"),
        ({"zzz": 1.0}, "no field 'zzz'; it has form, quantile"),
    ],
)
def test_config_refuses_values_out_of_range_and_unknown_names(change, message):
    with pytest.raises(ValueError, match=message):
        CriticLossConfig.from_dict(change)


STATES = torch.zeros(2, 3, 1, 4)


@pytest.mark.parametrize(
    ("quantiles", "returns", "mask", "message"),
    [
        (
            STATES[0],
            (2, 3, 1),
            (2, 3),
            r"quantiles must be \(batch, tokens, heads, quantiles\), got shape \(3, 1, 4\)",
        ),
        (STATES, (2, 3), (2, 3), r"returns\[..., None\]"),
        (STATES, (3, 2, 1), (2, 3), r"got shape \(3, 2, 1\)"),
        (STATES, (2, 3, 0), (2, 3), r"K >= 1 target atoms a token .* got shape \(2, 3, 0\)"),
        (STATES, (2, 3, 1), (3, 2), r"mask must be bool of shape \(2, 3\), got torch.bool of shape \(3, 2\)"),
    ],
)
def test_bad_shapes_are_named(quantiles, returns, mask, message):
    with pytest.raises(ValueError, match=message):
        dvpo_critic_loss(quantiles, torch.zeros(returns), torch.ones(mask) > 0, CriticLossConfig())


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="got torch.float32"):
        dvpo_critic_loss(STATES, torch.zeros(2, 3, 1), torch.ones(2, 3), CriticLossConfig())
