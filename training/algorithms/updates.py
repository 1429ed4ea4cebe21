"""One step's learning: what is fixed before the first update (old log-probabilities, advantages, target returns), and
the updates of policy and critic."""

import math
import random
from typing import Any

import torch

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.inference.risk_measures import risk_measure
from modeling_dvpo.metrics.report import CriticReport
from modeling_dvpo.returns import align_to_actions, monte_carlo_returns

from ..engine.distributed import sum_over_ranks
from ..engine.learner import Learner
from ..models.policies import as_reference
from ..rollouts.mini_batches import MiniBatch
from .advantages import (
    ALGORITHMS,
    bootstrap_quantiles,
    critic_advantages,
    length_adaptive_lam,
    whiten,
)
from .critic_loss import critic_loss, model_inputs, running_mean
from .policy_loss import (
    action_log_probs,
    policy_loss,
    policy_metrics,
    token_weights,
)


class PolicyUpdates:
    """Policy, reference and critic, and how they learn.

    Args:
        policy: the policy's learner.
        reference: frozen model, or None where it is the policy without its adapter; see `load_reference`.
        args: `AlgorithmArguments`.
        critic_args: `PolicyCriticArguments`.
        temperature, max_completion_length: of the rollouts.
        seed: of the order of mini-batches.

    Attributes:
        critic: model, or None for an algorithm without one, and until it has been started.
        critic_learner: its learner, or None where it is frozen.
    """

    def __init__(self, policy: Learner, reference, args, critic_args, *, temperature, max_completion_length, seed):
        self.policy, self.reference = policy, reference
        self.critic: Any = None
        self.critic_learner: Any = None
        self.underestimation = 0.0
        self.args, self.algorithm = args, ALGORITHMS[args.algorithm]
        self.loss_config = CriticLossConfig.from_dict({**self.algorithm.critic_loss, **critic_args.critic_loss})
        self.critic_lam, self.critic_target = critic_args.critic_lam, critic_args.critic_target
        self.critic_epochs = critic_args.num_critic_epochs or args.num_epochs
        self.measure = risk_measure(args.risk_measure, args.risk_level)
        self.uses_reference = args.kl != "none" and args.kl_coef > 0
        self.temperature, self.max_completion_length, self.seed = temperature, max_completion_length, seed

    @torch.no_grad()
    def prepare(self, mini_batches: list[MiniBatch], *, policy_learns: bool, report: CriticReport | None) -> dict:
        """Compute what stays fixed while the step's updates go on, into the micro-batches.

        `old_log_probs` (only where the policy changes before they are last used), `reference_log_probs`,
        `advantages`, and for a critic `returns`.

        Args:
            report: gets the critic's values and the returns that followed.

        Returns:
            `advantage_std`, over all action tokens and before whitening.
        """
        args = self.args
        batches = [batch for mini_batch in mini_batches for batch in mini_batch.batches]
        kl_in_reward = self.uses_reference and args.kl == "reward"
        several_updates = args.num_epochs * len(mini_batches) > 1
        for batch in batches:
            with self.policy.compute_dtype():
                if kl_in_reward or (policy_learns and several_updates):
                    batch["old_log_probs"], _ = action_log_probs(self.policy.model, batch, self.temperature)
                if kl_in_reward or (policy_learns and self.uses_reference):
                    with as_reference(self.policy.model, self.reference) as reference:
                        batch["reference_log_probs"], _ = action_log_probs(reference, batch, self.temperature)
            if kl_in_reward:
                penalty = args.kl_coef * (batch["old_log_probs"] - batch["reference_log_probs"])
                batch["rewards"] = batch["rewards"] - penalty * batch["completion_mask"]
            if self.algorithm.advantages == "critic":
                self._ask_critic(batch, report)
            elif self.algorithm.advantages == "return":
                batch["advantages"] = monte_carlo_returns(
                    batch["rewards"], batch["completion_mask"], gamma=args.gamma, segment_ids=batch.get("segment_ids")
                )
        return self._whiten(batches)

    def _ask_critic(self, batch: dict, report: CriticReport | None) -> None:
        args, mask, segments = self.args, batch["completion_mask"], batch.get("segment_ids")
        with self.policy.compute_dtype():
            output = self.critic(**model_inputs(batch), use_cache=False).quantiles
        quantiles = align_to_actions(output, mask, segments)
        truncated = batch["truncated"]
        adaptive = args.length_adaptive_lam
        lam = args.lam if adaptive is None else length_adaptive_lam(batch["lengths"], adaptive)
        pessimistic, bootstrap = self.algorithm.pessimistic, None
        if args.bootstrap_truncated:
            bootstrap = bootstrap_quantiles(output, mask, truncated, segments, pessimistic=pessimistic)
        batch["advantages"], batch["returns"] = critic_advantages(
            batch["rewards"],
            quantiles,
            mask,
            gamma=args.gamma,
            lam=lam,
            critic_lam=self.critic_lam,
            critic_target=self.critic_target,
            measure=self.measure,
            pessimistic=pessimistic,
            bootstrap=bootstrap,
            segment_ids=segments,
        )
        if report is not None:
            followed = monte_carlo_returns(batch["rewards"], mask, gamma=args.gamma, segment_ids=segments)
            if args.bootstrap_truncated:  # what would have followed a truncated completion is not known
                mask = mask & ~(truncated[:, None] if segments is None else truncated[segments])
            report.add(quantiles[mask], followed[mask])

    def _whiten(self, batches: list[dict]) -> dict[str, float]:
        advantages, masks = [b["advantages"] for b in batches], [b["completion_mask"] for b in batches]
        whitened, deviation = whiten(advantages, masks, sum_over_ranks)
        if self.args.whiten_advantages:
            for batch, advantage in zip(batches, whitened, strict=True):
                batch["advantages"] = advantage
        return {"advantage_std": deviation}

    def learn(self, mini_batches: list[MiniBatch], *, step: int, policy_learns: bool) -> dict[str, float]:
        """All updates of a step; the metrics are means over those that were made, NaN where none was."""
        made: dict[str, list[float]] = {}
        skipped: dict[str, float] = {}

        def note(metrics: dict[str, float], learner: Learner, prefix: str = "") -> None:
            skipped[f"{prefix}skipped_updates"] = metrics.pop("skipped_updates")
            for name, value in metrics.items():
                made.setdefault(prefix + name, []).extend([value] if learner.was_updated else [])

        policy_epochs = self.args.num_epochs if policy_learns else 0
        critic_epochs = self.critic_epochs if self.critic_learner else 0
        for epoch in range(max(policy_epochs, critic_epochs)):
            order = list(mini_batches)
            random.Random(f"{self.seed} {step} {epoch}").shuffle(order)
            for mini_batch in order:
                if epoch < critic_epochs:
                    note(self._update_critic(mini_batch, step), self.critic_learner, "critic/")
                if epoch < policy_epochs:
                    note(self._update_policy(mini_batch, step), self.policy)
        return {name: sum(values) / len(values) if values else math.nan for name, values in made.items()} | skipped

    def _update_critic(self, mini_batch: MiniBatch, step: int) -> dict[str, float]:
        def loss_of(batch):
            return critic_loss(
                self.critic,
                batch,
                lambda _: batch["returns"],
                self.loss_config,
                num_items=mini_batch.num_tokens,
                shift_gate=self.underestimation > 0,
                bootstrap=False,
            )

        metrics = self.critic_learner.update(mini_batch.batches, loss_of, where=f"Step {step}, critic")
        if self.critic_learner.was_updated:
            self.underestimation = running_mean(self.underestimation, metrics["underestimation"])
        return metrics

    def _update_policy(self, mini_batch: MiniBatch, step: int) -> dict[str, float]:
        args = self.args
        clip = {"clip_low": args.clip_low, "clip_high": args.clip_high}

        def loss_of(batch):
            log_probs, entropy = action_log_probs(
                self.policy.model, batch, self.temperature, with_entropy=True, entropy_gradient=args.entropy_coef > 0
            )
            old = batch.get("old_log_probs", log_probs.detach())
            weights = token_weights(
                batch,
                args.aggregation,
                num_tokens=mini_batch.num_tokens,
                num_sequences=mini_batch.num_sequences,
                max_completion_length=self.max_completion_length,
            )
            reference = batch.get("reference_log_probs")
            loss = policy_loss(
                log_probs,
                old,
                batch["advantages"],
                weights,
                **clip,
                reference_log_probs=reference,
                kl_coef=args.kl_coef if args.kl == "loss" else 0.0,
                entropy=entropy,
                entropy_coef=args.entropy_coef,
            )
            return loss, policy_metrics(
                log_probs,
                old,
                batch["advantages"],
                batch["completion_mask"],
                **clip,
                num_tokens=mini_batch.num_tokens,
                reference_log_probs=reference,
                entropy=entropy,
            )

        metrics = self.policy.update(mini_batch.batches, loss_of, where=f"Step {step}, policy")
        return {"policy_loss": metrics.pop("loss"), **metrics}
