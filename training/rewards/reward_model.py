"""A sequence-classification reward model, called like a reward function."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import RewardDataError


class RewardModel:
    """A sequence classifier with one label, called like a reward function.

    Text rows are scored as prompt + completion, chats through the reward model's own chat template.
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
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # The model looks for the last token that is not padding, so both must mean the same id.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    @torch.no_grad()
    def __call__(self, *, prompts: list, completions: list, **_: object) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(prompts), self.batch_size):
            rows = zip(prompts[start : start + self.batch_size], completions[start:], strict=False)
            encoded = [self._encode(prompt, completion) for prompt, completion in rows]
            batch = self.tokenizer.pad({"input_ids": encoded}, return_tensors="pt", padding_side="right")
            scores += self.model(**batch.to(self.device)).logits[:, 0].float().tolist()
        return scores

    def _encode(self, prompt: str | list, completion: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt + completion).input_ids
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(prompt + completion, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False).input_ids
