"""Settings of rollouts, and the samplers they make."""

from __future__ import annotations

from dataclasses import dataclass

from modeling_dvpo.inference.sampling import Sampler, Sampling
from modeling_dvpo.inference.seeded_completions import SeededSampler
from modeling_dvpo.text.problems import DataError

from ..errors import ConfigError, RolloutError
from ..run.arguments import option, require_at_least_one, require_between, require_positive


@dataclass(kw_only=True)
class RolloutArguments:
    """How completions are sampled from the policy."""

    num_generations: int = option(1, "Completions of each prompt: the size of a group.")
    max_completion_length: int = option(
        256, "Most tokens after the prompt: all turns of the policy and of the environment together."
    )
    temperature: float = option(1.0, "Sampling temperature.")
    top_p: float = option(1.0, "Share of the probability that is sampled from; 1 for all.")
    top_k: int = option(0, "Number of tokens that are sampled from; 0 for all.")
    min_p: float | None = option(None, "Least probability of a sampled token, as a share of the likeliest one's.")
    stop_strings: list[str] = option([], "Texts that end a completion as an end token does; they stay in it.")
    generation_batch_size: int = option(64, "Rows generated together.")
    max_turns: int = option(8, "Most turns of the policy in a conversation with an environment.")

    def __post_init__(self):
        require_at_least_one(self, "num_generations", "max_completion_length", "generation_batch_size", "max_turns")
        require_positive(self, "temperature", "top_p")
        require_between(self, 0, 1, "top_p", *(["min_p"] if self.min_p is not None else []))
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it is a number of tokens, or 0 for all of them.")
        if "" in self.stop_strings:
            raise ConfigError("stop_strings has an empty text, which would end every completion: remove it.")


def make_sampler(policy, tokenizer, args: RolloutArguments, *, greedy: bool = False) -> Sampler:
    """A sampler with these settings; raises `RolloutError` where nothing could end a completion but its length."""
    return _made(Sampler, policy, tokenizer, args, greedy=greedy)


def make_seeded_sampler(policy, tokenizer, args: RolloutArguments) -> SeededSampler:
    """The same for completions that each have a seed."""
    return _made(SeededSampler, policy, tokenizer, args)


def _made(kind, policy, tokenizer, args: RolloutArguments, **more):
    names = ("temperature", "top_p", "top_k", "min_p", "stop_strings")
    try:
        return kind(policy, tokenizer, Sampling(**{name: getattr(args, name) for name in names}, **more))
    except DataError as error:
        raise RolloutError(str(error)) from error
