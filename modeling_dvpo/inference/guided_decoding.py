"""Sampling that leans towards what a critic expects more of, token by token.

`policy.generate(**inputs, do_sample=True, logits_processor=[CriticGuidance(critic, beta=5.0)])`
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .prefix_reader import PrefixReader, evaluating
from .risk_measures import RiskMeasure, parse_risk_measure


class CriticGuidance(LogitsProcessor):
    """p'(a) ∝ p(a) · exp(β (ρ(Z(s + a)) - ρ(Z(s)))) for the k likeliest tokens a; the others keep p(a).

    That is the policy which maximises ρ less 1/β times the KL divergence from p, one token ahead. Subtracting ρ(Z(s))
    changes nothing among the k; it is what the critic expects of the tokens that it was not asked about. An end token
    keeps p(a), too: an ended completion's return is that of the state before it, where critics are trained.

    For `generate`, which applies temperature, top_k and top_p after it: those act on p'. The critic reads k + 1 tokens
    for each that is written, from a KV cache.

    Args:
        critic: with the policy's tokenizer.
        beta: β, in units of 1 / reward; 0 samples from p.
        score: ρ, as in `rerank`.
        num_candidates: k.
        end_ids: of tokens that end a completion; `text.turn_ends.end_ids` finds them.
        prompt_mask: (B, T) attention mask of the prompts, where they are padded on the left.
        use_cache: as in `PrefixReader`.
    """

    def __init__(
        self,
        critic,
        *,
        beta: float,
        score: str | RiskMeasure = "mean",
        num_candidates: int = 4,
        end_ids: Sequence[int] = (),
        prompt_mask: Tensor | None = None,
        use_cache: bool | None = None,
    ):
        if num_candidates < 1:
            raise ValueError(f"num_candidates is {num_candidates}; it must be at least 1.")
        self.critic, self.beta, self.measure = critic, beta, parse_risk_measure(score)
        self.num_candidates, self.end_ids = num_candidates, torch.tensor(list(end_ids), device=critic.device)
        self.prompt_mask, self.use_cache = prompt_mask, use_cache
        self._ids: Tensor | None = None
        self._reader: PrefixReader  # of these tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided logits: (B, T) tokens so far, (B, V) logits -> (B, V)."""
        with evaluating(self.critic):
            now = self._score(self._read(input_ids))
            tokens = scores.topk(min(self.num_candidates, scores.shape[1])).indices.to(now.device)
            rows, count = tokens.shape
            ahead = self._reader.branch(torch.arange(rows).repeat_interleave(count))
            after = self._score(ahead.read(tokens.reshape(-1, 1))).view(rows, count)
        gain = (after - now[:, None]).masked_fill(torch.isin(tokens, self.end_ids), 0.0)
        return scores.scatter_add(1, tokens.to(scores.device), (self.beta * gain).to(scores))

    def _read(self, input_ids: Tensor) -> Tensor:
        """(B, 1, N, M) in the state after the tokens so far."""
        known = self._ids
        grown = known is not None and known.shape == input_ids[:, :-1].shape and torch.equal(known, input_ids[:, :-1])
        self._ids = input_ids
        if grown:
            return self._reader.read(input_ids[:, -1:])
        # another prompt, or beams in another order
        self._reader = PrefixReader(self.critic, use_cache=self.use_cache)
        return self._reader.read(input_ids, self._mask(input_ids))[:, -1:]

    def _mask(self, input_ids: Tensor) -> Tensor:
        mask = torch.ones_like(input_ids)
        if self.prompt_mask is not None:
            rows, width = self.prompt_mask.shape
            if len(input_ids) % rows or input_ids.shape[1] < width:
                raise ValueError(
                    f"prompt_mask has shape {(rows, width)}, and the tokens {tuple(input_ids.shape)}: give the mask "
                    "of these prompts."
                )
            mask[:, :width] = self.prompt_mask.repeat_interleave(len(input_ids) // rows, 0)
        return mask

    def _score(self, states: Tensor) -> Tensor:
        """(B,) of states (B, 1, N, M)."""
        return self.measure(states[:, 0].mean(-2))
