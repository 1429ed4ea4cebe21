"""Settings of `sample.py`: policy, prompts, how it is sampled, what completions are worth, and where they go."""

from dataclasses import dataclass, field

from ..algorithms.policy_arguments import RewardArguments
from ..data.arguments import PromptArguments
from ..errors import ConfigError
from ..rollouts.generation import RolloutArguments
from ..run.arguments import option, require_not_negative


@dataclass(kw_only=True)
class SampledPolicyArguments:
    """Which policy."""

    model_name_or_path: str = field(
        metadata={"help": "Policy to sample from: a causal LM or an adapter of one, a directory or Hub name."}
    )
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    gguf_file: str | None = option(None, "GGUF file there that holds the model, or an adapter's base; it is unpacked.")
    attn_implementation: str | None = option(None, "sdpa, eager, flash_attention_2, ...")


@dataclass(kw_only=True)
class SampledPromptArguments(PromptArguments):
    """Where the prompts are and how they are to be read."""

    dataset_split: str = option("train", "Split to sample from; slices such as `train[:1000]` work.")
    # nothing is trained on, so nothing is held out
    eval_dataset: list[str] = field(default_factory=list, init=False)
    eval_split: str = field(default="train", init=False)


@dataclass(kw_only=True)
class SampledRolloutArguments(RolloutArguments):
    """How completions are sampled from the policy."""

    max_completion_length: int = option(256, "Most tokens of a completion.")
    generation_batch_size: int = option(64, "Completions generated together; those of a prompt always are.")
    # a row is a prompt and one turn
    max_turns: int = field(default=1, init=False)


@dataclass(kw_only=True)
class SampledRewardArguments(RewardArguments):
    """What completions are worth."""

    reward_funcs: list[str] = option(
        [], "As train_dvpo.py takes them; with none the rows have no reward, and train_critic.py can score them."
    )
    reward_noise: list[str] = option([], "Corruptions of the reward in turn, such as flip=0.2.")
    environment: str | None = field(default=None, init=False)

    def __post_init__(self):
        super().__post_init__()
        if self.reward_noise and not self.reward_funcs:
            raise ConfigError("reward_noise corrupts rewards, and there are none: give reward_funcs.")


@dataclass(kw_only=True)
class SampleArguments:
    """What is written, and where."""

    output_dir: str = field(metadata={"help": "Where the run writes; must not hold another run."})
    resume: bool = option(False, "Go on with the run in output_dir, if there is one.")
    overwrite_output_dir: bool = option(False, "Delete the run in output_dir and start anew.")
    bf16: bool = option(False, "Weights and computation in bfloat16.")
    seed: int = option(0, "Of sampling and reward noise.")

    def __post_init__(self):
        require_not_negative(self, "seed")
