"""Prompts to rows of a reward set: sampled, scored, with the tokens that the policy read and wrote.

Other engines than transformers' (vLLM, say) have their place in `RowSampler.write`: tokens after tokens, from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_dvpo.inference.sampling import Written
from modeling_dvpo.inference.seeded_completions import Completion
from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.batches import batches_by_length
from modeling_dvpo.text.completion_tokens import prompt_tokens
from modeling_dvpo.text.problems import RowProblem

from ..data.arguments import PromptArguments, template_arguments
from ..data.prompts import PROBLEMS, Prompt, as_prompt
from ..data.reading import raise_for_problems
from ..errors import RewardDataError
from ..rewards.functions import reward_names
from ..rollouts.generation import RolloutArguments, make_seeded_sampler
from ..rollouts.rollouts import Rollout
from ..rollouts.samples import Scorer

# What a prompt brings under these names is left out: a row has its own, or these rewards would be read in its place.
REPLACED = (
    "prompt", "completion", "reward", "prompt_ids", "completion_ids", "logprobs", "truncated", "group", "seed",
    "policy", "token_rewards", "step_ends",
)  # fmt: skip


def sample_reward_set(
    policy,
    tokenizer,
    prompts: Sequence[str | Messages | dict[str, Any]],
    args: RolloutArguments | None = None,
    *,
    reward_funcs: Sequence[Callable] = (),
    reward_weights: Sequence[float] = (),
    chat_template_kwargs: dict[str, Any] | None = None,
    seed: int = 0,
    fingerprint: str | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """A policy's completions as rows of a reward set, for one process; `sample.py` is the same for data sets.

    Args:
        policy: a causal LM, or a PEFT model around one, on its device.
        tokenizer: the policy's.
        prompts: texts, chats, or rows with one of these as "prompt" and columns for the reward functions; "tools" go
            to the chat template.
        args: completions of each prompt and how they are sampled; one turn.
        reward_funcs: called with TRL's signature; without any, rows have no reward.
        reward_weights: one per function; 1 by default.
        chat_template_kwargs: what the chat template is given besides.
        seed: not negative. What a completion draws hangs on it, on the place of its prompt and its number alone.
        fingerprint: what the rows call the policy.
        progress: show a bar.

    Returns:
        `args.num_generations` rows of each prompt, in the order of the prompts; see `RowSampler`.

    Raises:
        RewardDataError: prompts that are none, or a reward function that answers wrongly.
        RolloutError: nothing could end a completion but its length.
    """
    reading = PromptArguments(dataset="prompts", chat_template_kwargs=chat_template_kwargs)
    asked = [_prompt(place, given, tokenizer, reading) for place, given in enumerate(prompts)]
    raise_for_problems([note for _, note in asked], range(len(asked)), "prompts", PROBLEMS)
    found = [prompt for prompt, _ in asked if prompt]
    named = dict(zip(reward_names(reward_funcs), reward_funcs, strict=True))
    score = Scorer(named, reward_weights, ()) if named else None
    sampler = RowSampler(policy, tokenizer, args or RolloutArguments(), score, seed=seed, fingerprint=fingerprint)
    rows: dict[int, list[dict]] = {}
    with tqdm(total=len(found), desc="prompts", disable=not progress) as bar:
        for batch in sampler.batches([len(prompt.input_ids) for prompt in found]):
            rows |= zip(batch, sampler([found[place] for place in batch]), strict=True)
            bar.update(len(batch))
    return [row for place in range(len(found)) for row in rows[place]]


def _prompt(place: int, given, tokenizer, reading: PromptArguments) -> tuple[Prompt | None, str]:
    """The prompt, or what is wrong with it."""
    columns = dict(given) if isinstance(given, dict) else {"prompt": given}
    kwargs = template_arguments(reading.chat_template_kwargs)
    try:
        prompt = as_prompt(columns.pop("prompt", None), reading)
        ids = prompt_tokens(tokenizer, prompt, columns.get("tools"), chat_template_kwargs=kwargs)
    except RowProblem as problem:
        return None, problem.note()
    return Prompt(place, prompt, ids, columns, kwargs), ""


class RowSampler:
    """Makes the rows of prompts.

    A row has

        prompt, completion          as `Rollout` has them
        prompt_ids, completion_ids  tokens, an end token included
        logprobs                    log π of each of the latter under the policy itself, to six decimals
        truncated                   whether the length limit cut it
        group                       the prompt's row in its source
        seed                        what its random numbers come from
        policy                      the fingerprint
        reward                      the sum of the reward functions, weights and noise included, where there are some
        reward/<function>           each function's own, without these

    and what the functions logged, and the prompt's other columns.

    Args:
        policy: a causal LM, on its device.
        tokenizer: the policy's.
        args: sampling settings.
        score: what rewards completions; None for no rewards.
        seed: see `seed_of`.
        fingerprint: what the rows call the policy.
    """

    def __init__(
        self, policy, tokenizer, args: RolloutArguments, score: Scorer | None, *, seed: int, fingerprint: str | None
    ):
        self.tokenizer, self.args, self.score = tokenizer, args, score
        self.seed, self.fingerprint = seed, fingerprint
        self.sampler = make_seeded_sampler(policy, tokenizer, args)

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of the prompts of these lengths that are answered together; longest first: a lack of memory shows at
        once."""
        together = max(1, self.args.generation_batch_size // self.args.num_generations)
        return batches_by_length(lengths, max_rows=together)[::-1]

    def write(self, rows: Sequence[list[int]], seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """Completions of rows of tokens, one of each row's seeds each."""
        return self.sampler(rows, seeds, self.args.max_completion_length)

    def __call__(self, prompts: Sequence[Prompt]) -> list[list[dict[str, Any]]]:
        """The rows of each prompt of a batch; raises `RewardDataError` where a reward function answers wrongly."""
        numbers = range(self.args.num_generations)
        seeds = [[seed_of(self.seed, prompt.index, number) for number in numbers] for prompt in prompts]
        written = self.write([prompt.input_ids for prompt in prompts], seeds)
        completions = [completion for own in written for completion in own]
        rollouts = [
            self._rollout(prompt, completion)
            for prompt, own in zip(prompts, written, strict=True)
            for completion in own
        ]
        rewards = self._rewards(rollouts)
        rows = [
            {
                **{name: value for name, value in rollout.prompt.columns.items() if name not in REPLACED},
                "prompt": rollout.prompt.prompt,
                "completion": rollout.completion,
                **reward,
                "prompt_ids": rollout.prompt.input_ids,
                "completion_ids": completion.ids,
                "logprobs": [round(logprob, 6) for logprob in completion.logprobs],
                "truncated": rollout.truncated,
                "group": rollout.prompt.index,
                "seed": own_seed,
                "policy": self.fingerprint,
            }
            for rollout, completion, reward, own_seed in zip(
                rollouts, completions, rewards, [seed for own in seeds for seed in own], strict=True
            )
        ]
        return [rows[start : start + len(numbers)] for start in range(0, len(rows), len(numbers))]

    def _rollout(self, prompt: Prompt, completion: Completion) -> Rollout:
        rollout = Rollout.begin(prompt)
        rollout.add_own(Written(completion.ids, completion.ended), self.tokenizer, self.sampler.end_ids)
        return rollout

    def _rewards(self, rollouts: list[Rollout]) -> list[dict[str, Any]]:
        if self.score is None:
            return [{} for _ in rollouts]
        groups, count = [rollout.prompt.index for rollout in rollouts], self.args.num_generations
        samples = self.score(rollouts, groups, [group * count + i % count for i, group in enumerate(groups)])
        if clash := sorted(samples[0].extra.keys() & REPLACED):
            raise RewardDataError(f"log_extra: rows have a column {clash[0]!r} of their own; choose another name.")
        return [
            sample.extra
            | {"reward": sample.reward}
            | {f"reward/{name}": reward for name, reward in sample.rewards.items()}
            for sample in samples
        ]


def seed_of(seed: int, prompt: int, number: int) -> int:
    """The seed of a prompt's completion of this number, below 2^32 and without patterns between neighbours."""
    return int(np.random.SeedSequence([seed, prompt, number]).generate_state(1)[0])
