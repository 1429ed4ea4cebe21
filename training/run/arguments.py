"""Settings that every training script has: where a run writes, how its optimizer steps, how often it looks."""

import json
import math
from dataclasses import dataclass, field

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.ranks import INIT_TIMEOUT, TRAIN_TIMEOUT

from ..errors import ConfigError
from .tracking import check_trackers

# See `engine.learner.rate_share`.
SCHEDULES = ("cosine", "linear", "constant_with_warmup")


def option(default, help: str):
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class RunArguments:
    output_dir: str = field(metadata={"help": "Where the run writes; must not hold another run."})
    resume: bool = option(False, "Go on from the newest checkpoint, if there is one.")
    overwrite_output_dir: bool = option(False, "Delete the run in output_dir, once step 1 of this one is done.")
    max_tokens_per_device: int = option(8192, "Tokens of one micro-batch, padding included: sets memory, not results.")
    packing: bool | None = option(
        None, "Rows end to end; by default with flash or flex attention, if they stay apart."
    )
    learning_rate: float = option(1e-5, "Peak rate of the body or adapter, of AdamW (betas 0.9 and 0.95).")
    lr_scheduler_type: str = option("cosine", f"Schedule after the warm-up: {', '.join(SCHEDULES)}.")
    warmup_ratio: float = option(0.05, "Share of the steps that warm up; the last of them has the peak rate.")
    weight_decay: float = option(0.0, "AdamW's decay of matrices; norms and biases do not decay.")
    max_grad_norm: float = option(1.0, "The gradient's norm is clipped to this; inf for never.")
    max_skipped_updates: int = option(
        3, "Updates in a row that are skipped where loss or gradient is not finite; one more ends the run."
    )
    bf16: bool = option(False, "Compute in bfloat16 over float32 weights; heads and loss stay float32.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass.")
    logging_steps: int = option(10, "Write training metrics every n steps.")
    eval_steps: int = option(0, "Evaluate every n steps; 0: before the first and after the last only.")
    save_steps: int = option(0, "Checkpoint every n steps; 0: at the end only.")
    save_total_limit: int = option(1, "Checkpoints kept.")
    push_to: list[str] = option([], "Hub repositories, owner/name: the critic's; of train_dvpo.py the policy's, too.")
    push_every: int = option(0, "Save and push every n steps, beside the end.")
    push_private: bool = option(False, "Repositories that push_to makes are private.")
    report_to: list[str] = option([], "Trackers of accelerate: trackio, wandb, tensorboard, ...")
    init_timeout: float = option(INIT_TIMEOUT, "Seconds a rank waits for the others: at the start, and between steps.")
    train_timeout: float = option(TRAIN_TIMEOUT, "The same inside a step, from this process's second on.")
    seed: int = option(0, "Of fresh weights, held-out prompts, data order, sampling and dropout.")

    def __post_init__(self):
        require_choice(self, lr_scheduler_type=SCHEDULES)
        require_between(self, 0, 1, "warmup_ratio")
        require_at_least_one(self, "max_tokens_per_device", "logging_steps", "save_total_limit")
        require_not_negative(self, "learning_rate", "weight_decay", "eval_steps", "save_steps", "push_every")
        require_not_negative(self, "max_skipped_updates")
        require_positive(self, "max_grad_norm", "init_timeout", "train_timeout")
        check_trackers(self.report_to)


def require_choice(args, **choices) -> None:
    """Raises ConfigError unless each named setting is one of those given for it; so do the functions below."""
    for name, allowed in choices.items():
        if getattr(args, name) not in allowed:
            allowed = ", ".join(str(choice) for choice in allowed if choice is not None)
            raise ConfigError(f"{name} is {getattr(args, name)!r}; it must be one of {allowed}.")


def require_between(args, low: float, high: float, *names: str) -> None:
    for name in names:
        if not low <= getattr(args, name) <= high:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be between {low} and {high}.")


def require_at_least_one(args, *names: str) -> None:
    for name in names:
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be at least 1.")


def require_not_negative(args, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(args, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be a finite number of at least 0.")


def require_positive(args, *names: str) -> None:
    for name in names:
        if not getattr(args, name) > 0:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be more than 0.")


def loss_settings(given: str | dict | None) -> dict:
    """Settings of `CriticLossConfig` from a dict, JSON or nothing; raises ConfigError."""
    settings = mapping("critic_loss", given)
    try:
        CriticLossConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"critic_loss is {given!r}: {error}") from error
    return settings


def mapping(name: str, given: str | dict | None) -> dict:
    """A setting that is a dict, JSON or nothing; raises ConfigError."""
    try:
        settings = json.loads(given) if isinstance(given, str) else given or {}
    except ValueError as error:
        raise ConfigError(f"{name} is {given!r}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{name} is {given!r}: it is a {type(settings).__name__}, and must be a mapping")
    return settings
