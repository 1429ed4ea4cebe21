"""Log-probabilities of what was emitted, and the clipped loss on them."""

import math

import pytest
import torch
from tiny_models import VOCABULARY, tiny_causal_lm
from torch import nn
from torch.testing import assert_close

from modeling_dvpo.training.algorithms import policy_loss as module
from modeling_dvpo.training.algorithms.policy_loss import (
    action_log_probs,
    kl_estimate,
    policy_loss,
    policy_metrics,
    token_weights,
)
from modeling_dvpo.training.data.packing import RewardCollator
from modeling_dvpo.training.models.policies import disable_dropout

TEMPERATURE = 0.7
# prompt and action tokens of each row; the third has two turns
SHAPES = ["ppaaaa", "paa", "ppaaappaa", "pppa"]
CLIP = {"clip_low": 0.2, "clip_high": 0.3}


def rows_of(shapes=SHAPES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for shape in shapes:
        mask = torch.tensor([letter == "a" for letter in shape])
        rows.append(
            {
                "input_ids": torch.randint(3, VOCABULARY, (len(shape),), generator=generator),
                "completion_mask": mask,
                "rewards": torch.zeros(len(shape)),
                "lengths": mask * float(mask.sum()),
                "advantages": torch.randn(len(shape), generator=generator) * mask,
            }
        )
    return rows


def collate(rows, packing, *, filler=False):
    return RewardCollator(packing=packing, pad_token_id=0, token_columns=("lengths", "advantages"))(
        rows, filler=filler
    )


def spread_out(model):
    """Logits that tell tokens apart: those of a fresh model are near 0, where temperature hardly shows."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return spread_out(tiny_causal_lm("qwen3", tie_word_embeddings=False))


def naive(policy, row, temperature):
    """Distributions (T, V) of every token of a row from all its logits, one row at a time; t = 0 has none."""
    logits = policy(input_ids=row["input_ids"][None]).logits[0] / temperature
    return torch.cat([torch.full_like(logits[:1], float("nan")), logits[:-1].log_softmax(-1)])


class TestLogProbs:
    @pytest.mark.parametrize("packing", [True, False])
    def test_equal_a_row_by_row_reference(self, policy, packing):
        """Log-probability and entropy, of two turns and of rows side by side, at another temperature than 1."""
        rows = rows_of()
        batch = collate(rows, packing)
        with torch.no_grad():
            log_probs, entropy = action_log_probs(policy, batch, TEMPERATURE, with_entropy=True)
            expected, entropies = [], []
            for row in rows:
                all_log_probs, mask = naive(policy, row, TEMPERATURE), row["completion_mask"]
                expected.append(all_log_probs.gather(-1, row["input_ids"][:, None])[:, 0][mask])
                entropies.append(torch.distributions.Categorical(logits=all_log_probs[mask]).entropy())
        mask = batch["completion_mask"]
        assert log_probs.dtype == torch.float32
        assert log_probs[mask].std() > 0.5, "logits too flat to test with"
        assert_close(log_probs[mask], torch.cat(expected), rtol=1e-5, atol=1e-5)
        assert_close(entropy[mask], torch.cat(entropies), rtol=1e-5, atol=1e-5)
        assert not log_probs[~mask].any() and not entropy[~mask].any()

    def test_entropy_in_parts_is_the_whole(self, policy, monkeypatch):
        batch = collate(rows_of(), True)
        with torch.no_grad():
            _, whole = action_log_probs(policy, batch, 1.0, with_entropy=True)
            monkeypatch.setattr(module, "ENTROPY_CHUNK", 5)  # of 12 action tokens
            _, parts = action_log_probs(policy, batch, 1.0, with_entropy=True)
        assert_close(parts, whole)

    def test_entropy_has_a_gradient_only_on_request(self, policy):
        batch = collate(rows_of(), True)
        log_probs, entropy = action_log_probs(policy, batch, 1.0, with_entropy=True)
        assert log_probs.requires_grad and not entropy.requires_grad
        assert action_log_probs(policy, batch, 1.0)[1] is None

    def test_computes_logits_for_states_before_actions_only(self, policy):
        """The head over the vocabulary is the costly part: none of it for prompts, gaps and padding of packed rows."""
        seen = []
        handle = policy.get_output_embeddings().register_forward_hook(lambda *args: seen.append(args[-1].shape[1]))
        rows = rows_of(["pppppa", "paappppa"])
        for packing in (True, False):
            action_log_probs(policy, collate(rows, packing), 1.0)
        handle.remove()
        assert seen == [4, 4]  # padded: columns 1, 2, 5 and 7

    @pytest.mark.parametrize("packing", [True, False])
    def test_a_filler_gives_zeros_and_a_graph(self, policy, packing):
        """Under FSDP the backward pass of a rank without rows of its own must reach every layer all the same."""
        policy.zero_grad()
        filler = collate(rows_of()[:1], packing, filler=True)
        log_probs, entropy = action_log_probs(policy, filler, 1.0, with_entropy=True, entropy_gradient=True)
        assert log_probs.shape == filler["input_ids"].shape
        assert not log_probs.any() and not entropy.any()
        (log_probs.sum() + entropy.sum()).backward()
        assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())
        policy.zero_grad(set_to_none=True)

    def test_a_family_that_cannot_leave_logits_out(self, policy):
        """Such as xlstm, which computes all its logits, whatever is asked of it: the same numbers."""

        class Whole(nn.Module):
            def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
                return policy(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache)

        for packing in (True, False):
            batch = collate(rows_of(), packing)
            with torch.no_grad():
                assert_close(action_log_probs(Whole(), batch, 0.7)[0], action_log_probs(policy, batch, 0.7)[0])


DROPOUT = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "qwen3": {"attention_dropout": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "starcoder2": {"attention_dropout": 0.5, "residual_dropout": 0.5, "embedding_dropout": 0.5},
    "gpt_bigcode": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "mixtral": {"router_jitter_noise": 0.5},
}


class TestFirstRatio:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize(
        ("family", "attention"), [("qwen3", "sdpa"), ("gpt2", "sdpa"), *((family, "eager") for family in DROPOUT)]
    )
    def test_is_one(self, family, attention, checkpointing):
        """With dropout in the config, training mode, and gradients in the second pass alone.

        opt, starcoder2, gpt_bigcode and bloom keep rates of functional dropout under names of their own: switching
        off `nn.Dropout` and `attention_dropout` alone gave ratios from e^-0.5 to e^0.5 on them.
        """
        torch.manual_seed(0)
        policy = tiny_causal_lm(family, attn_implementation=attention, **DROPOUT[family])
        policy = spread_out(policy).train()
        batch = collate(rows_of(), False)
        with torch.no_grad():
            first, second = (action_log_probs(policy, batch, 1.0)[0] for _ in range(2))
        if attention == "eager":
            assert (first - second).abs().max() > 1e-3, "the config's dropout is not live"
        disable_dropout(policy)
        if checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.no_grad():
            old, _ = action_log_probs(policy, batch, 1.0)
        new, _ = action_log_probs(policy, batch, 1.0)
        assert new.requires_grad
        assert ((new - old).exp() - 1).abs().max() <= 1e-6
        policy.eval()
        assert_close(action_log_probs(policy, batch, 1.0)[0], old, rtol=1e-5, atol=1e-5)

    def test_lora_dropout(self, policy):
        import peft

        model = tiny_causal_lm("qwen3")
        model.add_adapter(peft.LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False))
        model.train()
        batch = collate(rows_of(), True)
        with torch.no_grad():
            first, second = (action_log_probs(model, batch, 1.0)[0] for _ in range(2))
            assert not torch.equal(first, second)
            disable_dropout(model)
            first, second = (action_log_probs(model, batch, 1.0)[0] for _ in range(2))
        assert torch.equal(first, second)

    def test_the_config_keeps_what_it_says(self):
        model = tiny_causal_lm("gpt2", **DROPOUT["gpt2"])
        disable_dropout(model)
        assert model.config.resid_pdrop == 0.5


class TestLoss:
    def loss(self, ratio, advantage, **options):
        """Of one token, and its gradient in the log-probability; it was sampled with probability 1/4."""
        old = torch.tensor([[-math.log(4)]], dtype=torch.float64)
        log_prob = (old + math.log(ratio)).requires_grad_()
        loss = policy_loss(log_prob, old, torch.tensor([[advantage]]), torch.ones(1, 1), **{**CLIP, **options})
        (gradient,) = torch.autograd.grad(loss, log_prob)
        return loss.item(), gradient.item()

    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "gradient"),
        [
            (1.0, 2.0, -2.0, -2.0),
            (1.1, 2.0, -2.2, -2.2),
            (1.25, 2.0, -2.5, -2.5),  # clip-higher: 1.3, where the lower one is 0.2
            (1.5, 2.0, -2.6, 0.0),
            (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: never clipped
            (0.9, -2.0, 1.8, 1.8),
            (0.5, -2.0, 1.6, 0.0),
            (1.5, -2.0, 3.0, 3.0),  # likewise
            (1.5, 0.0, 0.0, 0.0),
        ],
    )
    def test_clipping_by_hand(self, ratio, advantage, loss, gradient):
        """d/d log π of -ρ A is -ρ A."""
        assert self.loss(ratio, advantage) == pytest.approx((loss, gradient), abs=1e-6)

    def test_kl_by_hand(self):
        """π = 2 π_ref: ½ - 1 + ln 2; derivative in log π: 1 - ½."""
        log_probs = torch.tensor([[0.0]], requires_grad=True, dtype=torch.float64)
        k3 = kl_estimate(log_probs, log_probs.detach() - math.log(2))
        assert k3.item() == pytest.approx(math.log(2) - 0.5)
        (gradient,) = torch.autograd.grad(k3, log_probs)
        assert gradient.item() == pytest.approx(0.5)
        options = {"reference_log_probs": torch.tensor([[math.log(1.1 / 4 / 2)]]), "kl_coef": 0.1}
        assert self.loss(1.1, 2.0, **options) == pytest.approx((-2.2 + 0.1 * (math.log(2) - 0.5), -2.2 + 0.1 * 0.5))

    @pytest.mark.parametrize("far", [25.0, 200.0, 1e30])
    def test_log_ratios_are_bounded(self, far):
        """e^89 overflows: one token that the policy had left far behind made the loss infinite, and ended the run."""
        log_prob = torch.tensor([[far], [-far]], requires_grad=True)
        old, ones = torch.zeros(2, 1), torch.ones(2, 1)
        loss = policy_loss(log_prob, old, -ones, ones, **CLIP, reference_log_probs=old, kl_coef=0.5)
        # -ρ A of e^20, clipped to 0.8 below; k3(±20) = e^∓20 - 1 ± 20
        expected = math.exp(20) + 0.8 + 0.5 * (math.exp(-20) - 1 + 20 + math.exp(20) - 1 - 20)
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        (gradient,) = torch.autograd.grad(loss, log_prob)
        assert not gradient.any()
        metrics = policy_metrics(
            log_prob, old, -ones, ones, **CLIP, num_tokens=2, reference_log_probs=old, entropy=ones
        )
        assert all(value.isfinite() for value in metrics.values())
        nan = policy_loss(log_prob * math.nan, old, -ones, ones, **CLIP)
        assert nan.isnan(), "what is not a number is not made to look like one"

    def test_k3_is_the_kl_divergence_on_average(self):
        torch.manual_seed(0)
        log_p, log_q = torch.randn(2, 6).double().log_softmax(-1)
        assert (kl_estimate(log_p, log_q) >= 0).all()
        assert_close((log_p.exp() * kl_estimate(log_p, log_q)).sum(), (log_p.exp() * (log_p - log_q)).sum())

    def test_an_entropy_bonus_lowers_the_loss(self):
        entropy = torch.tensor([[0.3]], requires_grad=True)
        loss = policy_loss(
            torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[0.5]]), **CLIP, entropy=entropy,
            entropy_coef=0.1,
        )  # fmt: skip
        assert loss.item() == pytest.approx(0.5 * (-1 - 0.03))
        (gradient,) = torch.autograd.grad(loss, entropy)
        assert gradient.item() == pytest.approx(-0.05)

    def test_a_number_without_its_coefficient_is_only_looked_at(self):
        given = {"entropy": torch.tensor([[0.3]]), "reference_log_probs": torch.tensor([[-9.0]])}
        assert self.loss(1.1, 2.0, **given) == pytest.approx((-2.2, -2.2))


class TestWeights:
    @pytest.mark.parametrize(
        ("aggregation", "expected"),
        [
            ("token", [1 / 12, 1 / 12, 1 / 12, 1 / 12]),
            ("sequence", [1 / 16, 1 / 8, 1 / 20, 1 / 4]),
            ("constant", [1 / 32, 1 / 32, 1 / 32, 1 / 32]),
        ],
    )
    def test_by_hand(self, aggregation, expected):
        """4 completions of 4, 2, 5 (in two turns) and 1 action tokens, 12 in all; at most 8."""
        numbers = {"num_tokens": 12, "num_sequences": 4, "max_completion_length": 8}
        rows = rows_of()
        for parts in ([rows], [rows[:1], rows[1:]]):
            for packing in (True, False):
                found = []
                for part in parts:
                    batch = collate(part, packing)
                    weights = token_weights(batch, aggregation, **numbers)
                    assert weights.shape == batch["completion_mask"].shape
                    assert not weights[~batch["completion_mask"]].any()
                    found.append(weights[batch["completion_mask"]])
                each = [value for value, length in zip(expected, (4, 2, 5, 1), strict=True) for _ in range(length)]
                assert_close(torch.cat(found), torch.tensor(each))


class TestMetrics:
    def test_by_hand(self):
        """Ratios 4, 1, ½ and a token that does not count, with advantages 1, 1, 1: one of three is clipped."""
        log_probs = torch.tensor([[4.0, 1.0, 0.5, 7.0]]).log()
        mask = torch.tensor([[True, True, True, False]])
        found = policy_metrics(
            log_probs, torch.zeros(1, 4), torch.ones(1, 4), mask, **CLIP, num_tokens=3,
            reference_log_probs=log_probs - math.log(2), entropy=torch.tensor([[1.0, 2.0, 3.0, 9.0]]),
        )  # fmt: skip
        change = (4 - 1 - math.log(4) + 0.5 - 1 + math.log(2)) / 3  # k3 of KL(π_old || π): ρ - 1 - log ρ
        expected = {
            "ratio": 5.5 / 3,
            "clip_fraction": 1 / 3,
            "policy_change": change,
            "kl": math.log(2) - 0.5,
            "entropy": 2.0,
        }
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)

    def test_only_tokens_without_gradient_count_as_clipped(self):
        log_probs = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1]]).log()
        advantages = torch.tensor([[0.5, 0.5, -0.5, -0.5, 0.5]])
        mask = torch.ones(1, 5, dtype=torch.bool)
        found = policy_metrics(log_probs, torch.zeros(1, 5), advantages, mask, **CLIP, num_tokens=5)
        assert found["clip_fraction"].item() == pytest.approx(2 / 5)
        assert set(found) == {"ratio", "clip_fraction", "policy_change"}
