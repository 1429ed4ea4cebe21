"""A sequence-classification reward model, called like a reward function."""

from __future__ import annotations

from typing import Any

import torch

from modeling_dvpo.text.batches import padded_tokens

from ..errors import RewardDataError


class RewardModel:
    """A sequence classifier with one label, called like a reward function.

    Text rows are scored as prompt + completion, chats through the reward model's own chat template. A row's score is
    what the model says of the row alone, whatever it shares a batch with.
    """

    def __init__(self, name: str, *, batch_size: int = 16):
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        labels = AutoConfig.from_pretrained(name).num_labels
        if labels != 1:
            raise RewardDataError(
                f"{name!r} has {labels} labels, and a reward model needs 1, so that its output is one score: use a "
                "reward model, or a reward function that says what to make of the labels."
            )
        self.name, self.batch_size = name, batch_size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1).to(self.device).eval()

    @torch.no_grad()
    def __call__(self, *, prompts: list, completions: list, **_: object) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(prompts), self.batch_size):
            rows = zip(prompts[start : start + self.batch_size], completions[start:], strict=False)
            scores += self._scores([self._encode(prompt, completion) for prompt, completion in rows])
        return scores

    def _scores(self, rows: list[list[int]]) -> list[float]:
        config = self.model.config.get_text_config()
        own = config.pad_token_id
        if own is not None and 0 <= own < config.vocab_size:
            # The model looks for the last token that is not this one, in a row alone as in a padded one. Another id in
            # its place (the end token, say) would be skipped where it is a row's own.
            ids, mask = padded_tokens(rows, pad_id=own, device=self.device)
            return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        if hasattr(self.model, "score"):  # a decoder, which without an id of its own reads the last token
            ids, mask = padded_tokens(rows, device=self.device)
            hidden = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            last = hidden[torch.arange(len(rows), device=ids.device), mask.sum(-1) - 1]
            return self.model.score(last)[:, 0].float().tolist()
        return [
            self.model(input_ids=torch.tensor([row], device=self.device)).logits[0, 0].float().item() for row in rows
        ]

    def _encode(self, prompt: str | list, completion: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt + completion).input_ids
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(prompt + completion, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False).input_ids
