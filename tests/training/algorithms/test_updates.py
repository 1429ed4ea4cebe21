"""One step's learning: what is fixed before the first update, and the updates of policy and critic."""

import copy
import math
from types import SimpleNamespace

import pytest
import reference
import torch
from tiny_critics import tiny_critic
from tiny_models import VOCABULARY, tiny_causal_lm
from torch import nn
from torch.testing import assert_close

from modeling_dvpo.metrics.report import CriticReport
from modeling_dvpo.training.algorithms import updates as policy_updates
from modeling_dvpo.training.algorithms.advantages import ALGORITHMS
from modeling_dvpo.training.algorithms.policy_arguments import AlgorithmArguments, PolicyCriticArguments
from modeling_dvpo.training.algorithms.policy_loss import action_log_probs
from modeling_dvpo.training.algorithms.updates import PolicyUpdates
from modeling_dvpo.training.data.packing import RewardCollator
from modeling_dvpo.training.engine.learner import Learner
from modeling_dvpo.training.rollouts.mini_batches import MiniBatch
from modeling_dvpo.training.rollouts.samples import TOKEN_COLUMNS, Sample, SampleCollator

CPU = torch.device("cpu")
# prompt and action tokens; the third has two turns and the last is truncated
SHAPES = ["ppaaaa", "paa", "ppaaappaa", "pppaaa"]
HEADS = {"dvpo": (2, 5), "ppo": (1, 1), "robust_bellman": (2, 1)}


def samples_of(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        Sample(
            sample_id=i,
            group=i // 2,
            input_ids=torch.randint(3, VOCABULARY, (len(shape),), generator=generator).tolist(),
            completion_mask=[letter == "a" for letter in shape],
            truncated=i == 3,
            num_turns=1,
            reward=(1.0, 0.0, 0.25, 0.5)[i],
            rewards={},
            prompt="",
            completion="",
            advantage=(1.5, -1.5, -0.5, 0.5)[i],
        )
        for i, shape in enumerate(SHAPES)
    ]


def batch_of(samples, *, packing=False, drop=False, filler=False):
    collate = RewardCollator(packing=packing, pad_token_id=0, token_columns=TOKEN_COLUMNS)
    return SampleCollator(collate, drop_truncated_rewards=drop)(samples, filler=filler)


def mini_batch(*parts, **options):
    """One optimizer step on micro-batches of these samples."""
    chosen = [sample for part in parts for sample in part]
    batches = [batch_of(part, **options) for part in parts]
    return MiniBatch(batches, sum(sample.num_actions for sample in chosen), len(chosen))


def learner(model, rate=1e-3):
    args = SimpleNamespace(
        learning_rate=rate, heads_learning_rate=rate, weight_decay=0.0, lr_scheduler_type="constant_with_warmup",
        warmup_ratio=0.0, max_grad_norm=1e9, max_skipped_updates=3, bf16=False,
    )  # fmt: skip
    return Learner(model, args, 10, CPU)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    policy, other = tiny_causal_lm("qwen3"), tiny_causal_lm("qwen3")
    with torch.no_grad():
        for model in (policy, other):
            model.get_output_embeddings().weight.mul_(20)
    return policy, other.requires_grad_(False)


def updates_of(policy, other, args, critic_args=None, *, temperature=0.7):
    critic_args = critic_args or PolicyCriticArguments()
    options = {"temperature": temperature, "max_completion_length": 8, "seed": 0}
    return PolicyUpdates(learner(policy), other, args, critic_args, **options)


@pytest.fixture
def updates(models):
    """`PolicyUpdates` on copies of the same models; settings of algorithm and critic by name."""

    def make(algorithm="dvpo", *, critic_args=None, **settings):
        policy, other = copy.deepcopy(models)
        settings = {"gamma": 1.0 if "grpo" in algorithm else 0.9, "lam": 0.7, **settings}
        args = AlgorithmArguments(algorithm=algorithm, **settings)
        made = updates_of(policy, other, args, PolicyCriticArguments(**(critic_args or {})))
        if algorithm in HEADS:
            heads, quantiles = HEADS[algorithm]
            made.critic = tiny_critic(num_value_heads=heads, num_quantiles=quantiles)
            made.critic_learner = learner(made.critic)
        return made

    return make


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(model, before):
    return all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def by_sample(mini_batches, name, samples):
    """A column's numbers at action tokens, for each sample; the layouts must give the same."""
    found = {}
    for batch in [batch for each in mini_batches for batch in each.batches]:
        mask, column = batch["completion_mask"], batch[name]
        for place, row in enumerate(batch["row_id"].tolist()):
            own = batch["segment_ids"] == place if "segment_ids" in batch else torch.zeros_like(mask)
            if "segment_ids" not in batch:
                own[place] = True
            if (own & mask).any():
                found[row] = column[own & mask]
    return [found[sample.sample_id] for sample in samples]


@pytest.mark.parametrize(
    ("algorithm", "bootstrap"), [*((name, False) for name in ALGORITHMS), *((name, True) for name in HEADS)]
)
def test_layouts_cuts_and_fillers_make_the_same_step(updates, algorithm, bootstrap):
    """Padded or packed, whole or in parts, a filler among them: what is fixed before the first update, then metrics,
    gradient norms among them, and gradients of both models."""
    settings = {"bootstrap_truncated": bootstrap, "num_epochs": 2, "entropy_coef": 0.1}
    if bootstrap:
        settings |= {"length_adaptive_lam": 0.5, "kl": "reward", "critic_args": {"critic_lam": 0.8}}
    samples = samples_of()
    names = ["old_log_probs", "reference_log_probs", "advantages", *["returns"] * (algorithm in HEADS)]
    found = []
    for packing in (False, True):
        options = {"packing": packing, "drop": bootstrap}
        for cut in ([samples], [samples[:1], samples[1:]], [samples[2:], samples[:2]]):
            made, steps = updates(algorithm, **settings), [mini_batch(*cut, **options)]
            steps[0].batches.append(batch_of(samples[:1], filler=True, **options))
            stats = made.prepare(steps, policy_learns=True, report=None)
            columns = [by_sample(steps, name, samples) for name in names]
            made.args.num_epochs = made.critic_epochs = 1
            metrics = stats | made.learn(steps, step=1, policy_learns=True)
            learners = [made.policy, *[made.critic_learner] * (algorithm in HEADS)]
            # Adam's first moments are a tenth of the gradients
            moments = [state["exp_avg"] for each in learners for state in each.optimizer.state.values()]
            found.append((columns, metrics, moments))
    columns, metrics, moments = found[0]
    assert all(torch.cat(column).std() > 0.1 for column in columns)
    assert metrics["grad_norm"] > 1e-3 and metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["clip_fraction"] == 0 and metrics["policy_change"] == pytest.approx(0, abs=1e-6)
    for other_columns, other_metrics, other_moments in found[1:]:
        assert_close(other_columns, columns, rtol=1e-4, atol=1e-5)
        assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert_close(other_moments, moments, rtol=1e-3, atol=1e-5)


class TestPrepare:
    def test_the_step_is_whitened_as_a_whole(self, updates):
        samples = samples_of()
        steps = [mini_batch(samples[:2]), mini_batch(samples[2:])]
        stats = updates("ppo").prepare(steps, policy_learns=True, report=None)
        advantages = torch.cat(by_sample(steps, "advantages", samples))
        assert advantages.mean().abs() < 1e-6 and advantages.std(correction=0).item() == pytest.approx(1)
        plain = [mini_batch(samples)]
        raw = updates("ppo", whiten_advantages=False).prepare(plain, policy_learns=True, report=None)
        advantages = torch.cat(by_sample(plain, "advantages", samples))
        assert raw["advantage_std"] == pytest.approx(stats["advantage_std"])
        assert raw["advantage_std"] == pytest.approx(advantages.std(correction=0).item())

    def test_advantages_equal_the_token_loop(self, updates):
        """dvpo with VAPO's λ, each row alone: heads averaged, state before the action, GAE, mean over quantiles."""
        made, samples = updates("dvpo", length_adaptive_lam=0.5, whiten_advantages=False, kl="none"), samples_of()
        steps = [mini_batch(samples, packing=True)]
        made.prepare(steps, policy_learns=True, report=None)
        for sample, found in zip(samples, by_sample(steps, "advantages", samples), strict=True):
            with torch.no_grad():
                quantiles = made.critic(torch.tensor([sample.input_ids])).quantiles.mean(-2)
            mask = torch.tensor([sample.completion_mask])
            rewards = torch.zeros(mask.shape)
            rewards[0, -1] = sample.reward
            before = torch.cat([quantiles[:, :1], quantiles[:, :-1]], 1)
            lam = torch.tensor([max(0.0, 1 - 1 / (0.5 * sample.num_actions))])
            advantages, _ = reference.gae(rewards, before, mask, 0.9, lam)
            assert_close(found.double(), advantages.mean(-1)[mask], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("algorithm", HEADS)
    def test_a_truncated_completion_bootstraps_behind_its_last_token(self, updates, algorithm):
        """Its reward left out, the last target is γ times the value there; Robust Bellman's that of the worst head."""
        made, samples = updates(algorithm, bootstrap_truncated=True), samples_of()
        steps = [mini_batch(samples, drop=True)]
        made.prepare(steps, policy_learns=True, report=None)
        returns = by_sample(steps, "returns", samples)
        with torch.no_grad():
            behind = made.critic(torch.tensor([samples[3].input_ids])).quantiles[0, -1]
        expected = 0.9 * (behind.amin(0) if algorithm == "robust_bellman" else behind.mean(0))
        assert_close(returns[3][-1], expected, rtol=1e-4, atol=1e-5)
        assert algorithm == "ppo" or behind.std(0).min() > 0.01, "heads that agree test nothing"
        for sample, found in zip(samples[:3], returns, strict=False):  # these ended
            assert_close(found[-1], torch.full_like(found[-1], sample.reward))

    @pytest.mark.parametrize(
        ("settings", "mini_batches", "old"),
        [
            ({}, 1, False),
            ({"num_epochs": 2}, 1, True),
            ({}, 2, True),
            ({"kl": "reward"}, 1, True),
            ({"kl": "reward", "kl_coef": 0.0}, 1, False),
        ],
    )
    def test_old_log_probs_only_where_they_are_needed(self, updates, settings, mini_batches, old):
        samples = samples_of()
        steps = [mini_batch(part) for part in ([samples] if mini_batches == 1 else [samples[:2], samples[2:]])]
        updates("ppo", **settings).prepare(steps, policy_learns=True, report=None)
        assert all(("old_log_probs" in each.batches[0]) == old for each in steps)

    def test_no_forward_passes_that_nobody_needs(self, updates, monkeypatch):
        """While the critic warms up, policy and reference are asked for the reward's KL penalty only."""
        asked = []
        original = policy_updates.action_log_probs
        monkeypatch.setattr(
            policy_updates, "action_log_probs", lambda model, *rest: asked.append(model) or original(model, *rest)
        )
        counts = {}
        for kl in ("loss", "reward", "none"):
            for policy_learns in (False, True):
                asked.clear()
                made = updates("ppo", kl=kl, num_epochs=2)
                made.prepare([mini_batch(samples_of())], policy_learns=policy_learns, report=None)
                counts[kl, policy_learns] = [made.policy.model in asked, made.reference in asked]
        assert counts == {
            ("loss", False): [False, False],
            ("reward", False): [True, True],
            ("none", False): [False, False],
            ("loss", True): [True, True],
            ("reward", True): [True, True],
            ("none", True): [True, False],
        }

    def test_the_report_gets_values_before_actions_and_what_followed(self, updates):
        samples = samples_of()
        made, steps = updates("dvpo", kl="none"), [mini_batch(samples[:2], samples[2:])]
        report = CriticReport(torch.tensor([0.0, 1.0]))
        made.prepare(steps, policy_learns=True, report=report)
        with torch.no_grad():
            gaps = []
            for sample in samples:
                values = made.critic(torch.tensor([sample.input_ids])).value[0]
                actions = [t for t, own in enumerate(sample.completion_mask) if own]
                for left, t in enumerate(reversed(actions)):
                    gaps.append(values[t - 1].item() - 0.9**left * sample.reward)
        assert report.sums["states"] == 14
        assert report.compute()["bias"] == pytest.approx(sum(gaps) / 14, abs=1e-5)

    @pytest.mark.parametrize("packing", [False, True])
    def test_what_followed_a_bootstrapped_completion_is_not_reported(self, updates, packing):
        report = CriticReport(torch.tensor([0.0, 1.0]))
        made = updates("dvpo", bootstrap_truncated=True)
        made.prepare([mini_batch(samples_of(), drop=True, packing=packing)], policy_learns=True, report=report)
        assert report.sums["states"] == 14 - 3


class Bigram(nn.Module):
    """Probabilities of the next token, (V, V), by the last one."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        return SimpleNamespace(logits=self.logits[input_ids])


class TestReinforcePlusPlus:
    def test_by_hand(self):
        """A_t = R - β Σ_{k >= t} x_k, x = log π - log π_ref at what was emitted, then whitened.

        Prompt 0, then 1, 0, 1. π: 0 -> 1 with 3/4, 1 -> 0 with 1/2; π_ref: 0 -> 1 with 1/4, 1 -> 0 with 1/2. So
        x = ln 3, 0, ln 3. With R = 2 and β = 0.1 the returns are 2 - 0.2 ln 3, 2 - 0.1 ln 3, 2 - 0.1 ln 3.
        """
        policy = Bigram([[0.25, 0.75], [0.5, 0.5]])
        other = Bigram([[0.75, 0.25], [0.5, 0.5]]).requires_grad_(False)
        sample = samples_of()[0]
        sample.input_ids, sample.completion_mask, sample.reward = [0, 1, 0, 1], [False, True, True, True], 2.0

        def advantages(**settings):
            args = AlgorithmArguments(algorithm="reinforce_plus_plus", kl_coef=0.1, **settings)
            made = updates_of(policy, other, args, temperature=1.0)
            steps = [mini_batch([sample])]
            made.prepare(steps, policy_learns=True, report=None)
            return steps[0].batches[0]["advantages"]

        far, near = 2 - 0.2 * math.log(3), 2 - 0.1 * math.log(3)
        assert_close(advantages(whiten_advantages=False), torch.tensor([[0.0, far, near, near]]))
        # mean one third of the way, deviation √2/3 of the gap
        assert_close(advantages(), torch.tensor([[0.0, -(2**0.5), 0.5**0.5, 0.5**0.5]]), rtol=1e-4, atol=1e-4)
        # γ discounts the penalties to come as it does the reward
        first = 0.25 * 2 - 0.1 * math.log(3) * (1 + 0.25)
        second = 0.5 * 2 - 0.1 * math.log(3) * 0.5
        third = 2 - 0.1 * math.log(3)
        found = advantages(whiten_advantages=False, gamma=0.5)
        assert_close(found, torch.tensor([[0.0, first, second, third]]))


class TestLearn:
    def test_warm_up_leaves_the_policy_alone(self, updates):
        made, steps = updates("dvpo"), [mini_batch(samples_of())]
        policy, critic = weights(made.policy.model), weights(made.critic)
        made.prepare(steps, policy_learns=False, report=None)
        metrics = made.learn(steps, step=1, policy_learns=False)
        assert same(made.policy.model, policy) and not made.policy.optimizer.state
        assert not same(made.critic, critic)
        assert metrics and all(name.startswith("critic/") for name in metrics)
        made.learn(steps, step=2, policy_learns=True)
        assert not same(made.policy.model, policy)

    @pytest.mark.parametrize("packing", [True, False])
    @pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "ppo"])
    def test_loss_and_gradient_equal_a_loop_over_tokens(self, updates, algorithm, packing):
        """The complete loss of a real step: temperature, own aggregation, clipping on both sides, KL to the reference,
        entropy, whitened advantages, over two micro-batches."""
        made, samples = updates(algorithm, kl_coef=0.3, entropy_coef=0.2, clip_high=0.3), samples_of(seed=5)
        steps = [mini_batch(samples[:1], samples[1:], packing=packing)]
        made.prepare(steps, policy_learns=True, report=None)
        generator = torch.Generator().manual_seed(0)
        for batch in steps[0].batches:  # as if other updates had come before
            log_probs, _ = action_log_probs(made.policy.model, batch, 0.7)
            batch["old_log_probs"] = log_probs.detach() + 0.4 * torch.randn(log_probs.shape, generator=generator)
        policy = copy.deepcopy(made.policy.model)
        columns = [by_sample(steps, name, samples) for name in ("advantages", "old_log_probs", "reference_log_probs")]
        rows = []
        for sample, *own in zip(samples, *columns, strict=True):
            ids, mask = torch.tensor(sample.input_ids), torch.tensor(sample.completion_mask)
            full = [torch.zeros(len(ids)).masked_scatter(mask, column) for column in own]
            row = dict(zip(("advantages", "old", "reference"), full, strict=True))
            rows.append({"logits": policy(ids[None]).logits[0], "input_ids": ids, "mask": mask, **row})
        aggregation = {"grpo": "sequence", "dr_grpo": "constant", "ppo": "token"}[algorithm]
        options = {"kl_coef": 0.3, "entropy_coef": 0.2, "clip_low": 0.2, "clip_high": 0.3, "temperature": 0.7}
        loss = reference.policy_loss(rows, aggregation=aggregation, max_completion_length=8, **options)
        loss.backward()
        expected = {name: p.grad for name, p in policy.named_parameters()}
        norm = torch.stack([g.norm() for g in expected.values()]).norm().item()
        metrics = made.learn(steps, step=1, policy_learns=True)
        assert metrics["clip_fraction"] > 0.1
        assert metrics["policy_loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
        for name, parameter in made.policy.model.named_parameters():
            first_moment = made.policy.optimizer.state[parameter]["exp_avg"]
            assert_close(first_moment, 0.1 * expected[name], rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("packing", [True, False])
    def test_the_critics_loss_is_a_mean_over_action_tokens(self, updates, packing):
        """Not over completions: a long one has the say of all its tokens, whichever micro-batch they are in."""
        made, samples = updates("ppo", kl="none"), samples_of()
        steps = [mini_batch(samples[:1], samples[1:], packing=packing)]
        made.prepare(steps, policy_learns=False, report=None)
        errors = []
        for sample, wanted in zip(samples, by_sample(steps, "returns", samples), strict=True):
            with torch.no_grad():
                values = made.critic(torch.tensor([sample.input_ids])).value[0]
            before = torch.tensor(sample.completion_mask).nonzero()[:, 0] - 1
            errors += ((values[before] - wanted[:, 0]) / made.critic.config.return_scale).square().tolist()
        assert len(errors) == 14
        metrics = made.learn(steps, step=1, policy_learns=False)
        assert metrics["critic/loss"] == pytest.approx(sum(errors) / 14, rel=1e-4)

    def test_several_updates_measure_against_the_policy_that_sampled(self, updates):
        """Four updates: the first ratio is 1, and the last is that of the policy now to the one at the start."""
        made, samples = updates("ppo", num_epochs=2, clip_low=1.0, clip_high=100.0), samples_of()
        start = copy.deepcopy(made.policy.model)
        steps = [mini_batch(samples[:2]), mini_batch(samples[2:])]
        made.prepare(steps, policy_learns=True, report=None)
        seen, update = [], made.policy.update

        def watch(batches, loss_of, *, where):
            now = copy.deepcopy(made.policy.model)
            seen.append((now, batches[0], update(batches, loss_of, where=where)))
            return seen[-1][-1]

        made.policy.update = watch
        metrics = made.learn(steps, step=1, policy_learns=True)
        assert len(seen) == 4
        assert seen[0][-1]["ratio"] == pytest.approx(1, abs=1e-6) and seen[0][-1]["policy_change"] < 1e-10
        assert sorted(id(batch) for _, batch, _ in seen[:2]) == sorted(id(batch) for _, batch, _ in seen[2:])
        for now, batch, found in seen[1:]:
            with torch.no_grad():
                new, old = (action_log_probs(model, batch, 0.7)[0] for model in (now, start))
            mask = batch["completion_mask"]
            assert found["ratio"] == pytest.approx((new - old).exp()[mask].mean().item(), rel=1e-4)
            assert abs(found["ratio"] - 1) > 1e-5
        assert metrics["ratio"] == pytest.approx(sum(found["ratio"] for *_, found in seen) / 4)

    def test_epochs_go_over_the_mini_batches_in_orders_of_their_own(self, updates):
        made, steps = updates("grpo", num_epochs=6), [MiniBatch([], number, 1) for number in range(4)]
        orders = {}
        for step in (1, 2, 1):
            seen = []
            made._update_policy = lambda each, step, seen=seen: seen.append(each.num_tokens) or {"skipped_updates": 0}
            made.learn(steps, step=step, policy_learns=True)
            epochs = [tuple(seen[i : i + 4]) for i in range(0, 24, 4)]
            assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs) and len(set(epochs)) > 1
            assert orders.setdefault(step, epochs) == epochs
        assert orders[1] != orders[2]

    def test_the_critic_may_go_over_them_more_often(self, updates):
        made = updates("dvpo", num_epochs=1, critic_args={"num_critic_epochs": 3})
        counts = {"policy": 0, "critic": 0}

        def count(name):
            return lambda *args: counts.__setitem__(name, counts[name] + 1) or {"skipped_updates": 0}

        made._update_policy, made._update_critic = count("policy"), count("critic")
        made.learn([MiniBatch([], 1, 1)] * 2, step=1, policy_learns=True)
        assert counts == {"policy": 2, "critic": 6}
        made.learn([MiniBatch([], 1, 1)] * 2, step=2, policy_learns=False)
        assert counts == {"policy": 2, "critic": 12}

    def test_updates_approach_what_they_are_meant_to(self, updates):
        """The critic's error falls, and a completion of positive advantage becomes likelier."""
        made, samples = updates("ppo", kl="none", whiten_advantages=False), samples_of()
        steps = [mini_batch(samples)]
        made.prepare(steps, policy_learns=True, report=None)
        batch = steps[0].batches[0]
        with torch.no_grad():
            before, _ = action_log_probs(made.policy.model, batch, 0.7)
        losses = [made.learn(steps, step=step, policy_learns=step == 1)["critic/loss"] for step in range(1, 6)]
        assert losses[-1] < 0.9 * losses[0]
        with torch.no_grad():
            after, _ = action_log_probs(made.policy.model, batch, 0.7)
        assert ((after - before) * batch["advantages"]).sum() > 0

    def test_the_shift_gate_follows_the_running_mean(self, updates, monkeypatch):
        gates = []
        original = policy_updates.critic_loss
        monkeypatch.setattr(
            policy_updates,
            "critic_loss",
            lambda *args, shift_gate, **kw: gates.append(shift_gate) or original(*args, shift_gate=shift_gate, **kw),
        )
        made, steps = updates("dvpo"), [mini_batch(samples_of())]
        made.prepare(steps, policy_learns=False, report=None)
        found = made.learn(steps, step=1, policy_learns=False)["critic/underestimation"]
        assert made.underestimation == pytest.approx(0.05 * found)
        made.learn(steps, step=2, policy_learns=False)
        assert gates == [False, found > 0]

    def test_skipped_updates_are_counted_and_left_out_of_the_means(self, updates):
        """The first mini-batch has a reward that is not finite; the second's numbers are those that are reported."""
        made, steps = updates("dvpo"), [mini_batch(samples_of()), mini_batch(samples_of(seed=1))]
        made.prepare(steps, policy_learns=True, report=None)
        before = weights(made.policy.model)
        for name in ("advantages", "returns"):
            steps[0].batches[0][name] = steps[0].batches[0][name] * float("inf")
        metrics = made.learn(steps, step=7, policy_learns=True)
        assert metrics["skipped_updates"] == metrics["critic/skipped_updates"] == 1
        assert all(math.isfinite(value) for value in metrics.values()) and math.isfinite(made.underestimation)
        assert not same(made.policy.model, before)
        before = weights(made.policy.model)
        metrics = made.learn(steps[:1], step=8, policy_learns=True)
        assert math.isnan(metrics["policy_loss"]) and math.isnan(metrics["critic/loss"])
        assert metrics["skipped_updates"] == 2 and same(made.policy.model, before)

    def test_too_many_skipped_updates_name_step_and_model(self, updates):
        made, steps = updates("dvpo"), [mini_batch(samples_of())]
        made.policy.max_skipped_updates = 0
        made.prepare(steps, policy_learns=True, report=None)
        steps[0].batches[0]["advantages"] = steps[0].batches[0]["advantages"] * float("inf")
        with pytest.raises(FloatingPointError, match="Step 7, policy: loss nan"):
            made.learn(steps, step=7, policy_learns=True)


@pytest.mark.parametrize("init", [True, False])
def test_an_adapters_base_is_the_reference(models, init):
    """Without a model of its own the reference is the policy without its adapter, which then is on again."""
    import peft

    policy, _ = copy.deepcopy(models)
    base = copy.deepcopy(policy)
    policy.add_adapter(peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=init))
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    args = AlgorithmArguments(algorithm="grpo", num_epochs=2)
    made = updates_of(policy, None, args)
    steps = [mini_batch(samples_of())]
    made.prepare(steps, policy_learns=True, report=None)
    batch = steps[0].batches[0]
    with torch.no_grad():
        assert_close(batch["reference_log_probs"], action_log_probs(base, batch, 0.7)[0])
        assert_close(batch["old_log_probs"], action_log_probs(policy, batch, 0.7)[0])
    assert torch.allclose(batch["old_log_probs"], batch["reference_log_probs"], atol=1e-5) == init
    assert trained == [name for name, p in policy.named_parameters() if p.requires_grad]
    assert made.learn(steps, step=1, policy_learns=True)["grad_norm"] > 0
