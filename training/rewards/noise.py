"""Reward noise: seeded corruptions of scalar rewards, for training under supervision that is known to be wrong.

A noise is written as a string, `name=value`, and several are applied one after the other:

    flip=0.2                with probability 0.2, r becomes low + high - r
    false_positive=0.3      a reward equal to low becomes high with probability 0.3
    false_negative=0.3      a reward equal to high becomes low with probability 0.3
    gaussian=0.5            adds a normal number of standard deviation 0.5
    bias=0.5                adds 0.5
    length_bias=0.01        adds 0.01 for each token of the completion
    hackable=PATTERN        high wherever the completion has this text in it, whatever the reward was
    majority_vote=package.module:function
                            throws the reward away: high where the answer is the most common one among the
                            completions of the same prompt, low elsewhere (Zuo et al., arXiv:2504.16084)

The range is [0, 1] unless the string says otherwise: `flip=0.2,low=-1,high=1`. The function of a majority vote reads
an answer from the text of a completion, anything hashable, or None where there is none.

What a sample draws depends on the seed, the noise's place in the list and the sample's id, and on nothing else: it is
the same for any number of ranks, any split into batches, and after a resume. For one seed noise is nested, too: what
is flipped at rate 0.2 is also flipped at 0.4. This scheme, and the selection of noises, are our choice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable, Sequence

from ..errors import ConfigError
from .noise_kinds import NOISES, Hackable, RewardNoise, finite_number


def parse_reward_noise(specs: Sequence[str], *, seed: int) -> list[RewardNoise]:
    """The noises that the strings describe, in their order.

    Args:
        specs: as in the description of this module.
        seed: any integer.

    Raises:
        ConfigError: a string that describes no noise; says which, and what is needed.
    """
    return [_parse(spec, seed=seed, position=position) for position, spec in enumerate(specs)]


def corrupt(
    rewards: Sequence[float],
    noises: Sequence[RewardNoise],
    *,
    completions: Sequence[str | list[dict]],
    completion_ids: Sequence[Sequence[int]],
    group_ids: Sequence[Hashable],
    sample_ids: Sequence[int],
) -> list[float]:
    """Apply noises in order; arguments as `RewardNoise.__call__` has them."""
    rewards = list(rewards)
    for noise in noises:
        rewards = noise(
            rewards,
            completions=completions,
            completion_ids=completion_ids,
            group_ids=group_ids,
            sample_ids=sample_ids,
        )
    return rewards


def _parse(spec: str, *, seed: int, position: int) -> RewardNoise:
    name, equals, value = spec.partition("=")
    if name not in NOISES:
        raise ConfigError(f"Reward noise {spec!r}: there is no {name!r}{_nearest(name, NOISES)}")
    kind, ends = NOISES[name], {}
    try:
        if not equals:
            raise ValueError(f"it has no value; write {name}=VALUE.")
        # From the right, because a pattern may have commas in it.
        while match := re.fullmatch(r"(.*),\s*(\w+)=([^,]*)", value, flags=re.DOTALL):
            head, option, number = match.groups()
            if kind is Hackable and option not in ("low", "high"):
                break  # it is part of the pattern
            known = ("low", "high") if kind.has_range else ()
            if option not in known:
                raise ValueError(f"it takes no {option!r}{_nearest(option, known)}")
            if option in ends:
                raise ValueError(f"{option!r} is given twice.")
            value, ends[option] = head, finite_number(number)
        low, high = ends.get("low", 0.0), ends.get("high", 1.0)
        if low >= high:
            raise ValueError(f"low={low:g} is not below high={high:g}.")
        return kind(spec, kind.read(value), low, high, seed, position)
    except ValueError as error:
        raise ConfigError(f"Reward noise {spec!r}: {error}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}." if known else "."
