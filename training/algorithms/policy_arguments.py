"""Settings of `train_dvpo.py`; those of prompts and rollouts are in `prompts.py` and `rollouts.py`."""

import difflib
from dataclasses import dataclass, field, fields

from modeling_dvpo.critic.categorical import PROJECTIONS
from modeling_dvpo.critic.value_heads import VALUE_HEAD_TYPES
from modeling_dvpo.inference.risk_measures import RISK_MEASURES

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
from .advantages import ALGORITHMS

# Without a critic, these ask for what there is not, and are refused; other settings of a critic are left unused, so
# that algorithms can share a recipe.
NEED_CRITIC = ("risk_measure", "bootstrap_truncated")
CHOOSE_CRITIC = (
    "critic",
    "critic_revision",
    "critic_trainable",
    "num_value_heads",
    "num_quantiles",
    "value_head_type",
    "value_support",
    "value_projection",
)


@dataclass(kw_only=True)
class PolicyArguments:
    """Which policy, which part of it trains, and what it is kept close to."""

    model_name_or_path: str = field(metadata={"help": "Causal LM to start from."})
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    gguf_file: str | None = option(None, "GGUF file there that holds the model, or an adapter's base; it is unpacked.")
    attn_implementation: str | None = option(None, "Of policy, reference and critic: sdpa, flash_attention_2, ...")
    trainable: str = option("all", "What trains: all or lora.")
    lora_r: int = option(16, "Rank of the LoRA updates, the critic's too.")
    lora_alpha: int = option(32, "Scale of the LoRA updates.")
    lora_target_modules: str = option("all-linear", "Modules that get a LoRA update: all-linear, or a regex.")
    reference: str | None = option(None, "What the KL penalty looks to; by default the policy as it starts.")

    def __post_init__(self):
        require_choice(self, trainable=("all", "lora"))


@dataclass(kw_only=True)
class PolicyCriticArguments:
    """The critic of dvpo, ppo and robust_bellman."""

    critic: str | None = option(None, "Critic to start from; by default fresh heads on the policy's weights.")
    critic_revision: str | None = option(None, "Branch, tag or commit of a Hub critic.")
    critic_trainable: str = option("all", "What of it trains: all, lora (adapter and heads), heads or none.")
    num_value_heads: int | None = option(None, "N of fresh heads; by default the algorithm's: dvpo 3, ppo 1.")
    num_quantiles: int | None = option(None, "M of fresh heads; by default the algorithm's: dvpo 200, others 1.")
    value_head_type: str | None = option(None, f"Of fresh heads, linear by default: {', '.join(VALUE_HEAD_TYPES)}.")
    value_support: list[float] | None = option(None, "Their atoms; of bernoulli and bounded ones low and high.")
    value_projection: str | None = option(None, f"Of returns on categorical heads' atoms: {', '.join(PROJECTIONS)}.")
    critic_loss: dict | str | None = option(
        None, 'Settings of CriticLossConfig: a mapping, or JSON such as {"risk": 0}.'
    )
    critic_lam: float = option(1.0, "Lambda of the critic's target returns; 1 for Monte-Carlo returns.")
    critic_target: str = option("index", "Target returns for lambda < 1: index (the paper's) or sampled.")
    critic_learning_rate: float = option(1e-5, "Peak rate of the critic's body or adapter.")
    heads_learning_rate: float | None = option(None, "Peak rate of its heads; 10 times critic_learning_rate.")
    num_critic_epochs: int | None = option(None, "Its passes over a step's completions; by default num_epochs.")
    critic_warmup_steps: int = option(0, "First steps that update the critic only.")

    def __post_init__(self):
        self.critic_loss = loss_settings(self.critic_loss)
        if self.heads_learning_rate is None:
            self.heads_learning_rate = 10 * self.critic_learning_rate
        require_choice(self, critic_trainable=(*TRAINABLE, "none"), critic_target=("index", "sampled"))
        require_between(self, 0, 1, "critic_lam")
        if self.num_critic_epochs is not None:
            require_at_least_one(self, "num_critic_epochs")
        require_not_negative(self, "critic_learning_rate", "heads_learning_rate", "critic_warmup_steps")


@dataclass(kw_only=True)
class RewardArguments:
    """What completions are worth."""

    reward_funcs: list[str] = field(
        metadata={"help": "`package.module:function` names, or directories or Hub names of reward models."}
    )
    reward_weights: list[float] = option([], "Weight of each reward function; 1 by default.")
    reward_noise: list[str] = option([], "Corruptions of the training reward in turn, such as flip=0.2.")
    environment: str | None = option(None, "`package.module:function` that answers an assistant turn, or ends.")

    def __post_init__(self):
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ConfigError(
                f"{len(self.reward_weights)} reward_weights for {len(self.reward_funcs)} reward_funcs: one for each."
            )


@dataclass(kw_only=True)
class AlgorithmArguments:
    """From rewards to the policy's loss. What is left out is the algorithm's own (docs/paper_index.md)."""

    algorithm: str = option("dvpo", f"One of {', '.join(ALGORITHMS)}.")
    gamma: float = option(1.0, "Discount per action token.")
    lam: float = option(0.95, "Lambda of the actor's advantages.")
    length_adaptive_lam: float | None = option(None, "VAPO's alpha: lambda is 1 - 1/(alpha length) instead of lam.")
    risk_measure: str = option("expectation", f"Of the advantage's quantiles: {', '.join(RISK_MEASURES)}.")
    risk_level: float | None = option(None, "The risk measure's parameter (alpha, beta, eta, shift or width).")
    bootstrap_truncated: bool = option(
        False, "Truncated completions: the critic's value after the last token in place of their reward."
    )
    whiten_advantages: bool | None = option(None, "Bring advantages to mean 0, deviation 1 over the step's tokens.")
    aggregation: str | None = option(None, "Averages token losses: token, sequence or constant.")
    kl: str | None = option(None, "Where the KL penalty goes: loss, reward or none.")
    kl_coef: float = option(0.01, "Weight of the KL penalty.")
    clip_low: float = option(0.2, "The probability ratio is clipped at 1 - clip_low ...")
    clip_high: float = option(0.2, "... and at 1 + clip_high.")
    entropy_coef: float = option(0.0, "Weight of an entropy bonus.")
    num_epochs: int = option(1, "Passes over a step's completions.")
    num_mini_batches: int = option(1, "Optimizer steps of each pass.")

    def __post_init__(self):
        if self.algorithm not in ALGORITHMS:
            near = difflib.get_close_matches(self.algorithm, ALGORITHMS, n=1, cutoff=0.5)
            question = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(f"algorithm is {self.algorithm!r}; there are {', '.join(ALGORITHMS)}{question}")
        require_choice(
            self,
            risk_measure=tuple(RISK_MEASURES),
            aggregation=(None, "token", "sequence", "constant"),
            kl=(None, "loss", "reward", "none"),
        )
        chosen = ALGORITHMS[self.algorithm]
        self.whiten_advantages = chosen.whiten if self.whiten_advantages is None else self.whiten_advantages
        self.aggregation = self.aggregation or chosen.aggregation
        self.kl = self.kl or chosen.kl
        if chosen.advantages == "group":
            if self.kl == "reward":
                raise ConfigError(f"kl is 'reward', and {self.algorithm} has one advantage a completion: use kl=loss.")
            if self.gamma != 1:
                raise ConfigError(f"gamma is {self.gamma}, and {self.algorithm} has one advantage a completion: 1.")
        if chosen.advantages != "critic":
            if given := [name for name in NEED_CRITIC if getattr(self, name) != getattr(type(self), name)]:
                raise ConfigError(f"{given[0]} needs a critic, and {self.algorithm} has none.")
        elif chosen.heads[1] == 1 and self.risk_measure != "expectation":
            raise ConfigError(f"risk_measure needs a distribution, and {self.algorithm}'s critic is scalar: use dvpo.")
        if self.risk_level is not None and self.risk_measure == "expectation":
            raise ConfigError("risk_level is set, and the expectation has no parameter: choose a risk_measure.")
        require_between(self, 0, 1, "gamma", "lam", "clip_low")
        require_not_negative(self, "kl_coef", "clip_high", "entropy_coef")
        require_at_least_one(self, "num_epochs", "num_mini_batches")
        if self.length_adaptive_lam is not None:
            require_positive(self, "length_adaptive_lam")


@dataclass(kw_only=True)
class PolicyTrainingArguments(RunArguments):
    """How it trains, and what the run writes. A step is one round of rollouts and the updates on them."""

    learning_rate: float = option(1e-6, "Peak rate of the policy or its adapter.")
    lr_scheduler_type: str = option("constant_with_warmup", "Schedule after the warm-up; cosine, linear or this.")
    max_steps: int = option(500, "Rounds of rollouts and updates.")
    prompts_per_step: int = option(64, "Prompts of one step, over all ranks.")
    logging_steps: int = option(1, "Write training metrics every n steps.")
    log_completions: int = option(4, "Completions shown of a logged step and of an evaluated set (completions.jsonl).")
    eval_temperature: float | None = option(None, "Temperature of evaluation; 0 is greedy, by default training's.")
    eval_generations: int = option(1, "Completions per evaluation prompt.")

    def __post_init__(self):
        super().__post_init__()
        require_at_least_one(self, "max_steps", "prompts_per_step", "eval_generations")
        require_not_negative(self, "log_completions")
        if self.eval_temperature is not None:
            require_not_negative(self, "eval_temperature")


def check_together(policy_args, prompt_args, rollout_args, reward_args, algorithm_args, critic_args, args) -> None:
    """Refuse settings that are each fine, and do not go together.

    Raises:
        ConfigError: says which two, and what to do.
    """
    algorithm = algorithm_args.algorithm
    if ALGORITHMS[algorithm].advantages != "critic":
        if given := [name for name in CHOOSE_CRITIC if getattr(critic_args, name) != getattr(type(critic_args), name)]:
            raise ConfigError(
                f"{algorithm} has no critic, and {', '.join(given)} asks for one: leave it out, or choose an "
                "algorithm with a critic."
            )
    elif critic_args.critic_warmup_steps >= args.max_steps:
        raise ConfigError(
            f"critic_warmup_steps is {critic_args.critic_warmup_steps} and max_steps is {args.max_steps}: the policy "
            "would never be updated."
        )
    elif critic_args.critic_trainable == "none":
        if critic_args.critic is None:
            raise ConfigError("critic_trainable is 'none', so the critic must be a trained one: give critic.")
        if critic_args.critic_warmup_steps:
            raise ConfigError("critic_trainable is 'none', so nothing would learn in the critic_warmup_steps.")
    if critic_args.critic_revision and critic_args.critic is None:
        raise ConfigError("critic_revision is set, and there is no critic that it could be a revision of.")
    if policy_args.reference and (algorithm_args.kl == "none" or not algorithm_args.kl_coef):
        raise ConfigError("reference is set, and there is no KL penalty that looks to it: set kl and kl_coef.")
    if ALGORITHMS[algorithm].advantages == "group" and rollout_args.num_generations < 2:
        raise ConfigError(
            f"num_generations is {rollout_args.num_generations}, and {algorithm} compares the completions of a "
            "prompt: it must be at least 2; 8 is common."
        )
    if rollout_args.num_generations < 2 and any(spec.startswith("majority_vote") for spec in reward_args.reward_noise):
        raise ConfigError(
            "reward_noise has a majority vote, and num_generations is 1: a completion alone always has the majority; "
            "8 is common."
        )
    completions, parts = args.prompts_per_step * rollout_args.num_generations, algorithm_args.num_mini_batches
    if completions % parts:
        raise ConfigError(
            f"num_mini_batches is {parts}, which does not divide the {completions} completions of a step "
            "(prompts_per_step times num_generations)."
        )
    if args.eval_steps and not prompt_args.eval_dataset:
        raise ConfigError("eval_steps is set, but nothing is held out: give eval_dataset.")


def unused_settings(algorithm_args, critic_args) -> list[str]:
    """Names of settings that differ from their defaults, and mean nothing to an algorithm without a critic."""
    if ALGORITHMS[algorithm_args.algorithm].advantages == "critic":
        return []
    default = PolicyCriticArguments()
    unused = [f.name for f in fields(default) if getattr(critic_args, f.name) != getattr(default, f.name)]
    return unused + [
        n for n in ("lam", "length_adaptive_lam") if getattr(algorithm_args, n) != getattr(AlgorithmArguments, n)
    ]
