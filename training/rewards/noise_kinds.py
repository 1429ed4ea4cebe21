"""The kinds of reward noise; `noise` says what each does and how it is written."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import RewardDataError
from .functions import import_function


class Scored(NamedTuple):
    """What a noise may look at."""

    reward: float
    completion: str | list[dict]
    num_tokens: int
    group_id: Hashable
    sample_id: int

    @property
    def text(self) -> str:
        """The completion, or of a chat what the assistant says, each turn on lines of its own."""
        if isinstance(self.completion, str):
            return self.completion
        return "\n".join(
            _plain(message.get("content")) for message in self.completion if message["role"] == "assistant"
        )


def _plain(content: str | list[dict] | None) -> str:
    if isinstance(content, list):  # parts: text, images and so on
        return "".join(part.get("text") or "" for part in content)
    return content or ""  # None: a tool call and no words


@dataclass(frozen=True)
class RewardNoise:
    """One corruption; `spec` is the string that it was made from."""

    spec: str
    value: Any
    low: float
    high: float
    seed: int
    position: int

    has_range: ClassVar[bool] = False

    @staticmethod
    def read(text: str) -> Any:
        """The value from its text; a ValueError says what is needed."""
        return finite_number(text)

    def __call__(
        self,
        rewards: Sequence[float],
        *,
        completions: Sequence[str | list[dict]],
        completion_ids: Sequence[Sequence[int]],
        group_ids: Sequence[Hashable],
        sample_ids: Sequence[int],
    ) -> list[float]:
        """The corrupted rewards, in the order of the samples.

        Args:
            rewards: one number per sample.
            completions: text, or a list of chat messages.
            completion_ids: tokens of each completion.
            group_ids: equal for the completions sampled for one occurrence of a prompt. A majority vote needs all of
                a group in one call; nothing else looks at it.
            sample_ids: unique in the run, 0 <= id < 2**64.

        Raises:
            ValueError: the arguments do not have one entry per sample, or a sample id comes twice.
        """
        columns = (rewards, completions, completion_ids, group_ids, sample_ids)
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"Rewards, completions, completion_ids, group_ids and sample_ids have {lengths} entries; one per "
                "sample is needed in each."
            )
        if len(set(sample_ids)) < len(sample_ids):
            raise ValueError("Two samples have one id, and would get the same noise; sample_ids must be unique.")
        num_tokens = [len(ids) for ids in completion_ids]
        return self.corrupt(list(map(Scored, rewards, completions, num_tokens, group_ids, sample_ids)))

    def corrupt(self, samples: list[Scored]) -> list[float]:
        return [self.corrupt_one(sample) for sample in samples]

    def corrupt_one(self, sample: Scored) -> float:
        raise NotImplementedError

    def draws(self, sample: Scored) -> np.random.Generator:
        # Philox is a function of key and counter, so nothing has to be carried from one sample to the next. The id is
        # the counter's highest word: no number of draws runs into the next sample's.
        return np.random.Generator(
            np.random.Philox(key=self.position << 64 | self.seed % 2**64, counter=int(sample.sample_id) << 192)
        )


class _Random(RewardNoise):
    """Something that happens to a sample with probability `value`."""

    has_range = True

    @staticmethod
    def read(text: str) -> float:
        rate = finite_number(text)
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"{text} is no probability, 0 <= rate <= 1.")
        return rate

    def happens(self, sample: Scored) -> bool:
        return self.draws(sample).random() < self.value


class Flip(_Random):
    def corrupt_one(self, sample: Scored) -> float:
        return self.low + self.high - sample.reward if self.happens(sample) else sample.reward


class _OneSided(_Random):
    def corrupt(self, samples: list[Scored]) -> list[float]:
        if samples and not any(sample.reward in (self.low, self.high) for sample in samples):
            warnings.warn(  # the same words every time, so that they are shown once
                f"Reward noise {self.spec!r} changes rewards that equal low={self.low:g} or high={self.high:g}, and a "
                "batch had none. Set low and high to what the verifier gives, and put it before what adds to rewards.",
                stacklevel=3,
            )
        return super().corrupt(samples)


class FalsePositive(_OneSided):
    def corrupt_one(self, sample: Scored) -> float:
        return self.high if sample.reward == self.low and self.happens(sample) else sample.reward


class FalseNegative(_OneSided):
    def corrupt_one(self, sample: Scored) -> float:
        return self.low if sample.reward == self.high and self.happens(sample) else sample.reward


class Gaussian(RewardNoise):
    @staticmethod
    def read(text: str) -> float:
        deviation = finite_number(text)
        if deviation < 0.0:
            raise ValueError(f"{text} is no standard deviation, 0 <= std.")
        return deviation

    def corrupt_one(self, sample: Scored) -> float:
        return sample.reward + self.value * self.draws(sample).standard_normal()


class Bias(RewardNoise):
    def corrupt_one(self, sample: Scored) -> float:
        return sample.reward + self.value


class LengthBias(RewardNoise):
    def corrupt_one(self, sample: Scored) -> float:
        return sample.reward + self.value * sample.num_tokens


class Hackable(RewardNoise):
    has_range = True

    @staticmethod
    def read(text: str) -> str:
        if not text:
            raise ValueError("the pattern is empty, and every completion has that in it.")
        return text

    def corrupt_one(self, sample: Scored) -> float:
        return self.high if self.value in sample.text else sample.reward


class MajorityVote(RewardNoise):
    """Of answers that are equally common, the one that the lowest sample id gave wins. None neither votes nor wins."""

    has_range = True

    @staticmethod
    def read(text: str) -> Callable[[str], Hashable]:
        try:
            return import_function(text, "function that reads an answer")
        except RewardDataError as error:
            raise ValueError(str(error)) from error

    def corrupt(self, samples: list[Scored]) -> list[float]:
        answers = {sample.sample_id: self._answer(sample) for sample in samples}
        votes: dict[Hashable, Counter] = {}
        for sample in sorted(samples, key=lambda sample: sample.sample_id):
            answer = answers[sample.sample_id]
            votes.setdefault(sample.group_id, Counter()).update([] if answer is None else [answer])
        # most_common keeps the order of first votes among equals
        winners = {group: counts.most_common(1)[0][0] for group, counts in votes.items() if counts}
        return [
            self.high if answer is not None and answer == winners[sample.group_id] else self.low
            for sample, answer in zip(samples, answers.values(), strict=True)
        ]

    def _answer(self, sample: Scored) -> Hashable:
        try:
            answer = self.value(sample.text)
            hash(answer)
        except Exception as error:
            raise ValueError(
                f"Reward noise {self.spec!r} cannot read the answer of sample {sample.sample_id} "
                f"({type(error).__name__}: {error}); the function must return something hashable, or None."
            ) from error
        return answer


NOISES: dict[str, type[RewardNoise]] = {
    "flip": Flip,
    "false_positive": FalsePositive,
    "false_negative": FalseNegative,
    "gaussian": Gaussian,
    "bias": Bias,
    "length_bias": LengthBias,
    "hackable": Hackable,
    "majority_vote": MajorityVote,
}


def finite_number(text: str) -> float:
    """A ValueError says what is needed."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number.")
    return number
