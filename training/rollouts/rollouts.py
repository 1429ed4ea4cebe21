"""Rollouts: prompts answered by the policy, in one turn or in a conversation with an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modeling_dvpo.inference.sampling import Written
from modeling_dvpo.text.assistant_turns import Messages
from modeling_dvpo.text.completion_tokens import completion_of

from ..data.prompts import Prompt
from .environments import Environment, next_turns, turn_ids
from .generation import RolloutArguments, make_sampler


@dataclass(kw_only=True)
class Rollout:
    """A prompt and what followed it, in the token frame.

    prompt           what was answered
    input_ids        tokens of the prompt and of everything after it; the last one is always the policy's
    completion_mask  true exactly at tokens the policy emitted, its end tokens included
    completion       what reward functions get: text for text prompts; for chats a list of messages that begins with
                     the policy's first turn, the environment's turns in between; without end tokens, stop strings kept
    truncated        cut by the length limit: the policy's turn was, or no room was left for the next one
    num_turns        the policy's turns
    """

    prompt: Prompt
    input_ids: list[int]
    completion_mask: list[bool]
    completion: Any
    truncated: bool = False
    num_turns: int = 0

    @classmethod
    def begin(cls, prompt: Prompt) -> Rollout:
        """Nothing but the prompt, yet."""
        return cls(
            prompt=prompt,
            input_ids=list(prompt.input_ids),
            completion_mask=[False] * len(prompt.input_ids),
            completion="" if isinstance(prompt.prompt, str) else [],
        )

    def add_own(self, written: Written, tokenizer, end_ids: list[int]) -> None:
        """A turn of the policy's."""
        self.input_ids += written.ids
        self.completion_mask += [True] * len(written.ids)
        self.completion += completion_of(tokenizer, self.prompt.prompt, written.ids, end_ids)
        self.truncated = not written.ended
        self.num_turns += 1

    @property
    def completion_ids(self) -> list[int]:
        """Tokens the policy emitted, of all its turns."""
        return [token for token, own in zip(self.input_ids, self.completion_mask, strict=True) if own]

    @property
    def last_turn_ids(self) -> list[int]:
        """Tokens the policy emitted in its last turn."""
        others = [place for place, own in enumerate(self.completion_mask) if not own]
        return self.input_ids[others[-1] + 1 :] if others else list(self.input_ids)

    @property
    def num_actions(self) -> int:
        return sum(self.completion_mask)


def roll_out(
    policy,
    tokenizer,
    prompts: Sequence[Prompt],
    args: RolloutArguments,
    *,
    environment: Environment | None = None,
    greedy: bool = False,
    progress: bool = False,
) -> list[Rollout]:
    """One rollout of each prompt, in the order of `prompts`; name a prompt twice for two.

    Sampling draws from torch's global generator, on the policy's device. Without an environment a rollout is one turn;
    with one it goes on until the environment answers None, the policy has had `max_turns`, or the tokens after the
    prompt reach `max_completion_length`. A turn of the environment's that leaves no room for an answer is not part of
    the rollout, which then counts as truncated. Under FSDP2 call it within `whole_weights`: ranks differ in how many
    forward passes they need.

    Args:
        policy: a causal LM, or a PEFT model around one; its mode and generation config are left as they were.
        tokenizer: the policy's; it needs no pad token.
        prompts: what to answer.
        args: sampling settings.
        environment: see `turns`.
        greedy: take the likeliest tokens instead of sampling.
        progress: show a bar.

    Raises:
        RolloutError: no end token, or an environment that answers wrongly.
    """
    sampler = make_sampler(policy, tokenizer, args, greedy=greedy)
    rollouts = [Rollout.begin(prompt) for prompt in prompts]
    live = rollouts
    while live:
        limits = [_room(rollout, args) for rollout in live]
        rows = [rollout.input_ids for rollout in live]
        turns = sampler(rows, limits, batch_size=args.generation_batch_size, progress=progress)
        for rollout, written in zip(live, turns, strict=True):
            rollout.add_own(written, tokenizer, sampler.end_ids)
        live = [rollout for rollout in live if not rollout.truncated and rollout.num_turns < args.max_turns]
        if environment is None:
            break
        if live:
            answers = next_turns(environment, [rollout.prompt for rollout in live], [r.completion for r in live])
            pairs = zip(live, answers, strict=True)
            live = [rollout for rollout, turn in pairs if _add_answer(rollout, turn, tokenizer, args)]
    return rollouts


def _room(rollout: Rollout, args: RolloutArguments) -> int:
    return args.max_completion_length - (len(rollout.input_ids) - len(rollout.prompt.input_ids))


def _add_answer(rollout: Rollout, turn: None | str | Messages, tokenizer, args: RolloutArguments) -> bool:
    """Add the environment's turn; whether the conversation goes on."""
    if turn is None:
        return False
    ids = turn_ids(
        tokenizer,
        turn,
        rollout.last_turn_ids,
        chat_template_kwargs=rollout.prompt.chat_template_kwargs,
    )
    if len(ids) >= _room(rollout, args):
        rollout.truncated = True
        return False
    rollout.input_ids += ids
    rollout.completion_mask += [False] * len(ids)
    rollout.completion += turn
    return True
