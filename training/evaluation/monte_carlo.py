"""Monte-Carlo truth: states of the policy's own responses, each continued many times (VinePPO, arXiv:2410.01679).

One state a response, so that states are as independent as their prompts, spread evenly over the relative position.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import torch

from modeling_dvpo.inference.sampling import Written, seeded
from modeling_dvpo.text.batches import batches_by_length

from ..data.prompts import Prompt, Prompts
from ..rollouts.generation import make_sampler
from ..rollouts.rollouts import Rollout
from ..rollouts.samples import Scorer
from .arguments import MonteCarloArguments, NamedSet
from .parts import Parts
from .sets import EvaluationSet
from .sources import digest_of_rows


class MonteCarlo:
    """Samples responses, chooses a state of each, and continues it.

    Args:
        policy: a causal LM, on its device.
        tokenizer: the policy's.
        score: what rewards a response.
        args: how many, and how they are sampled.
        gamma: discount per action token.
        seed: of everything that is drawn; what a part draws does not depend on other parts.
    """

    def __init__(self, policy, tokenizer, score: Scorer, args: MonteCarloArguments, *, gamma: float, seed: int):
        self.policy, self.tokenizer, self.score, self.args = policy, tokenizer, score, args
        self.gamma, self.seed = gamma, seed
        self.sampler = make_sampler(policy, tokenizer, args)

    def sample(self, named: NamedSet, prompts: Prompts, folder, facts: dict, subset_column: str | None):
        """The `EvaluationSet` of one prompt set; every rank must call it."""
        places = prompts_of(len(prompts), self.args.num_states, seed=self._seed(named, "prompts"))
        chosen = [prompts[place] for place in places]
        facts = {**facts, "prompts": digest_of_rows(prompt.input_ids for prompt in chosen)}
        responses = self._responses(named, chosen, Parts(folder, "responses", facts))
        steps = spread_states([len(ids) for ids, _ in responses], seed=self._seed(named, "states"))
        prefixes = [ids[:step] for (ids, _), step in zip(responses, steps, strict=True)]
        returns = self._continuations(named, chosen, prefixes, Parts(folder, "continuations", facts))
        labels = {}
        if subset_column:
            labels = {subset_column: [str(prompt.columns.get(subset_column)) for prompt in chosen]}
        return EvaluationSet(
            named=named,
            rows=[
                _state_row([*prompt.input_ids, *ids[: step + 1]])
                for prompt, (ids, _), step in zip(chosen, responses, steps, strict=True)
            ],
            returns=returns,
            states=torch.ones(len(chosen), dtype=torch.long),
            actions=torch.tensor([len(ids) for ids, _ in responses]),
            steps=torch.tensor(steps),
            rewards=torch.tensor([reward for _, reward in responses]),
            prompts=places,
            labels=labels,
        )

    def _responses(self, named: NamedSet, prompts: list[Prompt], parts: Parts) -> list[tuple[list[int], float]]:
        """Action tokens and reward of one response to each prompt."""
        size = self.args.generation_batch_size
        batches = [range(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]

        def respond(number: int) -> dict[str, torch.Tensor]:
            batch = [prompts[i] for i in batches[number]]
            with seeded(self.policy.device, self._seed(named, f"responses {number}")):
                samples = self._complete(batch, [[] for _ in batch])
            return {
                "tokens": torch.tensor([token for ids, _ in samples for token in ids]),
                "lengths": torch.tensor([len(ids) for ids, _ in samples]),
                "rewards": torch.tensor([reward for _, reward in samples]),
            }

        parts.fill(len(batches), respond, f"{named.name}: responses")
        responses: list[tuple[list[int], float]] = []
        for number in range(len(batches)):
            part = parts.load(number)
            tokens = part["tokens"].split(part["lengths"].tolist())
            responses += zip([ids.tolist() for ids in tokens], part["rewards"].tolist(), strict=True)
        return responses

    def _continuations(self, named: NamedSet, prompts: list[Prompt], prefixes: list[list[int]], parts: Parts):
        """(S, K) discounted returns from each state on."""
        count = self.args.num_continuations
        size = max(1, self.args.generation_batch_size // count)
        lengths = [len(prompt.input_ids) + len(prefix) for prompt, prefix in zip(prompts, prefixes, strict=True)]
        batches = batches_by_length(lengths, max_rows=size)

        def go_on(number: int) -> dict[str, torch.Tensor]:
            each = [i for i in batches[number] for _ in range(count)]
            with seeded(self.policy.device, self._seed(named, f"continuations {number}")):
                samples = self._complete([prompts[i] for i in each], [prefixes[i] for i in each])
            returns = [
                reward * self.gamma ** (len(ids) - 1 - len(prefixes[i]))
                for i, (ids, reward) in zip(each, samples, strict=True)
            ]
            return {"returns": torch.tensor(returns).reshape(-1, count)}

        parts.fill(len(batches), go_on, f"{named.name}: continuations")
        returns = torch.empty(len(prompts), count)
        for number, batch in enumerate(batches):
            returns[batch] = parts.load(number)["returns"]
        return returns

    def _complete(self, prompts: Sequence[Prompt], prefixes: Sequence[list[int]]) -> list[tuple[list[int], float]]:
        """Sample the rest of each response; all its action tokens, and its reward.

        The length limit counts from the start of the response: a continuation gets what its prefix has left.
        """
        rows = [[*prompt.input_ids, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)]
        limits = [self.args.max_completion_length - len(prefix) for prefix in prefixes]
        rollouts = [Rollout.begin(prompt) for prompt in prompts]
        written = self.sampler(rows, limits, batch_size=self.args.generation_batch_size)
        for rollout, prefix, (ids, ended) in zip(rollouts, prefixes, written, strict=True):
            # in one piece: a character's tokens may lie on both sides of the state
            rollout.add_own(Written([*prefix, *ids], ended), self.tokenizer, self.sampler.end_ids)
        numbers = range(len(rollouts))
        samples = self.score(rollouts, numbers, numbers, noise=False)
        return [(rollout.completion_ids, sample.reward) for rollout, sample in zip(rollouts, samples, strict=True)]

    def _seed(self, named: NamedSet, purpose: str) -> int:
        return zlib.crc32(f"{self.seed} {named.name} {purpose}".encode())


def prompts_of(num_prompts: int, count: int, *, seed: int) -> list[int]:
    """`count` places of prompts in random order, none twice before all have had their turn."""
    order = random.Random(seed).sample(range(num_prompts), num_prompts)
    return [order[place % num_prompts] for place in range(count)]


def spread_states(lengths: Sequence[int], *, seed: int) -> list[int]:
    """For each response of this many actions, the number of actions before its state: 0 to length - 1.

    The relative positions fill as many equal parts of [0, 1) as there are responses, one each.
    """
    rng = random.Random(seed)
    strata = rng.sample(range(len(lengths)), len(lengths))
    return [
        int((stratum + rng.random()) / len(lengths) * length) for stratum, length in zip(strata, lengths, strict=True)
    ]


def _state_row(ids: list[int]) -> dict:
    """A row whose only action is its last token: what is predicted is the state before it."""
    mask = [False] * (len(ids) - 1) + [True]
    return {"input_ids": ids, "completion_mask": mask, "rewards": [0.0] * len(ids)}
