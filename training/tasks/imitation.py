"""A small policy that has learnt a task by imitating demonstrations: where the built-in tasks' runs start from.

A demonstration is text in segments, and the policy learns to write those that are actions. The tokenizer is made for
the task: one token for each of a few words, one for each character, so that a sequence is short and reads as it is.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import trange
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from modeling_dvpo.text.assistant_turns import ChatTemplate, assistant_turns

Demonstration: TypeAlias = Sequence[tuple[str, bool]]
"""Segments `(text, is_action)`, in the order they stand. An action is a whole turn: the end token that finishes it is
left out of the text and learnt with it. `[("2+3=", False), ("2+3=5;answer 5", True)]` has one."""

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
IGNORED = -100


def build_tokenizer(
    words: Sequence[str],
    characters: str,
    *,
    chat_template: str | None = None,
    special_tokens: Sequence[str] = (),
    model_max_length: int = 128,
) -> PreTrainedTokenizerFast:
    """One token for each word, the longest first where several fit, then one a character; text round-trips exactly.

    Padding is on the left. Other characters become `<unk>`.

    Args:
        words: are found anywhere in the text, inside longer words too.
        characters: all others that a text may hold.
        chat_template: Jinja; has to end an assistant turn with `eos_token`, and to render a prompt the same alone and
            inside a conversation.
        special_tokens: turn markers and the like; a single token each, which decoding can skip.
        model_max_length: in tokens; the policy's number of positions too.

    Raises:
        ValueError: a token is named twice, or the template does not end an assistant turn with the end token.
    """
    vocabulary = [PAD, EOS, UNKNOWN, *words, *characters, *special_tokens]
    twice = sorted({token for token in vocabulary if vocabulary.count(token) > 1})
    if twice:
        raise ValueError(f"A token may be named once among words, characters and special tokens, got {twice} twice.")
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=UNKNOWN))
    pieces = [*map(re.escape, sorted(words, key=len, reverse=True)), r"[\s\S]"]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(pieces)), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=list(special_tokens),
        chat_template=chat_template,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    if chat_template is not None:
        _check_turns_end(built, characters[0])
    return built


def _check_turns_end(tokenizer: PreTrainedTokenizerFast, content: str) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    text: Any = tokenizer.apply_chat_template(messages, tokenize=False)
    if not text.endswith(tokenizer.eos_token):
        raise ValueError(
            f"The chat template has to end an assistant turn with the end token {tokenizer.eos_token!r}, or a policy "
            f"never learns to stop; it renders {text!r}. Write {{{{ eos_token }}}} after what an assistant says."
        )


def build_policy(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 128, num_layers: int = 3
) -> Qwen3ForCausalLM:
    """A fresh policy, its weights drawn from torch's global generator."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=hidden_size // 4,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def conversation_demonstration(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast) -> Demonstration:
    """A conversation as its chat template renders it; what the assistant says is the actions."""
    text, spans = assistant_turns(ChatTemplate(tokenizer), messages)
    segments, place = [], 0
    for start, end, _ in spans:
        segments += [(text[place:start], False), (text[start:end].removesuffix(tokenizer.eos_token), True)]
        place = end
    return [(text, is_action) for text, is_action in segments if text or is_action]


def train_policy(
    demonstrations: Iterator[Demonstration],
    tokenizer: PreTrainedTokenizerFast,
    output_dir: str | Path,
    *,
    seed: int,
    num_steps: int = 800,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    hidden_size: int = 128,
    num_layers: int = 3,
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Trains a fresh policy by imitation and saves it with its tokenizer as an ordinary transformers directory.

    The learning rate rises over 50 steps and falls linearly to zero. The result depends on the arguments alone, and
    torch's global generator is left as it was.

    Args:
        demonstrations: `num_steps * batch_size` of them are drawn.
        seed: of the initial weights.

    Raises:
        ValueError: too few demonstrations, one without an action, with a character that is no token, or longer than
            the tokenizer's `model_max_length`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = build_policy(tokenizer, hidden_size=hidden_size, num_layers=num_layers)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / num_steps))

    policy.train()
    progress = trange(num_steps, desc="policy", unit="step")
    for step in progress:
        batch = list(itertools.islice(demonstrations, batch_size))
        if len(batch) < batch_size:
            raise ValueError(
                f"{num_steps} steps of {batch_size} demonstrations need {num_steps * batch_size}, "
                f"got {step * batch_size + len(batch)}. Give an endless stream, or train for fewer steps."
            )
        loss = policy(**imitation_batch(batch, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    policy.eval()

    policy.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return policy, tokenizer


def imitation_batch(
    demonstrations: Sequence[Demonstration], tokenizer: PreTrainedTokenizerFast
) -> dict[str, torch.Tensor]:
    """`input_ids` and `labels`, both (demonstrations, longest), int64; what is not an action has the label -100.

    Padding on the right is invisible to causal attention, so no mask is needed.
    """
    rows, labels = zip(*(_encode(demonstration, tokenizer) for demonstration in demonstrations), strict=True)
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]),
        "labels": torch.tensor([label + [IGNORED] * (length - len(label)) for label in labels]),
    }


def _encode(demonstration: Demonstration, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    row: list[int] = []
    labels: list[int] = []
    for text, is_action in demonstration:
        encoding = tokenizer(text, return_offsets_mapping=True)
        ids, places = encoding["input_ids"], encoding["offset_mapping"]
        unknown = {text[slice(*place)] for i, place in zip(ids, places, strict=True) if i == tokenizer.unk_token_id}
        if unknown:
            raise ValueError(
                f"The tokenizer has no token for {sorted(unknown)} in {text!r}. Name them when it is built."
            )
        ids += [tokenizer.eos_token_id] * is_action
        row += ids
        labels += ids if is_action else [IGNORED] * len(ids)
    if all(label == IGNORED for label in labels):
        raise ValueError(f"A demonstration needs an action to learn from, got {list(demonstration)!r}.")
    if len(row) > tokenizer.model_max_length:
        raise ValueError(
            f"A demonstration has {len(row)} tokens, more than the tokenizer's model_max_length "
            f"{tokenizer.model_max_length}: {demonstration[0][0]!r}... Build the tokenizer with a larger one."
        )
    return row, labels
