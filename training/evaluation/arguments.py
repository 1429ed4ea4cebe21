"""Settings of `evaluate_critic.py`: the critics, the sets they are held against, and Monte-Carlo truth."""

import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import NamedTuple

from ..algorithms.critic_arguments import CriticArguments
from ..algorithms.policy_arguments import PolicyArguments
from ..data.arguments import PromptArguments, RewardDataArguments
from ..errors import ConfigError
from ..rollouts.generation import RolloutArguments
from ..run.arguments import option, require_at_least_one, require_between

NAME = re.compile(r"[\w.+-]([\w.+ -]*[\w.+-])?")


@dataclass(kw_only=True)
class EvaluationArguments:
    """Which critic is evaluated, beside which other, and how."""

    critic: str = field(metadata={"help": "Critic to evaluate, or a critic's adapter: a directory or Hub name."})
    critic_revision: str | None = option(None, "Branch, tag or commit of a Hub critic.")
    scalar_critic: str | None = option(None, "Scalar critic (num_quantiles=1, the same tokenizer) to stand beside it.")
    scalar_critic_revision: str | None = option(None, "Branch, tag or commit of a Hub scalar critic.")
    attn_implementation: str | None = option(None, "Of critics and policy: sdpa, eager, flash_attention_2, ...")
    output_dir: str = field(metadata={"help": "Where the run writes; must not hold another run."})
    resume: bool = option(False, "Go on with the run in output_dir, if there is one.")
    overwrite_output_dir: bool = option(False, "Delete the run in output_dir and start anew.")
    gamma: float | None = option(None, "Discount per action token of true returns; by default the critic's own.")
    right_above: float | None = option(
        None, "A response is right where its reward is above this; by default the midpoint, where rewards are two."
    )
    answer_func: str | None = option(
        None, "Function, `package.module:function`, from a response's text to its answer or None: adds majority vote."
    )
    max_tokens_per_device: int = option(8192, "Tokens of one forward pass, padding included; the memory setting.")
    states_per_part: int = option(16384, "States whose predictions are kept in one file: what a kill can cost.")
    bf16: bool = option(False, "Compute in bfloat16: critics over float32 weights, a policy with bfloat16 ones.")
    seed: int = option(0, "Of the choice of prompts and states, and of sampling.")

    def __post_init__(self):
        require_at_least_one(self, "max_tokens_per_device", "states_per_part")
        if self.gamma is not None:
            require_between(self, 0, 1, "gamma")
        if self.scalar_critic_revision and not self.scalar_critic:
            raise ConfigError("scalar_critic_revision is set, and there is no scalar_critic to be a revision of.")


@dataclass(kw_only=True)
class SetArguments(RewardDataArguments):
    """Which reward sets it is held against, and how their columns are to be read."""

    dataset: list[str] = option(  # type: ignore[assignment]  # several, where one is trained on
        [], "Reward sets like the critic's training set; each `name=where`, or only where."
    )
    out_of_domain: list[str] = option([], "Reward sets that are unlike it, in the same form.")
    dataset_split: str = option("train", "Split of every set; a single file answers to any name.")
    training_dataset: str | None = option(
        None, "The critic's training set, whose returns make the constant baseline; by default each set's own do."
    )
    training_split: str = option("train", "Split of the training set.")
    # nothing is trained on, so nothing is held out
    eval_dataset: str | None = field(default=None, init=False)
    eval_split: str | None = field(default=None, init=False)
    eval_fraction: float = field(default=0.0, init=False)
    reward_source: list[str] = field(default_factory=list, init=False)

    def reading(self, where: str) -> RewardDataArguments:
        """How to read one set."""
        names = [f.name for f in fields(RewardDataArguments)]
        own = {name: value for name, value in asdict(self).items() if name in names}
        return RewardDataArguments(**{**own, "dataset": where})

    def reading_training_set(self) -> RewardDataArguments:
        """How to read the training set: for its returns, whatever its subsets."""
        assert self.training_dataset is not None
        return replace(self.reading(self.training_dataset), dataset_split=self.training_split, subset_column=None)


@dataclass(kw_only=True)
class MonteCarloArguments(RolloutArguments):
    """The policy whose responses the critic judges, and truth from many continuations of the same states."""

    policy: str | None = option(
        None, "Policy whose returns the critic predicts: sampled from `prompts`, and how likely it holds reward sets."
    )
    policy_revision: str | None = option(None, "Branch, tag or commit of a Hub policy.")
    policy_gguf_file: str | None = option(None, "GGUF file there that holds the policy, or an adapter's base.")
    prompts: list[str] = option([], "Prompt sets like the critic's training set; each `name=where`, or only where.")
    out_of_domain_prompts: list[str] = option([], "Prompt sets that are unlike it, in the same form.")
    num_states: int = option(200, "States of each prompt set, one a response, spread over its length.")
    num_continuations: int = option(64, "Continuations of each state.")
    chat: bool = option(False, "Make a text prompt the user message of a chat.")
    system_prompt: str | None = option(None, "System message before every prompt without one; implies `chat`.")
    max_prompt_length: int | None = option(None, "Longest prompt in tokens; what the model's context leaves.")
    drop_long_prompts: bool = option(False, "Drop prompts that are too long instead of refusing the set.")
    # one response a state, one turn a response
    num_generations: int = field(default=1, init=False)
    max_turns: int = field(default=1, init=False)

    def __post_init__(self):
        super().__post_init__()
        require_at_least_one(self, "num_states")
        if self.num_continuations < 2:
            raise ConfigError(
                f"num_continuations is {self.num_continuations}: one return says little of a distribution, 64 is "
                "common, and a reward set (dataset) needs none."
            )

    def reading(self, where: str, data: SetArguments) -> PromptArguments:
        """How to read one prompt set."""
        names = ("dataset_config", "dataset_split", "prompt_column", "tools_column", "chat_template_kwargs")
        own = ("chat", "system_prompt", "max_prompt_length", "drop_long_prompts")
        shared = {name: getattr(data, name) for name in names} | {name: getattr(self, name) for name in own}
        return PromptArguments(dataset=where, **shared)


class NamedSet(NamedTuple):
    """One set as the user named it; `kind` is "returns" (a reward set) or "monte_carlo" (a prompt set)."""

    name: str
    where: str
    kind: str
    domain: str


def named_sets(data: SetArguments, sampling: MonteCarloArguments) -> list[NamedSet]:
    """Every set that was asked for.

    Raises:
        ConfigError: there is none, two have one name, or what Monte-Carlo truth needs is not all there.
    """
    kinds = [
        ("dataset", "returns", "in", data.dataset),
        ("out_of_domain", "returns", "out", data.out_of_domain),
        ("prompts", "monte_carlo", "in", sampling.prompts),
        ("out_of_domain_prompts", "monte_carlo", "out", sampling.out_of_domain_prompts),
    ]
    sets = [NamedSet(*_split_name(spec, key), kind, domain) for key, kind, domain, specs in kinds for spec in specs]
    if not sets and not sampling.policy:
        raise ConfigError(
            "There is nothing to evaluate on: give dataset or out_of_domain (reward sets), or policy, prompts and "
            "reward_funcs (Monte-Carlo truth)."
        )
    for place, one in enumerate(sets):
        if other := next((other for other in sets[:place] if other.name == one.name), None):
            raise ConfigError(
                f"Two sets are called {one.name!r} ({other.where} and {one.where}): name them apart, "
                f"as in {one.name}-2={one.where}."
            )
    sampled = any(one.kind == "monte_carlo" for one in sets)
    if sampled and not sampling.policy:
        raise ConfigError("prompts are given, and no policy that could answer them: give policy.")
    if sampling.policy and not sets:
        raise ConfigError(
            "policy is given, and nothing for it to answer or to have written: give prompts or out_of_domain_prompts, "
            "or dataset or out_of_domain."
        )
    if sampled and not data.reward_funcs:
        raise ConfigError("Monte-Carlo truth needs rewards of what the policy samples: give reward_funcs.")
    for name, what in (("policy_revision", "be a revision of"), ("policy_gguf_file", "be a file of")):
        if getattr(sampling, name) and not sampling.policy:
            raise ConfigError(f"{name} is set, and there is no policy that it could {what}.")
    return sets


def _split_name(spec: str, key: str) -> tuple[str, str]:
    """`name=where`, or a path or Hub name, whose last part is then the name."""
    name, equals, where = spec.partition("=")
    if not equals or "/" in name or os.path.exists(spec):
        where = spec
        name = re.sub(r"[^\w.+-]+", "-", os.path.splitext(os.path.basename(os.path.normpath(where)))[0])
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{key} has {spec!r}, which gives the name {name!r}: a name has letters, digits and . + - _ only, as in "
            "held-out=path/to/set.jsonl."
        )
    if not where:
        raise ConfigError(f"{key} has {spec!r}, which names a set and does not say where it is.")
    return name, where


def critic_source(name: str, revision: str | None, args: EvaluationArguments) -> CriticArguments:
    return CriticArguments(model_name_or_path=name, revision=revision, attn_implementation=args.attn_implementation)


def policy_source(sampling: MonteCarloArguments, args: EvaluationArguments) -> PolicyArguments:
    assert sampling.policy is not None
    return PolicyArguments(
        model_name_or_path=sampling.policy,
        revision=sampling.policy_revision,
        gguf_file=sampling.policy_gguf_file,
        attn_implementation=args.attn_implementation,
    )
