"""A critic from a reward set: data, model, the loop over optimizer steps, and what is written on the way."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.ranks import rank, world_size

from ..algorithms.critic_arguments import CriticArguments, TrainingArguments
from ..algorithms.critic_loss import critic_loss, running_mean
from ..algorithms.held_out import evaluate, is_better
from ..algorithms.representation import chosen_representation, describe_heads, require_inside, with_heads
from ..algorithms.targets import Targets, dataset_returns, target_returns
from ..data.arguments import RewardDataArguments
from ..data.fingerprints import require_same_data, reward_set_facts
from ..data.layout import choose_layout, require_room
from ..data.packing import RewardBatchSampler, RewardCollator
from ..data.reward_sets import load_reward_data
from ..engine.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from ..engine.distributed import (
    shard,
    sum_over_ranks,
    waiting_at_most,
)
from ..engine.learner import Learner
from ..models.critics import load_config_and_tokenizer, load_critic, save_critic
from ..models.records import offline_record, warn_of_other_meaning
from ..models.trainable import choose_trainable, parameter_counts
from ..run.directory import claim_run_directory
from ..run.pushing import pushing_of
from ..run.tracking import RunLog

ARGUMENTS = (CriticArguments, RewardDataArguments, TrainingArguments)


class CriticTrainer:
    """Everything between the settings and the trained critic, in the order it happens."""

    def __init__(self, critic_args, data_args, args, *, settings, device):
        self.args, self.settings, self.device = args, settings, device
        self.loss_config = CriticLossConfig.from_dict(args.critic_loss)
        self.pushing = pushing_of(args, what=("critic",))
        set_seed(args.seed)
        # Data first: bad input is named before any weights are read.
        parent_config, self.tokenizer = load_config_and_tokenizer(critic_args)
        self.train_set, self.eval_set = load_reward_data(
            data_args, self.tokenizer, model_config=parent_config, seed=args.seed
        )
        set_seed(args.seed)  # reward functions may have drawn, on each rank others; fresh weights must be the same
        longest = max(max(rows["length"]) for rows in (self.train_set, self.eval_set) if rows)
        require_room(longest, args.max_tokens_per_device)
        returns = dataset_returns(self.train_set, args.gamma)
        self.eval_returns = dataset_returns(self.eval_set, args.gamma) if self.eval_set else None

        record = offline_record(settings, returns, training_rows=len(self.train_set))
        warn_of_other_meaning(parent_config, record)
        of_critic = hasattr(parent_config, "num_value_heads")
        fresh = critic_args.fresh_heads or not of_critic
        representation = chosen_representation(critic_args, args, returns) if fresh else None
        self.critic = critic = load_critic(with_heads(critic_args, representation), replace=fresh and of_critic)
        if representation:
            critic.config.value_clip = representation.value_clip
        else:
            require_inside(critic.config, returns)
        critic.fit_return_scale(returns, fresh_heads=fresh)
        critic.config.critic_loss = self.loss_config.to_dict()
        critic.config.critic_training = record
        layout = choose_layout(critic, self.tokenizer, args.packing)
        choose_trainable(critic, critic_args)
        if args.gradient_checkpointing:
            critic.gradient_checkpointing_enable({"use_reentrant": False})
        trained, parameters = parameter_counts(critic)
        shard(critic, device, bf16=args.bf16)
        # ranks agree on the fresh weights, and then draw dropout and sampled targets of their own
        torch.manual_seed(args.seed + rank())

        self.collate = RewardCollator(**layout)
        self.shares = {"max_tokens": args.max_tokens_per_device, "packing": layout["packing"]}
        self.shares |= {"rank": rank(), "world_size": world_size()}
        self.sampler = RewardBatchSampler(
            self.train_set["length"], rows_per_step=args.rows_per_step, seed=args.seed, **self.shares
        )
        steps = math.ceil(args.num_train_epochs * len(self.sampler))
        self.total_steps = args.max_steps if args.max_steps > 0 else steps
        self.learner = Learner(critic, args, self.total_steps, device)
        self.targets = Targets(returns=args.returns, gamma=args.gamma, lam=args.lam, target=args.target)
        data = self.data_facts()
        self.progress: dict[str, Any] = {"step": 0, "underestimation": 0.0, "report": None, "best": None, "data": data}
        if args.resume and (found := list_checkpoints(args.output_dir)):
            self.progress = load_checkpoint(found[-1], {"critic": self.learner})
            require_same_data(self.progress.get("data"), data, args.output_dir)
        self.log = RunLog(self.total_steps, self.progress["step"], self.progress.setdefault("since_line", {}))
        self.log.say(
            f"{type(critic).__name__}: {describe_heads(critic.config)}"
            f"{f' ({representation.reason})' if representation and representation.reason else ''}, "
            f"{trained:,} of {parameters:,} parameters train\n"
            f"{len(self.train_set):,} rows to train on, {len(self.eval_set or ()):,} held out, "
            f"{'packed' if layout['packing'] else 'padded'}; {self.total_steps} steps; "
            f"{world_size()} process(es) on {device}"
        )

    def data_facts(self) -> dict:
        """What a run that goes on must find as it was: its rows, and the units that the heads have learnt in."""
        config = self.critic.config
        facts = reward_set_facts(self.train_set, "training")
        facts |= reward_set_facts(self.eval_set, "held-out") if self.eval_set else {}
        # not to the last digit, which other hardware may round otherwise
        return facts | {"units of returns": f"mean {config.return_mean:.6g}, scale {config.return_scale:.6g}"}

    def train(self) -> None:
        args = self.args
        self.critic.train()
        if not self.progress["step"]:
            self.evaluate()
        started, tokens = time.perf_counter(), 0.0
        while (step := self.progress["step"]) < self.total_steps:
            epoch, start = divmod(step, len(self.sampler))
            for micro_batches in self.sampler.steps(epoch, start):
                step += 1
                # the first step also warms up kernels
                patience = args.train_timeout if self.log.opened else args.init_timeout
                with waiting_at_most(patience, args.init_timeout):
                    metrics = self.optimizer_step(step, micro_batches)
                if not self.log.opened:
                    self.begin_to_write()
                tokens += metrics["action_tokens"]
                shown = ("loss", "quantile", "cvar", "clipped", "grad_norm")
                self.log.step(step, metrics, shown=tuple(name for name in shown if name in metrics))
                last = step == self.total_steps
                if last or step % args.logging_steps == 0:
                    speed = tokens / (time.perf_counter() - started)
                    self.log.write_means(step, {"action_tokens_per_second": speed})
                if last or (args.eval_steps and step % args.eval_steps == 0):
                    self.evaluate()
                    self.keep_best()
                if last or (args.save_steps and step % args.save_steps == 0):
                    learners, keep = {"critic": self.learner}, args.save_total_limit
                    save_checkpoint(args.output_dir, step, learners, self.progress, keep=keep)
                if self.pushing and not last and self.pushing.is_due(step):
                    self.pushing(self.best_or_last(), step)
                if last:
                    break
        self.save("last")
        if self.pushing:
            self.pushing.finish(self.best_or_last(saved=True), step)
            self.log.say(f"pushed to {self.args.push_to[0]}")
        self.log.close()

    def begin_to_write(self) -> None:
        """Take the directory once a step has worked, so that a start that fails leaves it free."""
        args = self.args
        claim_run_directory(args.output_dir, self.settings, resume=args.resume, overwrite=args.overwrite_output_dir)
        self.log.open(args.output_dir, args.report_to, self.settings)
        if self.progress["step"] == 1:
            self.log_report(0)

    def optimizer_step(self, step: int, micro_batches) -> dict[str, float]:
        """Forward, backward and update on one step's rows; its metrics, summed over micro-batches and ranks."""
        batches = [self.batch(micro) for micro in micro_batches]
        num_items = sum_over_ranks(torch.stack([batch["completion_mask"].sum() for batch in batches]).sum()).item()

        def loss_of(batch):
            return critic_loss(
                self.critic,
                batch,
                lambda quantiles: target_returns(batch, quantiles, self.targets),
                self.loss_config,
                num_items=num_items,
                shift_gate=self.progress["underestimation"] > 0,
                bootstrap=self.targets.returns == "lambda",
            )

        learning_rate, heads_learning_rate = self.learner.learning_rates()
        metrics = self.learner.update(batches, loss_of, where=f"Step {step}")
        self.learner.schedule.step()
        if self.learner.was_updated:
            mean = running_mean(self.progress["underestimation"], metrics["underestimation"])
            self.progress["underestimation"] = mean
        self.progress["step"] = step
        rates = {"learning_rate": learning_rate, "heads_learning_rate": heads_learning_rate}
        return {**metrics, **rates, "epoch": step / len(self.sampler), "action_tokens": num_items}

    def batch(self, micro) -> dict[str, torch.Tensor]:
        batch = self.collate([self.train_set[i] for i in micro.rows], filler=micro.filler)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def evaluate(self) -> None:
        if not self.eval_set:
            return
        self.log.say(f"evaluating on {len(self.eval_set):,} held-out rows")
        with self.learner.compute_dtype():
            report = evaluate(
                self.critic,
                self.eval_set,
                self.eval_returns,
                self.collate,
                self.args.gamma,
                self.shares,
                self.device,
            )
        report |= {"rows": len(self.eval_set), "prompts": len(set(self.eval_set["prompt_id"]))}
        self.progress["report"] = report
        step = self.progress["step"]
        self.log.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in report.items()))
        if self.log.opened:
            self.log_report(step)

    def log_report(self, step: int) -> None:
        self.log.write(step, {f"eval_{name}": value for name, value in (self.progress["report"] or {}).items()})

    def keep_best(self) -> None:
        report = self.progress["report"]
        if report and is_better(report, self.progress["best"], self.args.best_metric):
            self.progress["best"] = report
            self.save("best")

    def best_or_last(self, *, saved: bool = False) -> Path:
        """The directory to push: the best critic where rows are held out, else this one, saved now."""
        if self.progress["best"]:
            return Path(self.args.output_dir) / "best"
        if not saved:
            self.save("last")
        return Path(self.args.output_dir) / "last"

    def save(self, name: str) -> None:
        directory, progress = Path(self.args.output_dir) / name, self.progress
        save_critic(self.critic, self.tokenizer, directory, step=progress["step"], report=progress["report"])
        self.log.say(f"saved {directory}")
