"""Settings of `train_critic.py`; the reward set's own are in `data.arguments`, the loss's in `CriticLossConfig`."""

from dataclasses import dataclass, field

from modeling_dvpo.critic.categorical import PROJECTIONS
from modeling_dvpo.critic.value_heads import VALUE_HEAD_TYPES

from ..errors import ConfigError
from ..models.trainable import TRAINABLE
from ..run.arguments import (
    RunArguments,
    loss_settings,
    option,
    require_at_least_one,
    require_between,
    require_choice,
    require_not_negative,
    require_positive,
)
from .held_out import BEST_METRICS, FALLBACK
from .targets import RETURNS


@dataclass(kw_only=True)
class CriticArguments:
    """Which critic, and which part of it trains."""

    model_name_or_path: str = field(metadata={"help": "Causal LM, policy, reward model or critic to start from."})
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    gguf_file: str | None = option(None, "GGUF file there that holds the model, or an adapter's base; it is unpacked.")
    num_value_heads: int | None = option(None, "N of fresh heads; 3 by default.")
    num_quantiles: int | None = option(None, "M of fresh heads; 200 by default, 1 is the scalar critic.")
    value_head_type: str | None = option(
        None, f"Of fresh heads: auto (the default: what the returns ask for), {', '.join(VALUE_HEAD_TYPES)}."
    )
    value_support: list[float] | None = option(
        None, "Their atoms; of bernoulli and bounded ones low and high. By default fitted to the training returns."
    )
    value_projection: str | None = option(
        None, f"Of returns on atoms: {', '.join(PROJECTIONS)}; by default what fits them."
    )
    num_bins: int | None = option(None, "Atoms of a fitted support; 51 by default, 101 with support_quantile.")
    support_quantile: float | None = option(
        None, "Fit the support to this central share of the training returns; those outside count as its ends."
    )
    fresh_heads: bool = option(False, "Fresh heads on a critic's body, for returns that its own cannot hold.")
    attn_implementation: str | None = option(
        None, "sdpa, eager, or flash_attention_2 and flex_attention, which make packing pay."
    )
    trainable: str = option("all", "What trains: all, lora (adapter and heads) or heads (the body stays as it is).")
    lora_r: int = option(16, "Rank of the LoRA update; a loaded adapter keeps its own settings.")
    lora_alpha: int = option(32, "Scale of the LoRA update.")
    lora_dropout: float = option(0.0, "Dropout before the LoRA update.")
    lora_target_modules: str = option("all-linear", "Modules that get a LoRA update: all-linear, or a regex.")

    def __post_init__(self):
        require_choice(self, trainable=TRAINABLE, value_projection=(None, *PROJECTIONS))
        require_choice(self, value_head_type=(None, "auto", *VALUE_HEAD_TYPES))
        if self.num_bins is not None and self.num_bins < 10:
            raise ConfigError(f"num_bins is {self.num_bins}; it must be at least 10, six of them beyond the returns.")
        if self.support_quantile is not None:
            require_between(self, 0.5, 1, "support_quantile")


@dataclass(kw_only=True)
class TrainingArguments(RunArguments):
    """How it trains, and what the run writes."""

    returns: str = option("monte_carlo", "Target returns: monte_carlo, or lambda (of the critic's own quantiles).")
    gamma: float = option(1.0, "Discount per action token.")
    lam: float = option(0.95, "Lambda of lambda-returns.")
    target: str = option("index", "Lambda-returns: index (the paper's) or sampled (right spread).")
    critic_loss: dict | str | None = option(
        None, 'Settings of CriticLossConfig: a mapping, or JSON such as {"risk": 0}.'
    )
    num_train_epochs: float = option(1.0, "Passes over the training rows.")
    max_steps: int = option(-1, "Optimizer steps; replaces num_train_epochs when positive.")
    rows_per_step: int = option(64, "Rows of one optimizer step, over all ranks and micro-batches.")
    heads_learning_rate: float | None = option(None, "Peak rate of the heads; 10 times learning_rate by default.")
    best_metric: str = option(
        "explained_variance_within",
        f"Chooses best/: {', '.join(BEST_METRICS)}; the first two need several completions of a prompt, and without "
        f"them {FALLBACK} chooses.",
    )

    def __post_init__(self):
        super().__post_init__()
        self.critic_loss = loss_settings(self.critic_loss)
        if self.heads_learning_rate is None:
            self.heads_learning_rate = 10 * self.learning_rate
        require_choice(self, returns=RETURNS, target=("index", "sampled"), best_metric=tuple(BEST_METRICS))
        require_between(self, 0, 1, "gamma", "lam")
        require_at_least_one(self, "rows_per_step")
        require_not_negative(self, "heads_learning_rate")
        require_positive(self, "num_train_epochs")


def check_together(data_args, args) -> None:
    """Refuse settings that are each fine, and do not go together.

    Raises:
        ConfigError: says which two, and what to do.
    """
    if args.eval_steps and not (data_args.eval_fraction or data_args.eval_dataset or data_args.eval_split):
        raise ConfigError(
            "eval_steps is set, but nothing is held out: give eval_fraction, eval_dataset or eval_split."
        )
