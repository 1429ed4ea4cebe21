"""A small policy that has learnt to work out arithmetic from somebody careless.

It imitates worked solutions in which hard steps are often wrong (`Problem.worked`). A policy that had merely stopped
training early would be wrong about as often, but how often would hang on the seed and on the last few steps; this one
learns the arithmetic well and the carelessness with it, so that its chance of success differs from state to state.
"""

import itertools
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import trange
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from modeling_dvpo.training.tasks.arithmetic import ANSWER, CHARACTERS, generate_problems

IGNORED = -100


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and one for the word before the answer; text round-trips exactly."""
    vocabulary = ["<pad>", "<eos>", "<unk>", ANSWER, *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{ANSWER}|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
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


def train_policy(
    output_dir: str | Path,
    seed: int,
    *,
    domain: str = "in_domain",
    num_steps: int = 800,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    carelessness: float = 0.2,
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Trains a policy by imitation and saves it with its tokenizer as an ordinary transformers directory."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = build_policy(tokenizer)
    problems = generate_problems(seed=seed, domain=domain)
    worker = random.Random(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / num_steps))

    policy.train()
    progress = trange(num_steps, desc="policy", unit="step")
    for _ in progress:
        texts = [
            (problem.prompt, problem.worked(carelessness, worker))
            for problem in itertools.islice(problems, batch_size)
        ]
        loss = policy(**_imitation_batch(texts, tokenizer)).loss
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


def _imitation_batch(texts: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Prompt, completion, end token; only the last two are learnt. Padding on the right is invisible to causal
    attention, so no mask is needed."""
    rows, labels = [], []
    for prompt, completion in texts:
        prompt_ids = tokenizer(prompt)["input_ids"]
        completion_ids = tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id]
        rows.append(prompt_ids + completion_ids)
        labels.append([IGNORED] * len(prompt_ids) + completion_ids)
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]),
        "labels": torch.tensor([label + [IGNORED] * (length - len(label)) for label in labels]),
    }
