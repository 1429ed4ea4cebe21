"""Settings of `train_critic.py`; the reward set's own are in `reward_data.py`, the loss's in `CriticLossConfig`."""

import json
import math
from dataclasses import dataclass, field

from modeling_dvpo import CriticLossConfig
from modeling_dvpo.training.config import ConfigError
from modeling_dvpo.training.critic_evaluation import BEST_METRICS
from modeling_dvpo.training.critic_step import RETURNS
from modeling_dvpo.training.tracking import check_trackers
from modeling_dvpo.training.trainable import TRAINABLE

# Those of `transformers.get_scheduler` that need nothing but the number of steps and of warm-up steps.
SCHEDULES = ("cosine", "linear", "constant_with_warmup")


def option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class CriticArguments:
    """Which critic, and which part of it trains."""

    model_name_or_path: str = field(metadata={"help": "Causal LM, policy, reward model or critic to start from."})
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    num_value_heads: int | None = option(None, "N of fresh heads; 3 by default.")
    num_quantiles: int | None = option(None, "M of fresh heads; 200 by default, 1 is the scalar critic.")
    value_head_type: str | None = option(None, "Fresh heads: linear (the default, may cross) or monotone (cannot).")
    attn_implementation: str | None = option(None, "sdpa, eager, flash_attention_2, ...")
    trainable: str = option("all", "What trains: all, lora (adapter and heads) or heads.")
    lora_r: int = option(16, "Rank of the LoRA update.")
    lora_alpha: int = option(32, "Scale of the LoRA update.")
    lora_dropout: float = option(0.0, "Dropout before the LoRA update.")
    lora_target_modules: str = option("all-linear", "Modules that get a LoRA update: all-linear, or a regex.")

    def __post_init__(self):
        _require_choice(self, trainable=TRAINABLE)


@dataclass(kw_only=True)
class TrainingArguments:
    """How it trains, and what the run writes."""

    output_dir: str = field(metadata={"help": "Where the run writes; must not hold another run."})
    resume: bool = option(False, "Go on from the newest checkpoint in output_dir, if there is one.")
    overwrite_output_dir: bool = option(False, "Delete the run in output_dir, once step 1 of this one is done.")
    returns: str = option("monte_carlo", "Target returns: monte_carlo, or lambda (through distributional_gae).")
    gamma: float = option(1.0, "Discount per action token.")
    lam: float = option(0.95, "Lambda of lambda-returns.")
    target: str = option("index", "Lambda-returns: index (the paper's) or sampled (right spread).")
    critic_loss: str | None = option(None, 'Settings of CriticLossConfig: a mapping, or JSON such as {"risk": 0}.')
    num_train_epochs: float = option(1.0, "Passes over the training rows.")
    max_steps: int = option(-1, "Optimizer steps; replaces num_train_epochs when positive.")
    rows_per_step: int = option(64, "Rows of one optimizer step, over all ranks and micro-batches.")
    max_tokens_per_device: int = option(8192, "Tokens of one micro-batch, padding included; the memory setting.")
    packing: bool | None = option(None, "Packed rows; by default with flash or flex attention where rows stay apart.")
    learning_rate: float = option(1e-5, "Peak rate of the body or adapter.")
    heads_learning_rate: float | None = option(None, "Peak rate of the heads; 10 times learning_rate by default.")
    lr_scheduler_type: str = option("cosine", f"Schedule after the warm-up: {', '.join(SCHEDULES)}.")
    warmup_ratio: float = option(0.05, "Share of the steps that warm up.")
    weight_decay: float = option(0.0, "AdamW's decay of matrices.")
    max_grad_norm: float = option(1.0, "The gradient's norm is clipped to this; inf for never.")
    bf16: bool = option(False, "Compute in bfloat16 over float32 weights; heads and loss stay float32.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass.")
    logging_steps: int = option(10, "Write training metrics every n steps.")
    eval_steps: int = option(0, "Evaluate every n steps; 0: before the first and after the last only.")
    save_steps: int = option(0, "Checkpoint every n steps; 0: at the end only.")
    save_total_limit: int = option(1, "Checkpoints kept.")
    best_metric: str = option("explained_variance", f"Chooses best/: {', '.join(BEST_METRICS)}.")
    report_to: list[str] = field(default_factory=list, metadata={"help": "trackio, wandb, tensorboard, ..."})
    seed: int = option(0, "Of fresh heads, data order, dropout and sampled targets.")

    def __post_init__(self):
        self.critic_loss = _loss_settings(self.critic_loss)
        if self.heads_learning_rate is None:
            self.heads_learning_rate = 10 * self.learning_rate
        _require_choice(
            self,
            returns=RETURNS,
            target=("index", "sampled"),
            lr_scheduler_type=SCHEDULES,
            best_metric=tuple(BEST_METRICS),
        )
        for name in ("gamma", "lam", "warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be between 0 and 1.")
        for name in ("rows_per_step", "max_tokens_per_device", "logging_steps", "save_total_limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("learning_rate", "heads_learning_rate", "weight_decay", "eval_steps", "save_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0.")
        for name in ("max_grad_norm", "num_train_epochs"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0.")
        check_trackers(self.report_to)


def _require_choice(args, **choices) -> None:
    for name, allowed in choices.items():
        if getattr(args, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(args, name)!r}; it must be one of {', '.join(allowed)}.")


def _loss_settings(given) -> dict:
    """Settings of `CriticLossConfig` from a dict, JSON or nothing."""
    try:
        settings = json.loads(given) if isinstance(given, str) else given or {}
        if not isinstance(settings, dict):
            raise TypeError(f"it is a {type(settings).__name__}, and must be a mapping of its settings")
        CriticLossConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"critic_loss is {given!r}: {error}") from error
    return settings
