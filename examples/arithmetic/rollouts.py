"""The policy's own completions: sampled for reward sets, and many times over from the same state as the truth that a
critic's prediction is held against."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

RewardFunction = Callable[..., list[float]]
"""TRL's signature: `f(prompts, completions, **columns) -> list[float]`."""


@dataclass(frozen=True)
class Rollout:
    """A prompt and a sampled completion. The end token is an action too, unless the length limit came first."""

    prompt: str
    prompt_ids: tuple[int, ...]
    completion: str
    completion_ids: tuple[int, ...]
    """Without the end token."""
    truncated: bool

    @property
    def num_actions(self) -> int:
        return len(self.completion_ids) + (not self.truncated)


@dataclass(frozen=True)
class State:
    """What a rollout looked like before its action `position` was chosen. It never includes the end token."""

    rollout: Rollout
    position: int

    @property
    def input_ids(self) -> tuple[int, ...]:
        return self.rollout.prompt_ids + self.rollout.completion_ids[: self.position]


def sample_completions(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 48,
    seed: int = 0,
    batch_size: int = 512,
) -> list[Rollout]:
    """One completion for each prompt, in the order of the prompts; name a prompt twice for two."""
    prompt_ids = tokenizer(list(prompts))["input_ids"]
    # Neighbours of like length need little padding.
    order = sorted(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    completions: dict[int, tuple[tuple[int, ...], bool]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in tqdm(batches, desc="completions", unit="batch"):
            limits = [max_new_tokens] * len(batch)
            sampled = _generate(policy, tokenizer, [prompt_ids[i] for i in batch], temperature, limits)
            completions.update(zip(batch, sampled, strict=True))
    texts = tokenizer.batch_decode([list(completions[i][0]) for i in range(len(prompts))])
    return [Rollout(prompt, tuple(prompt_ids[i]), texts[i], *completions[i]) for i, prompt in enumerate(prompts)]


def held_out_states(rollouts: Sequence[Rollout], num_states: int = 200, *, seed: int = 0) -> list[State]:
    """One state from each of `num_states` rollouts, spread evenly over the relative position in the completion."""
    if num_states > len(rollouts):
        raise ValueError(f"{num_states} states need as many rollouts, got {len(rollouts)}.")
    rng = random.Random(seed)
    return [
        State(rollout, int((stratum + rng.random()) / num_states * rollout.num_actions))
        for stratum, rollout in enumerate(rng.sample(list(rollouts), num_states))
    ]


def every_state(rollout: Rollout) -> list[State]:
    """The state before each action of a rollout, the end token being the last."""
    return [State(rollout, position) for position in range(rollout.num_actions)]


def monte_carlo_truth(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    states: Sequence[State],
    num_continuations: int = 64,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 48,
    seed: int = 0,
    batch_size: int = 1024,
) -> list[list[Rollout]]:
    """Finishes each state's completion `num_continuations` times; any reward function then gives a sample of the true
    return (`returns_of`).

    Temperature and length limit have to be those the rollouts were sampled with: the limit counts from the start of
    the completion, so a continuation gets what its prefix has left.
    """
    # States of one length need no padding.
    alike = defaultdict(list)
    for index, state in enumerate(states):
        alike[len(state.input_ids)].append(index)
    per_batch = max(1, batch_size // num_continuations)
    batches = [
        group[start : start + per_batch]
        for _, group in sorted(alike.items())
        for start in range(0, len(group), per_batch)
    ]
    finished: dict[int, list[Rollout]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in tqdm(batches, desc="continuations", unit="batch"):
            each = [states[i] for i in batch for _ in range(num_continuations)]
            limits = [max_new_tokens - state.position for state in each]
            sampled = _generate(policy, tokenizer, [state.input_ids for state in each], temperature, limits)
            for place, i in enumerate(batch):
                own = sampled[place * num_continuations : (place + 1) * num_continuations]
                finished[i] = _continue(states[i], own, tokenizer)
    return [finished[i] for i in range(len(states))]


def returns_of(finished: Sequence[Sequence[Rollout]], reward_function: RewardFunction) -> np.ndarray:
    """Undiscounted returns (states, continuations): the reward of each finished completion."""
    rows = [rollout for continuations in finished for rollout in continuations]
    return np.array(score(rows, reward_function)).reshape(len(finished), -1)


def score(rollouts: Sequence[Rollout], reward_function: RewardFunction) -> list[float]:
    return reward_function(
        prompts=[rollout.prompt for rollout in rollouts], completions=[rollout.completion for rollout in rollouts]
    )


def read_rollouts(path: str | Path) -> list[tuple[Rollout, float]]:
    """Rollouts and their rewards from what `sample.py` wrote."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = tuple(row["completion_ids"][: None if row["truncated"] else -1])
        rollout = Rollout(row["prompt"], tuple(row["prompt_ids"]), row["completion"], ids, row["truncated"])
        found.append((rollout, row["reward"]))
    return found


def _continue(
    state: State, sampled: list[tuple[tuple[int, ...], bool]], tokenizer: PreTrainedTokenizerBase
) -> list[Rollout]:
    start = state.rollout
    prefix = start.completion_ids[: state.position]
    texts = tokenizer.batch_decode([list(prefix + ids) for ids, _ in sampled])
    return [
        Rollout(start.prompt, start.prompt_ids, text, prefix + ids, truncated)
        for text, (ids, truncated) in zip(texts, sampled, strict=True)
    ]


@torch.inference_mode()
def _generate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    temperature: float,
    limits: Sequence[int],
) -> list[tuple[tuple[int, ...], bool]]:
    """Each row's new tokens before the end token, and whether its length limit cut them off."""
    length = max(map(len, rows))
    padding = [length - len(row) for row in rows]
    generated = policy.generate(
        input_ids=torch.tensor(
            [[tokenizer.pad_token_id] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]
        ),
        attention_mask=torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding]),
        max_new_tokens=max(limits),
        do_sample=True,
        temperature=temperature,
        # The policy's own distribution: transformers would keep only the 50 likeliest tokens.
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    completions = []
    for ids, limit in zip(generated[:, length:].tolist(), limits, strict=True):
        ids = ids[:limit]
        ended = tokenizer.eos_token_id in ids
        completions.append((tuple(ids[: ids.index(tokenizer.eos_token_id)] if ended else ids), not ended))
    return completions
