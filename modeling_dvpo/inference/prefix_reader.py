"""A critic along rows that grow: what is new is read, what was read before stays in its KV cache.

For whatever looks at the same prefix more than once: many candidates for one prompt, completions judged while they
are being written, tokens weighed before one is taken.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

# Not recurrent, and yet on transformers 5.10.2 the first goes on wrongly from its cache and the others raise.
UNTRUSTED = ("doge", "glm_moe_dsa", "lfm2_moe")


class PrefixReader:
    """Quantiles of rows of tokens, piece by piece.

    Args:
        critic: of `AutoModelForDistributionalValue`; call inside `evaluating(critic)` and without gradients.
        use_cache: None caches where the family allows it; True insists on it; False reads the whole rows again each
            time, which gives the same numbers up to rounding.

    Raises:
        ValueError: a cache is insisted on, and the family's cannot be trusted to go on by several tokens at a time, or
            to have its rows picked and repeated. Recurrent families go on by one token at most, or do so wrongly and
            without an error (Jamba, Bamba and Zamba on transformers 5.23); some have no cache, or a kind of their own.
    """

    def __init__(self, critic, *, use_cache: bool | None = None):
        self.critic = critic
        self.required, self.use_cache = use_cache is True, use_cache is not False
        if critic._is_stateful or critic.config.model_type in UNTRUSTED:
            self._give_up_cache()
        self._ids: Any = None  # these until something is read
        self._mask: Any = None
        self._cache: Any = None

    def read(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Go on by T tokens: quantiles (B, T, N, M) of the states after each of them, float32, on the critic's device.

        Args:
            ids: (B, T) what follows the tokens read so far.
            mask: (B, T) which of them are real; all by default. The first piece may be padded on the left. A row that
                is padded on the right is at its end: it can be kept, and what is read behind the padding means
                nothing.
        """
        device, width = self.critic.device, ids.shape[1]
        ids = ids.to(device)
        mask = torch.ones_like(ids) if mask is None else mask.to(device)
        self._mask = mask if self._mask is None else torch.cat([self._mask, mask], 1)
        if self.use_cache:
            outputs = self._outputs(ids, past_key_values=self._cache, use_cache=True)
            self._cache = outputs.past_key_values
            if type(self._cache) is not DynamicCache:
                self._give_up_cache()
                self._ids, self._cache = ids, None
        else:
            self._ids = ids if self._ids is None else torch.cat([self._ids, ids], 1)
            outputs = self._outputs(self._ids, use_cache=False, values_to_keep=width)
        return outputs.quantiles

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Go on with these rows, (B',) places, in this order; one may come several times."""
        rows = torch.as_tensor(rows, device=self.critic.device)
        self._mask = self._mask[rows]
        if self.use_cache:
            self._cache.reorder_cache(rows)
        else:
            self._ids = self._ids[rows]

    def branch(self, rows: Tensor) -> PrefixReader:
        """Another reader that goes on with these rows, while this one stays where it is."""
        other = copy.copy(self)
        # one layer's tensors are replaced by `reorder_cache`, others' are written to: no two readers may share them
        other._cache = copy.deepcopy(self._cache)
        other.select(rows)
        return other

    def _give_up_cache(self) -> None:
        if self.required:
            raise ValueError(
                f"A {self.critic.config.model_type} critic has no cache that can go on by several tokens at a time: "
                "leave use_cache out, or set it to False, and it reads its rows whole."
            )
        self.use_cache = False

    def _outputs(self, ids: Tensor, **options):
        if not self._mask.all() and "position_ids" in inspect.signature(self.critic.base_model.forward).parameters:
            options["position_ids"] = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.critic(input_ids=ids, attention_mask=self._mask, **options)


@contextmanager
def evaluating(*models) -> Iterator[None]:
    """The models in eval mode, without gradients; every module gets its mode back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
