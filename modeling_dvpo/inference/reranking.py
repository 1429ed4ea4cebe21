"""A critic as a judge: the best of given candidates, or the best of n that a policy writes.

    best, *others = rerank(critic, tokenizer, "2 + 2 =", [" 4", " 5"])
    [result] = best_of_n(policy, critic, tokenizer, ["2 + 2 ="], 16, score="cvar=0.25")

A candidate's score is a number made of the distribution that the critic sees in its last state (see `scoring.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..auto import AutoModelForDistributionalValue
from ..text.assistant_turns import Messages
from ..text.completion_tokens import Tokens, completion_of, prompt_tokens
from .candidates import Candidate, ranked
from .prefix_reader import PrefixReader, evaluating
from .pruning import Draft, Pruning, tokens_saved, write_and_prune
from .risk_measures import RiskMeasure, parse_risk_measure
from .sampling import Continuation, Sampler, Sampling, as_sampled
from .scoring import score_completions, score_tokens

Named = str | os.PathLike


@dataclass(frozen=True)
class BestOfN:
    """What became of one prompt; candidates from the best to the worst, pruned ones behind all others.

    Attributes:
        tokens_generated: by the policy, over all candidates.
        tokens_saved: an estimate of what the pruned candidates would have added; 0 without pruning.
    """

    prompt: str | Messages
    candidates: list[Candidate]
    tokens_generated: int
    tokens_saved: float

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def rerank(
    critic,
    tokenizer,
    prompt: str | Messages,
    candidates: Sequence[str | Messages],
    score: str | RiskMeasure = "mean",
    *,
    truncated: bool | Sequence[bool] = False,
    append_eos: bool = True,
    tools: list | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    use_cache: bool | None = None,
    max_tokens: int = 16384,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str = "auto",
) -> list[Candidate]:
    """Candidates from the best to the worst; of equal ones, the one that came first.

    Args:
        critic: of `AutoModelForDistributionalValue`, on any device and of any dtype; or its directory or Hub name,
            which is then loaded for this call.
        tokenizer: the critic's; None reads it from where the critic is read.
        prompt: a text, or a chat's messages.
        candidates: completions as `score_completions` takes them.
        score: what makes a number of the distribution, averaged over heads: "mean", "cvar", "upper_tail",
            "lower_confidence", "value_at_risk", "wang", "spectral", with a parameter if you like ("cvar=0.25"), or a
            function of (K, M) quantiles that gives (K,) numbers.
        truncated, append_eos, tools, chat_template_kwargs, max_tokens: as in `score_completions`.
        use_cache: read the prompt once for all candidates; None where the critic's family allows it.
        device, dtype: of a critic given by name; by default the first GPU, if any, and the checkpoint's dtype.

    Raises:
        ValueError: no candidates; an unknown score, or one that is not a finite number for each; or as
            `score_completions`.
    """
    measure = parse_risk_measure(score)
    if not candidates or isinstance(candidates, str):
        raise ValueError(f"candidates are {candidates!r:.60}; a list of at least one completion is needed.")
    critic, tokenizer = _critic_and_tokenizer(critic, tokenizer, device, dtype)
    scored = score_completions(
        critic,
        tokenizer,
        [prompt] * len(candidates),
        candidates,
        truncated=truncated,
        append_eos=append_eos,
        tools=tools,
        chat_template_kwargs=chat_template_kwargs,
        max_tokens=max_tokens,
        use_cache=use_cache,
    )
    states = [one.last_state for one in scored]
    lengths = [len(one.action_positions) for one in scored]
    return ranked(list(candidates), states, lengths, [False] * len(states), measure)


def best_of_n(
    policy,
    critic,
    tokenizer,
    prompts: Sequence[str | Messages],
    n: int,
    *,
    score: str | RiskMeasure = "mean",
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    batch_size: int = 64,
    pruning: Pruning | dict | None = None,
    tools: list | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    use_cache: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str = "auto",
) -> list[BestOfN]:
    """Sample n completions of each prompt, and rank them by the critic.

    The critic reads the very tokens that the policy wrote, so both must have one tokenizer; for another policy's
    completions, as text, there is `rerank`.

    Args:
        policy: a causal LM, or a PEFT model around one; or a directory or Hub name.
        critic, score, use_cache, device, dtype: as in `rerank`; a policy given by name is loaded likewise.
        tokenizer: of both; None reads it from where the policy (or else the critic) is read.
        prompts: texts, or chats' messages; several are sampled together, padded on the left.
        max_new_tokens: most tokens of a completion, its end token included.
        temperature, top_k, top_p: as in `Sampling`; whatever the policy's own generation config says of sampling is
            left out.
        seed: makes the samples repeatable, and leaves the global random generators as they were.
        batch_size: rows sampled together; a prompt's n always are.
        pruning: `Pruning(...)` or its settings: drop the worst candidates while they are being written.
        tools, chat_template_kwargs: for the chat template.

    Returns:
        One for each prompt, in their order.

    Raises:
        ValueError: settings out of range, an unknown score, or prompts that the critic cannot read.
    """
    measure = parse_risk_measure(score)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    pruning = Pruning(**pruning) if isinstance(pruning, dict) else pruning
    if n < 1 or batch_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"n is {n}, batch_size {batch_size} and max_new_tokens {max_new_tokens}; each must be at least 1."
        )
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the text {prompts!r:.60}; a list of prompts is needed.")
    if tokenizer is None:
        tokenizer = next((model for model in (policy, critic) if isinstance(model, Named)), None)
    policy = _loaded(AutoModelForCausalLM, policy, device, dtype)
    critic, tokenizer = _critic_and_tokenizer(critic, tokenizer, device or policy.device, dtype)
    rows = [prompt_tokens(tokenizer, prompt, tools, chat_template_kwargs=chat_template_kwargs) for prompt in prompts]
    _require_room(policy, critic, rows, max_new_tokens)
    sampler = Sampler(policy, tokenizer, sampling)
    results, step = [], max(1, batch_size // n)
    with as_sampled(policy, seed=seed), evaluating(critic):
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            repeated = [row for row in some for _ in range(n)]
            continuation = Continuation(sampler, repeated)
            if pruning is None:
                drafts = _written(continuation, critic, some, n, max_new_tokens, use_cache)
            else:
                drafts = write_and_prune(
                    continuation,
                    PrefixReader(critic, use_cache=use_cache),
                    some,
                    n,
                    measure=measure,
                    pruning=pruning,
                    max_new_tokens=max_new_tokens,
                )
            for place, prompt in enumerate(prompts[start : start + step]):
                own = drafts[place * n : (place + 1) * n]
                results.append(_result(prompt, own, measure, tokenizer, sampler.end_ids))
    return results


def _critic_and_tokenizer(critic, tokenizer, device, dtype):
    """Both as objects; without a tokenizer, the one beside the critic."""
    if tokenizer is None:
        if not isinstance(critic, Named):
            raise ValueError("The critic is a model, so nothing says where its tokenizer is: give tokenizer.")
        tokenizer = critic
    if isinstance(tokenizer, Named):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    return _loaded(AutoModelForDistributionalValue, critic, device, dtype), tokenizer


def _loaded(auto_class, model, device, dtype):
    """The model itself, or the one of this name."""
    if not isinstance(model, Named):
        return model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return auto_class.from_pretrained(model, dtype=dtype).to(device)


def _require_room(policy, critic, rows: list[list[int]], max_new_tokens: int) -> None:
    longest = max(map(len, rows), default=0)
    for name, model in (("policy", policy), ("critic", critic)):
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if most and longest + max_new_tokens > most:
            raise ValueError(
                f"The longest prompt has {longest} tokens, and the {name} reads {most} at most, completions included: "
                f"max_new_tokens={max_new_tokens} is too much."
            )


def _written(continuation, critic, prompts, n, max_new_tokens, use_cache) -> list[Draft]:
    """n whole completions of each prompt, scored."""
    written = continuation.write(max_new_tokens)
    drafts = [Draft(row // n, ids, ended=ended) for row, (ids, ended) in enumerate(written)]
    rows = [
        Tokens(prompts[draft.prompt] + draft.ids, [False] * len(prompts[draft.prompt]) + [True] * len(draft.ids))
        for draft in drafts
    ]
    for draft, scored in zip(drafts, score_tokens(critic, rows, use_cache=use_cache), strict=True):
        draft.state = scored.last_state
    return drafts


def _result(prompt, drafts: list[Draft], measure: RiskMeasure, tokenizer, end_ids: list[int]) -> BestOfN:
    completions = [completion_of(tokenizer, prompt, draft.ids, end_ids) for draft in drafts]
    lengths = [len(draft.ids) for draft in drafts]
    order = ranked(
        completions, [draft.state for draft in drafts], lengths, [draft.pruned for draft in drafts], measure
    )
    return BestOfN(prompt, order, sum(lengths), tokens_saved(drafts))
