"""What a critic says of whole completions: the distribution of the return in every state along them.

A completion of T action tokens passes T + 1 states: the one before each of its tokens, and the one after the last.
Whoever wants one number for a completion reads `last_state`, the state before its last token, whatever that is: a
return ends with the last action, so what a critic says *after* it is trained only where a return is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..text.assistant_turns import Messages
from ..text.batches import batches_by_length, padded_tokens
from ..text.completion_tokens import CompletionTokenizer, Tokens
from ..text.problems import RowProblem
from .prefix_reader import PrefixReader, evaluating


@dataclass(frozen=True)
class ScoredCompletion:
    """A completion's tokens and what the critic expects along it; N heads, M quantiles, T action tokens.

    Attributes:
        input_ids: prompt and completion, as the critic read them.
        action_positions: (T,) where in `input_ids` the action tokens are; a chat's other turns lie between.
        quantiles: (T + 1, N, M) float32 on the CPU, in the reward's units: [t] is the state before action token t,
            [T] the state after the last one.
    """

    input_ids: list[int]
    action_positions: list[int]
    quantiles: Tensor = field(repr=False)

    @property
    def value(self) -> Tensor:
        """(T + 1,) the expected return in every state: mean over heads and quantiles."""
        return self.quantiles.mean((-2, -1))

    @property
    def last_state(self) -> Tensor:
        """(N, M) quantiles of the state before the last action token; of a prompt alone, its one state."""
        return self.quantiles[max(len(self.action_positions) - 1, 0)]


def score_completions(
    critic,
    tokenizer,
    prompts: Sequence[str | Messages],
    completions: Sequence[str | Messages],
    *,
    truncated: bool | Sequence[bool] = False,
    append_eos: bool = True,
    tools: list | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_tokens: int = 16384,
    use_cache: bool | None = False,
) -> list[ScoredCompletion]:
    """Read each completion after its prompt, several at a time.

    Args:
        critic: of `AutoModelForDistributionalValue`, on any device and of any dtype; evaluated without dropout.
        tokenizer: the critic's.
        prompts, completions: texts; or chats, whose completions are messages or the text of one assistant turn.
        truncated: of all completions or of each: it was cut off, so it has no end token.
        append_eos: end text completions that are not truncated with the end token, where they have none.
        tools, chat_template_kwargs: for the chat template; the latter are its own arguments, such as
            {"enable_thinking": False}.
        max_tokens: of a padded batch; a completion longer than that is read alone.
        use_cache: True reads a prompt that several completions share once, and goes on from its KV cache: the same
            numbers up to rounding, for less work where prompts are long. None does so where the critic's family allows
            it. False, the default, reads every row whole.

    Returns:
        One for each completion, in their order.

    Raises:
        ValueError: unequal numbers, a completion without tokens, or one the critic cannot read whole. `DataError`
            where the tokenizer lacks something.
    """
    flags = [truncated] * len(completions) if isinstance(truncated, bool) else list(truncated)
    if not len(prompts) == len(completions) == len(flags):
        raise ValueError(
            f"{len(prompts)} prompts, {len(completions)} completions and {len(flags)} values of truncated: give as "
            "many of each."
        )
    tokenize = CompletionTokenizer(tokenizer, append_eos=append_eos, chat_template_kwargs=chat_template_kwargs)
    rows = []
    for place, (prompt, completion, cut) in enumerate(zip(prompts, completions, flags, strict=True)):
        try:
            rows.append(tokenize(prompt, completion, tools=tools, truncated=cut))
        except RowProblem as problem:
            raise ValueError(f"Completion {place}: {problem}") from problem
    return score_tokens(critic, rows, max_tokens=max_tokens, use_cache=use_cache)


def score_tokens(
    critic,
    rows: Sequence[Tokens],
    *,
    max_tokens: int = 16384,
    use_cache: bool | None = False,
) -> list[ScoredCompletion]:
    """`score_completions` of what is tokenised already.

    A row without actions is a prompt alone: its one state is the one after its last token.
    """
    require_readable(critic, rows)
    states: dict[int, Tensor] = {}
    with evaluating(critic):
        shared = _shared_prompts(rows) if use_cache is not False else []
        for prompt, members in shared:
            states.update(_after_prompt(critic, rows, prompt, members, max_tokens, use_cache))
        alone = [i for i in range(len(rows)) if i not in states]
        for places in batches_by_length([len(rows[i].input_ids) for i in alone], max_tokens=max_tokens):
            batch = [alone[place] for place in places]
            # padded on the right, where causal attention does not see it
            ids, mask = padded_tokens([rows[i].input_ids for i in batch], device=critic.device)
            quantiles = critic(input_ids=ids, attention_mask=mask, use_cache=False).quantiles
            for i, outputs in zip(batch, quantiles, strict=True):
                states[i] = _states(rows[i], outputs, first=0)
    return [ScoredCompletion(list(row.input_ids), _action_positions(row), states[i]) for i, row in enumerate(rows)]


def _action_positions(row: Tokens) -> list[int]:
    return [place for place, action in enumerate(row.actions) if action]


def _states(row: Tokens, outputs: Tensor, first: int) -> Tensor:
    """(T + 1, N, M) on the CPU of outputs that begin at position `first`."""
    # Output p has seen token p: the state before an action is the output one token earlier.
    places = [*(place - 1 for place in _action_positions(row)), len(row.input_ids) - 1]
    return outputs[torch.tensor(places, device=outputs.device) - first].float().cpu()


def require_readable(critic, rows: Sequence[Tokens]) -> None:
    """Raise ValueError where a row is longer than the critic's positions, or has tokens it does not know."""
    config = critic.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    for place, row in enumerate(rows):
        if most and len(row.input_ids) > most:
            raise ValueError(
                f"Completion {place} has {len(row.input_ids)} tokens with its prompt, and the critic reads {most} at "
                "most; nothing is cut off silently: shorten it, or use a critic with a longer context."
            )
        if max(row.input_ids) >= config.vocab_size:
            raise ValueError(
                f"Completion {place} has token id {max(row.input_ids)}, and the critic's vocabulary ends at "
                f"{config.vocab_size - 1}: use the critic's own tokenizer."
            )


def _shared_prompts(rows: Sequence[Tokens]) -> list[tuple[list[int], list[int]]]:
    """Prompts that several rows begin with, and which rows do."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if any(row.actions):
            groups.setdefault(tuple(row.input_ids[: row.actions.index(True)]), []).append(i)
    return [(list(prompt), members) for prompt, members in groups.items() if len(members) > 1]


def _after_prompt(critic, rows, prompt: list[int], members: list[int], max_tokens: int, use_cache: bool | None):
    """(row, its states) of rows that share a prompt, which is read once."""
    reader = PrefixReader(critic, use_cache=use_cache)
    if reader.use_cache:
        before = reader.read(torch.tensor([prompt]))[0, -1:]
    if not reader.use_cache:
        return  # to read the rows with their prompt is no more work, then
    lengths = [len(rows[i].input_ids) for i in members]
    for places in batches_by_length(lengths, max_tokens=max_tokens):
        batch = [members[place] for place in places]
        ids, mask = padded_tokens([rows[i].input_ids[len(prompt) :] for i in batch])
        after = reader.branch(torch.zeros(len(batch), dtype=torch.long)).read(ids, mask)
        for i, outputs in zip(batch, after, strict=True):
            yield i, _states(rows[i], torch.cat([before, outputs]), first=len(prompt) - 1)
