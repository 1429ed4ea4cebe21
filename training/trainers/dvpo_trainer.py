"""A policy, with or without a critic: rollouts, rewards, updates, and what is written on the way."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from modeling_dvpo.metrics.report import CriticReport, discrete_tolerance
from modeling_dvpo.metrics.two_valued import two_values
from modeling_dvpo.ranks import is_main, rank, world_size

from ..algorithms.advantages import ALGORITHMS, group_advantages
from ..algorithms.online_critic import OnlineCritic
from ..algorithms.policy_arguments import (
    AlgorithmArguments,
    PolicyArguments,
    PolicyCriticArguments,
    PolicyTrainingArguments,
    RewardArguments,
    unused_settings,
)
from ..algorithms.updates import PolicyUpdates
from ..data.arguments import PromptArguments
from ..data.fingerprints import prompt_facts, require_same_data
from ..data.layout import choose_layout
from ..data.prompts import PromptSampler, load_prompts
from ..engine.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from ..engine.distributed import (
    gather_lists,
    main_process_first,
    shard,
    share_of,
    sum_over_ranks,
    waiting_at_most,
    whole_weights,
)
from ..engine.learner import Learner
from ..errors import ConfigError
from ..models.critics import load_config_and_tokenizer
from ..models.pairs import save_pair
from ..models.policies import (
    add_adapter,
    base_of,
    load_policy,
    load_reference,
)
from ..models.trainable import choose_trainable, parameter_counts
from ..rewards.functions import load_reward_function, reward_names
from ..rewards.logs import add_logged
from ..rewards.noise import parse_reward_noise
from ..rollouts.environments import load_environment
from ..rollouts.generation import RolloutArguments
from ..rollouts.mini_batches import Layout
from ..rollouts.report import evaluate_policy, sample_metrics, sample_table
from ..rollouts.rollouts import roll_out
from ..rollouts.samples import (
    Sample,
    Scorer,
    outcome_returns,
)
from ..run.directory import claim_run_directory
from ..run.pushing import pushing_of
from ..run.tracking import RunLog

ARGUMENTS = (
    PolicyArguments, PromptArguments, RolloutArguments, RewardArguments, AlgorithmArguments, PolicyCriticArguments,
    PolicyTrainingArguments,
)  # fmt: skip


class DVPOTrainer:
    """Everything between the settings and the trained pair of policy and critic, in the order it happens."""

    def __init__(
        self,
        policy_args,
        prompt_args,
        rollout_args,
        reward_args,
        algorithm_args,
        critic_args,
        args,
        *,
        settings,
        device,
    ):
        self.rollout_args, self.algorithm_args, self.args = rollout_args, algorithm_args, args
        self.settings, self.device = settings, device
        self.algorithm = ALGORITHMS[algorithm_args.algorithm]
        if args.push_to and self.algorithm.advantages != "critic":
            raise ConfigError(f"{algorithm_args.algorithm} has no critic to push with the policy: leave push_to out.")
        self.pushing = pushing_of(args, what=("policy", "critic"))
        set_seed(args.seed)
        # Data and rewards first: bad input is named before any weights are read.
        policy_config, self.tokenizer = load_config_and_tokenizer(base_of(policy_args))
        self.load_prompts(prompt_args, policy_config)
        functions = [load_reward_function(name) for name in reward_args.reward_funcs]
        self.score = Scorer(
            dict(zip(reward_names(functions), functions, strict=True)),
            reward_args.reward_weights,
            parse_reward_noise(reward_args.reward_noise, seed=args.seed),
        )
        self.score.trainer_state.max_steps = args.max_steps
        self.score.trainer_state.is_world_process_zero = is_main()
        self.environment = load_environment(reward_args.environment) if reward_args.environment else None

        self.policy = policy = load_policy(policy_args)
        uses_reference = algorithm_args.kl != "none" and algorithm_args.kl_coef > 0
        reference = load_reference(policy, policy_args) if uses_reference else None
        self.critic = None
        if self.algorithm.advantages == "critic":
            options = {"algorithm": algorithm_args.algorithm, "tokenizer": self.tokenizer, "device": device}
            self.critic = OnlineCritic(policy_args, critic_args, args, **options)
        self.critic_warmup_steps = critic_args.critic_warmup_steps if self.critic else 0
        layout = choose_layout(policy, self.tokenizer, args.packing)
        self.lay_out = Layout(
            **layout,
            max_tokens=args.max_tokens_per_device,
            num_mini_batches=algorithm_args.num_mini_batches,
            drop_truncated_rewards=algorithm_args.bootstrap_truncated,
            device=device,
        )
        add_adapter(policy, policy_args)
        choose_trainable(policy, policy_args)
        if args.gradient_checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
            policy.train()  # dropout is off; checkpointing asks for this mode
        trained, parameters = parameter_counts(policy)
        shard(policy, device, bf16=args.bf16)
        if reference is not None:
            shard(reference, device, bf16=args.bf16)
        self.updates = PolicyUpdates(
            Learner(policy, args, args.max_steps - self.critic_warmup_steps, device),
            reference,
            algorithm_args,
            critic_args,
            temperature=rollout_args.temperature,
            max_completion_length=rollout_args.max_completion_length,
            seed=args.seed,
        )
        data = prompt_facts(self.prompts, "training")
        for name, prompts in self.eval_prompts.items():
            data |= prompt_facts(prompts, name)
        self.progress: dict[str, Any] = {"step": 0, "underestimation": 0.0, "metrics": {}, "critic": {}, "data": data}
        if args.resume and (found := list_checkpoints(args.output_dir)):
            self.load_checkpoint(found[-1])
            require_same_data(self.progress.get("data"), data, args.output_dir)
        self.log = RunLog(args.max_steps, self.progress["step"], self.progress.setdefault("since_line", {}))
        if unused := unused_settings(algorithm_args, critic_args):
            self.log.say(f"{algorithm_args.algorithm} has no critic, and no use for {', '.join(unused)}.")
        self.log.say(
            f"{algorithm_args.algorithm}: {type(policy).__name__}, {trained:,} of {parameters:,} parameters train\n"
            f"{len(self.prompts):,} prompts, {rollout_args.num_generations} completions each, "
            f"{'packed' if layout['packing'] else 'padded'}; {args.max_steps} steps; "
            f"{world_size()} process(es) on {device}"
        )

    def load_prompts(self, prompt_args, policy_config) -> None:
        """The prompts to train on and the held-out ones; checks that a micro-batch has room for any completion."""
        longest, room = self.rollout_args.max_completion_length, self.args.max_tokens_per_device
        options = {"model_config": policy_config, "max_completion_length": longest}

        def load(name, split):
            # another set's configurations are not this one's
            config = prompt_args.dataset_config if name == prompt_args.dataset else None
            return load_prompts(name, split, prompt_args, self.tokenizer, config=config, **options)

        names = [Path(name).stem for name in prompt_args.eval_dataset]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"eval_dataset has two sets named {twice[0]!r}, as metrics would: rename one of them.")
        with main_process_first():
            self.prompts = load(prompt_args.dataset, prompt_args.dataset_split)
            sets = [load(name, prompt_args.eval_split) for name in prompt_args.eval_dataset]
        self.eval_prompts = dict(zip(names, sets, strict=True))
        self.sampler = PromptSampler(
            len(self.prompts), prompts_per_step=self.args.prompts_per_step, seed=self.args.seed
        )
        prompt = max(self.prompts.tokens["length"])
        if prompt + longest > room:
            raise ConfigError(
                f"max_tokens_per_device is {room}, and the longest prompt has {prompt} tokens, a completion up to "
                f"{longest}: raise it to {prompt + longest}, or lower max_completion_length or max_prompt_length."
            )

    def train(self) -> None:
        args, first = self.args, self.progress["step"] + 1
        evaluated = self.evaluate() if first == 1 else None
        for step in range(first, args.max_steps + 1):
            # the first step also warms up kernels
            with waiting_at_most(args.init_timeout if step == first else args.train_timeout, args.init_timeout):
                metrics = self.step(step)
            self.progress |= {"step": step, "metrics": metrics}
            if not self.log.opened:
                claim_run_directory(
                    args.output_dir, self.settings, resume=args.resume, overwrite=args.overwrite_output_dir
                )
                self.log.open(args.output_dir, args.report_to, self.settings)
                if evaluated:
                    self.log_evaluation(0, *evaluated)
            self.log.step(step, metrics, shown=("reward", "completion_length"))
            last = step == args.max_steps
            if last or step % args.logging_steps == 0:
                self.log.write_means(step)
                self.log.write_table("completions", step, sample_table(self.samples, "training"))
            if last or (args.eval_steps and step % args.eval_steps == 0):
                self.log_evaluation(step, *self.evaluate())
            if last or (args.save_steps and step % args.save_steps == 0):
                self.save_checkpoint(step)
            if self.pushing and not last and self.pushing.is_due(step):
                self.pushing(self.save(), step)
        directory = self.save()
        if self.pushing:
            self.pushing.finish(directory, args.max_steps)
            self.log.say(f"pushed to {' and '.join(args.push_to)}")
        self.log.close()

    def step(self, step: int) -> dict[str, float]:
        """Rollouts, rewards and updates; the step's metrics."""
        started = time.perf_counter()
        samples = self.collect(step)
        sampled = time.perf_counter()
        if self.critic:
            returns = outcome_returns(samples, self.algorithm_args.gamma)
            if self.critic.started:
                self.critic.follow(returns)
            else:
                self.critic.start(returns, self.settings, self.updates.loss_config)
                self.use_critic(self.critic)
        report = None
        if self.critic and (step % self.args.logging_steps == 0 or step == self.args.max_steps):
            rewards = torch.tensor([sample.reward for sample in samples])
            # a penalty in the reward makes many values of two
            values = () if self.algorithm_args.kl == "reward" else two_values(returns)
            report = CriticReport(rewards, tolerance=discrete_tolerance(rewards), values=values)
        policy_learns = step > self.critic_warmup_steps
        mini_batches = self.lay_out(samples, seed=seed_of(self.args.seed, step))
        metrics = sample_metrics(samples)
        metrics |= self.updates.prepare(mini_batches, policy_learns=policy_learns, report=report)
        rate, _ = self.updates.policy.learning_rates()
        metrics |= self.updates.learn(mini_batches, step=step, policy_learns=policy_learns)
        if policy_learns:
            metrics["learning_rate"] = rate
            self.updates.policy.schedule.step()
        if self.updates.critic_learner:
            body, heads = self.updates.critic_learner.learning_rates()
            metrics |= {"critic/learning_rate": body, "critic/heads_learning_rate": heads}
            self.updates.critic_learner.schedule.step()
        self.score.trainer_state.global_step = step
        if report:
            report.reduce(sum_over_ranks)
            metrics |= {f"critic/{name}": value for name, value in report.compute().items()}
        self.samples = samples[: self.args.log_completions]  # for people to read
        seconds = time.perf_counter() - started
        metrics = add_logged(metrics, self.logged)
        return metrics | {
            "seconds": seconds,
            "rollout_seconds": sampled - started,
            "tokens_per_second": sum(sample.num_actions for sample in samples) / seconds,
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
        state = self.score.trainer_state
        state.global_step, state.epoch = step - 1, (step - 1) * len(places) / len(self.prompts)
        samples = gather_lists(self.score(rollouts, groups, sample_ids))
        self.logged = self.score.take_metrics()
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

    def evaluate(self) -> tuple[dict[str, float], list[dict]]:
        """Clean rewards on each held-out set, and a few samples of each; randomness of training is untouched."""
        for name, prompts in self.eval_prompts.items():
            self.log.say(f"evaluating on {len(prompts):,} prompts of {name}")
        temperature = self.args.eval_temperature
        rollout_args = replace(self.rollout_args, temperature=temperature or self.rollout_args.temperature)
        answer = partial(self.roll_out, seed=0, args=rollout_args, greedy=temperature == 0)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return evaluate_policy(
                self.eval_prompts,
                answer,
                self.score,
                num_generations=self.args.eval_generations,
                num_shown=self.args.log_completions,
            )

    def log_evaluation(self, step: int, metrics: dict[str, float], shown: list[dict]) -> None:
        if metrics:
            self.log.write(step, metrics)
            self.log.write_table("completions", step, shown)
            rewards = {
                n: v for n, v in metrics.items() if not n.endswith(("completion_length", "truncated", "prompts"))
            }
            self.log.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in rewards.items()))

    def use_critic(self, critic: OnlineCritic) -> None:
        self.updates.critic, self.updates.critic_learner = critic.model, critic.learner

    def learners(self) -> dict[str, Learner]:
        learners = {"policy": self.updates.policy, "critic": self.updates.critic_learner}
        return {name: learner for name, learner in learners.items() if learner}

    def save_checkpoint(self, step: int) -> None:
        self.progress["underestimation"] = self.updates.underestimation
        self.progress["critic"] = self.critic.learnt_settings if self.critic else {}
        save_checkpoint(self.args.output_dir, step, self.learners(), self.progress, keep=self.args.save_total_limit)

    def load_checkpoint(self, checkpoint: Path) -> None:
        if self.critic:
            self.critic.place()
            self.use_critic(self.critic)
        self.progress = load_checkpoint(checkpoint, self.learners())
        self.updates.underestimation = self.progress["underestimation"]
        if self.critic:
            self.critic.learnt_settings = self.progress["critic"]

    def save(self) -> Path:
        directory, critic = Path(self.args.output_dir) / "last", self.critic.model if self.critic else None
        options = {"step": self.progress["step"], "settings": self.settings, "metrics": self.progress["metrics"]}
        options["chat"] = not isinstance(self.prompts[0].prompt, str)
        save_pair(directory, self.policy, critic, self.tokenizer, **options)
        self.log.say(f"saved {directory}")
        return directory


def seed_of(*parts: int) -> int:
    """One seed from several numbers, without patterns between neighbours."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
