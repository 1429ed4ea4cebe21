"""Train a policy with a distributional critic (DVPO), or with one of its baselines.

    python training/train_dvpo.py training/recipes/gsm8k.yaml --output_dir outputs/policy
    torchrun --nproc-per-node 8 training/train_dvpo.py training/recipes/gsm8k.yaml --output_dir outputs/policy

Each step samples completions, scores them, and updates critic and policy on them. One process or many: same script,
same recipe. docs/train_dvpo.md has the settings, the files that are written and what each metric means.
"""

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from modeling_dvpo.critic_report import CriticReport, discrete_tolerance
from modeling_dvpo.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from modeling_dvpo.training.config import ConfigError, parse_config
from modeling_dvpo.training.critic_files import load_config_and_tokenizer
from modeling_dvpo.training.distributed import (
    distributed_run,
    gather_lists,
    is_main,
    main_process_first,
    rank,
    shard,
    sum_over_ranks,
    whole_weights,
    world_size,
)
from modeling_dvpo.training.learner import Learner
from modeling_dvpo.training.packing import RewardBatchSampler, RewardCollator, packing_pays, supports_packing
from modeling_dvpo.training.policy.algorithms import ALGORITHMS, group_advantages
from modeling_dvpo.training.policy.policy_arguments import (
    AlgorithmArguments,
    PolicyArguments,
    PolicyCriticArguments,
    PolicyTrainingArguments,
    RewardArguments,
)
from modeling_dvpo.training.policy.policy_files import (
    critic_record,
    load_online_critic,
    load_policy,
    load_reference,
    save_pair,
    warn_of_other_critic,
)
from modeling_dvpo.training.policy.policy_updates import MiniBatch, PolicyUpdates
from modeling_dvpo.training.policy.prompts import PromptArguments, PromptSampler, load_prompts
from modeling_dvpo.training.policy.rollouts import RolloutArguments, RolloutError, load_environment, roll_out
from modeling_dvpo.training.policy.samples import (
    TOKEN_COLUMNS,
    Sample,
    SampleCollator,
    Scorer,
    outcome_returns,
    share_of,
)
from modeling_dvpo.training.reward_checks import RewardDataError, require_pad_token
from modeling_dvpo.training.reward_noise import parse_reward_noise
from modeling_dvpo.training.reward_scoring import load_reward_function, reward_names
from modeling_dvpo.training.run_directory import check_run_directory, claim_run_directory
from modeling_dvpo.training.tracking import RunLog
from modeling_dvpo.training.trainable import choose_trainable, parameter_counts

ARGUMENTS = (
    PolicyArguments, PromptArguments, RolloutArguments, RewardArguments, AlgorithmArguments, PolicyCriticArguments,
    PolicyTrainingArguments,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the script with these arguments, by default the command line's."""
    parsed = parse_config(ARGUMENTS, arguments)
    args = parsed[-1]
    settings = {name: value for part in parsed for name, value in asdict(part).items()}
    check_run_directory(args.output_dir, settings, resume=args.resume, overwrite=args.overwrite_output_dir)
    transformers_logging.disable_progress_bar()
    with distributed_run() as device:
        if not is_main():
            transformers_logging.set_verbosity_error()
        PolicyRun(*parsed, settings, device).train()


class PolicyRun:
    """Everything between the settings and the trained pair of policy and critic, in the order it happens."""

    def __init__(
        self, policy_args, prompt_args, rollout_args, reward_args, algorithm_args, critic_args, args, settings, device
    ):
        self.policy_args, self.rollout_args, self.critic_args = policy_args, rollout_args, critic_args
        self.algorithm_args, self.args, self.settings, self.device = algorithm_args, args, settings, device
        self.algorithm = ALGORITHMS[algorithm_args.algorithm]
        set_seed(args.seed)
        # Data and rewards first: bad input is named before any weights are read.
        policy_config, self.tokenizer = load_config_and_tokenizer(policy_args)
        options = {"model_config": policy_config, "max_completion_length": rollout_args.max_completion_length}
        with main_process_first():
            self.prompts = load_prompts(
                prompt_args.dataset,
                prompt_args.dataset_split,
                prompt_args,
                self.tokenizer,
                config=prompt_args.dataset_config,
                **options,
            )
            self.eval_prompts = {
                Path(name).stem: load_prompts(
                    name,
                    prompt_args.eval_split,
                    prompt_args,
                    self.tokenizer,
                    config=prompt_args.dataset_config if name == prompt_args.dataset else None,
                    **options,
                )
                for name in prompt_args.eval_dataset
            }
        self.sampler = PromptSampler(len(self.prompts), prompts_per_step=args.prompts_per_step, seed=args.seed)
        functions = [load_reward_function(name) for name in reward_args.reward_funcs]
        self.score = Scorer(
            dict(zip(reward_names(functions), functions, strict=True)),
            reward_args.reward_weights,
            parse_reward_noise(reward_args.reward_noise, seed=args.seed),
        )
        self.environment = load_environment(reward_args.environment) if reward_args.environment else None
        if self.algorithm.advantages == "group" and rollout_args.num_generations < 2:
            raise ConfigError(f"{algorithm_args.algorithm} compares the completions of a prompt: num_generations=8.")

        policy = load_policy(policy_args)
        uses_reference = algorithm_args.kl != "none" and algorithm_args.kl_coef > 0
        reference = load_reference(policy, policy_args) if uses_reference else None
        self.critic = self.critic_parent = None
        if self.algorithm.advantages == "critic":
            self.critic, self.critic_parent = load_online_critic(
                policy_args, critic_args, algorithm_args.algorithm, self.tokenizer
            )
        packing = packing_pays(policy) if args.packing is None else args.packing
        if args.packing and not supports_packing(policy):
            raise ConfigError(f"packing is true, but {type(policy).__name__} would mix packed rows up; leave it out.")
        collate = RewardCollator(
            packing=packing,
            pad_token_id=None if packing else require_pad_token(self.tokenizer),
            token_columns=TOKEN_COLUMNS,
        )
        self.collate = SampleCollator(collate, drop_truncated_rewards=algorithm_args.bootstrap_truncated)
        self.layout = {
            "max_tokens": args.max_tokens_per_device,
            "packing": packing,
            "rank": rank(),
            "world_size": world_size(),
        }
        choose_trainable(policy, policy_args)
        if args.gradient_checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
            policy.train()  # dropout is off; checkpointing asks for this mode
        trained, parameters = parameter_counts(policy)
        shard(policy, device, bf16=args.bf16)
        if reference is not None:
            shard(reference, device, bf16=args.bf16)
        steps = max(args.max_steps - critic_args.critic_warmup_steps, 1)
        self.updates = PolicyUpdates(
            Learner(policy, args, steps, device),
            reference,
            algorithm_args,
            critic_args,
            temperature=rollout_args.temperature,
            max_completion_length=rollout_args.max_completion_length,
            seed=args.seed,
            device=device,
        )
        self.policy = policy
        self.progress = {"step": 0, "underestimation": 0.0, "return_mean": 0.0, "return_scale": 1.0}
        if args.resume and (found := list_checkpoints(args.output_dir)):
            self.load(found[-1])
        self.log = RunLog(args.max_steps, self.progress["step"])
        self.log.say(
            f"{algorithm_args.algorithm}: {type(policy).__name__}, {trained:,} of {parameters:,} parameters train\n"
            f"{len(self.prompts):,} prompts, {rollout_args.num_generations} completions each, "
            f"{'packed' if packing else 'padded'}; {args.max_steps} steps; {world_size()} process(es) on {device}"
        )

    def train(self) -> None:
        args = self.args
        first = self.progress["step"] + 1
        evaluated = self.evaluate() if first == 1 else None
        metrics: dict[str, float] = {}
        for step in range(first, args.max_steps + 1):
            metrics = self.step(step)
            if not self.log.opened:
                claim_run_directory(
                    args.output_dir, self.settings, resume=args.resume, overwrite=args.overwrite_output_dir
                )
                self.log.open(args.output_dir, args.report_to, self.settings)
                if evaluated:
                    self.log_evaluation(0, *evaluated)
            self.log.step(step, {name: metrics[name] for name in ("reward", "completion_length")})
            last = step == args.max_steps
            if last or step % args.logging_steps == 0:
                self.log.write(step, metrics)
            if last or (args.eval_steps and step % args.eval_steps == 0):
                self.log_evaluation(step, *self.evaluate())
            if last or (args.save_steps and step % args.save_steps == 0):
                self.save_checkpoint(step)
        save_pair(
            Path(args.output_dir) / "last",
            self.policy,
            self.critic,
            self.tokenizer,
            step=args.max_steps,
            settings=self.settings,
            metrics=metrics,
        )
        self.log.say(f"saved {Path(args.output_dir) / 'last'}")
        self.log.close()

    def step(self, step: int) -> dict[str, float]:
        """Rollouts, rewards and updates; the step's metrics."""
        started = time.perf_counter()
        samples = self.collect(step)
        sampled = time.perf_counter()
        if self.critic is not None and self.updates.critic is None:
            self.start_critic(samples)
        policy_learns = step > self.critic_args.critic_warmup_steps
        report = None
        if self.critic is not None and (step % self.args.logging_steps == 0 or step == self.args.max_steps):
            rewards = torch.tensor([sample.reward for sample in samples])
            report = CriticReport(rewards, tolerance=discrete_tolerance(rewards))
        mini_batches = self.lay_out(samples, step)
        metrics = sample_metrics(samples, self.score.functions)
        metrics |= self.updates.prepare(mini_batches, policy_learns=policy_learns, report=report)
        rate, _ = self.updates.policy.learning_rates()
        metrics |= self.updates.learn(mini_batches, step=step, policy_learns=policy_learns)
        if policy_learns:
            metrics["learning_rate"] = rate
            self.updates.policy.schedule.step()
        if self.updates.critic_learner:
            self.updates.critic_learner.schedule.step()
        if report is not None:
            report.reduce(sum_over_ranks)
            metrics |= {f"critic/{name}": value for name, value in report.compute().items()}
        self.progress |= {"step": step, "underestimation": self.updates.underestimation}
        seconds = time.perf_counter() - started
        tokens = sum(sample.num_actions for sample in samples)
        return metrics | {
            "seconds": seconds,
            "rollout_seconds": sampled - started,
            "tokens_per_second": tokens / seconds,
            "samples": step * len(samples),
        }

    def collect(self, step: int) -> list[Sample]:
        """The step's scored completions, of all ranks, on every rank; group advantages are in them."""
        places, each = self.sampler.step(step - 1), self.rollout_args.num_generations
        own = share_of(places, rank(), world_size())
        groups = [group for group in own for _ in range(each)]
        first = (step - 1) * len(places) * each
        sample_ids = [first + group * each + i for group in own for i in range(each)]
        prompts = [self.prompts[places[group]] for group in own]
        rollouts = self.roll_out([prompt for prompt in prompts for _ in range(each)], seed=step)
        samples = gather_lists(self.score(rollouts, groups, sample_ids))
        if self.algorithm.advantages == "group":
            scores = torch.tensor([sample.reward for sample in samples])
            index = torch.tensor([sample.group for sample in samples])
            advantages = group_advantages(scores, index, standardize=self.algorithm.standardize)
            samples = [replace(s, advantage=a) for s, a in zip(samples, advantages.tolist(), strict=True)]
        return samples

    def roll_out(self, prompts, *, seed: int, args: RolloutArguments | None = None, greedy: bool = False):
        # seeded by step and rank: what a step samples does not hang on what came before
        torch.manual_seed(seed_of(self.args.seed, seed, rank()))
        with whole_weights(self.policy), self.updates.policy.compute_dtype():
            return roll_out(
                self.policy,
                self.tokenizer,
                prompts,
                args or self.rollout_args,
                environment=self.environment,
                greedy=greedy,
            )

    def start_critic(self, samples: list[Sample]) -> None:
        """Fix the units of returns by the first completions; from then on the critic trains."""
        critic, args = self.critic, self.critic_args
        returns = outcome_returns(samples, self.algorithm_args.gamma)
        record = critic_record(self.settings, returns)
        fresh = not hasattr(self.critic_parent, "num_value_heads")
        if not fresh:
            warn_of_other_critic(self.critic_parent, record)
        if args.critic_trainable != "none":
            critic.fit_return_scale(returns, fresh_heads=fresh)
            critic.config.critic_training = record
            critic.config.critic_loss = self.updates.loss_config.to_dict()
        self.progress |= {"return_mean": critic.config.return_mean, "return_scale": critic.config.return_scale}
        self.shard_critic()

    def shard_critic(self) -> None:
        critic, args = self.critic, self.critic_args
        frozen = args.critic_trainable == "none"
        if frozen:
            critic.requires_grad_(False)
        else:
            critic_settings = {
                **vars(self.policy_args),
                "model_name_or_path": args.critic or self.policy_args.model_name_or_path,
                "trainable": args.critic_trainable,
            }
            choose_trainable(critic, _Settings(critic_settings))
            if self.args.gradient_checkpointing:
                critic.gradient_checkpointing_enable({"use_reentrant": False})
                critic.train()
        shard(critic, self.device, bf16=self.args.bf16)
        self.updates.critic = critic
        if not frozen:
            rates = {"learning_rate": args.critic_learning_rate, "heads_learning_rate": args.heads_learning_rate}
            settings = _Settings({**vars(self.args), **rates})
            self.updates.critic_learner = Learner(critic, settings, self.args.max_steps, self.device)

    def lay_out(self, samples: list[Sample], step: int) -> list[MiniBatch]:
        """Cut the samples into mini-batches, and these into this rank's micro-batches, on the device."""
        lengths = [len(sample.input_ids) for sample in samples]
        if max(lengths) > self.args.max_tokens_per_device:
            raise ConfigError(
                f"max_tokens_per_device is {self.args.max_tokens_per_device}, and a completion with its prompt has "
                f"{max(lengths)} tokens: raise it, or lower max_completion_length."
            )
        rows = -(-len(samples) // self.algorithm_args.num_mini_batches)
        order = {"rows_per_step": rows, "seed": seed_of(self.args.seed, step)}
        mini_batches = []
        whole = {"max_tokens": sum(lengths), "packing": True}
        members = RewardBatchSampler(lengths, **order, **whole).steps()
        for plan, everywhere in zip(RewardBatchSampler(lengths, **order, **self.layout).steps(), members, strict=True):
            chosen = [row for micro in everywhere for row in micro.rows]
            batches = [self.collate([samples[row] for row in micro.rows], filler=micro.filler) for micro in plan]
            mini_batches.append(
                MiniBatch(
                    [{name: tensor.to(self.device) for name, tensor in batch.items()} for batch in batches],
                    num_tokens=sum(samples[row].num_actions for row in chosen),
                    num_sequences=len(chosen),
                )
            )
        return mini_batches

    def evaluate(self) -> tuple[dict[str, float], list[dict]]:
        """Clean rewards on each held-out set, and a few completions of each; randomness of training is untouched."""
        metrics, shown = {}, []
        temperature = self.args.eval_temperature
        rollout_args = replace(self.rollout_args, temperature=temperature or self.rollout_args.temperature)
        with torch.random.fork_rng():
            for name, prompts in self.eval_prompts.items():
                own = [i for i in share_of(prompts, rank(), world_size()) for _ in range(self.args.eval_generations)]
                rollouts = self.roll_out([prompts[i] for i in own], seed=0, args=rollout_args, greedy=temperature == 0)
                samples = gather_lists(self.score(rollouts, own, own, noise=False))
                found = sample_metrics(samples, self.score.functions)
                metrics |= {
                    f"eval/{name}/{metric.removeprefix('reward/')}": value
                    for metric, value in found.items()
                    if metric.startswith("reward/") or metric in ("completion_length", "truncated")
                }
                shown += [
                    {"dataset": name, "prompt": s.prompt, "completion": s.completion, **s.rewards}
                    for s in samples[: self.args.log_completions]
                ]
        return metrics, shown

    def log_evaluation(self, step: int, metrics: dict[str, float], shown: list[dict]) -> None:
        if metrics:
            self.log.write(step, metrics)
            self.log.write_table("completions", step, shown)
            rewards = {n: v for n, v in metrics.items() if not n.endswith(("completion_length", "truncated"))}
            self.log.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in rewards.items()))

    def learners(self) -> dict[str, Learner]:
        learners = {"policy": self.updates.policy}
        if self.updates.critic_learner:
            learners["critic"] = self.updates.critic_learner
        return learners

    def save_checkpoint(self, step: int) -> None:
        record = self.critic.config.critic_training if self.critic is not None else None
        progress = {**self.progress, "critic_training": record}
        save_checkpoint(self.args.output_dir, step, self.learners(), progress, keep=self.args.save_total_limit)

    def load(self, checkpoint: Path) -> None:
        if self.critic is not None:
            self.shard_critic()
        self.progress = load_checkpoint(checkpoint, self.learners())
        self.updates.underestimation = self.progress["underestimation"]
        if self.critic is not None:
            config = self.critic.config
            config.return_mean, config.return_scale = self.progress["return_mean"], self.progress["return_scale"]
            config.critic_training = self.progress["critic_training"]
            config.critic_loss = self.updates.loss_config.to_dict()


def seed_of(*parts: int) -> int:
    """One seed from several numbers, without patterns between neighbours."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class _Settings:
    """Settings of one script by the names that another one's code knows them by."""

    def __init__(self, settings: dict):
        self.__dict__.update(settings)


def sample_metrics(samples: list[Sample], functions) -> dict[str, float]:
    """Means over samples; of a reward function over those it applies to."""
    rewards = torch.tensor([sample.reward for sample in samples])
    metrics = {"reward": rewards.mean().item(), "reward_std": rewards.std(correction=0).item()}
    for name in functions:
        values = [sample.rewards[name] for sample in samples if sample.rewards[name] is not None]
        metrics[f"reward/{name}"] = sum(values) / len(values) if values else float("nan")
    for name, of in (
        ("completion_length", lambda sample: sample.num_actions),
        ("truncated", lambda sample: sample.truncated),
        ("turns", lambda sample: sample.num_turns),
    ):
        metrics[name] = sum(map(of, samples)) / len(samples)
    return metrics


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, RewardDataError, RolloutError) as error:
        # every rank finds the same error; one says so
        sys.exit(f"{type(error).__name__}: {error}" if os.environ.get("RANK", "0") == "0" else 1)
