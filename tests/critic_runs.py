"""Short runs of train_critic.py on a tiny policy and a reward set whose rewards can be told from the prompt."""

import json
import random

import torch
from scripts import flags, metrics_of
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import modeling_dvpo.training.train_critic as script
from modeling_dvpo import AutoModelForDistributionalValue

# a step has about 260 tokens
SHORT = {
    "max_steps": 6,
    "rows_per_step": 16,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval_steps": 3,
    "value_head_type": "linear",
}
LEARNING = {"max_steps": 30, "rows_per_step": 32, "learning_rate": 3e-3, "logging_steps": 10}


def word_tokenizer():
    """One token a word or digit; as quick to learn from as can be."""
    words = ["<pad>", "<s>", "<end>", "What", "is", "+", "?", "The", "answer", ".", *"0123456789"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end>")


def reward_rows(number, seed=0):
    """The first summand, 0 to 4, is the reward times 4, nine times in ten; prompts and completions vary in length."""
    draw = random.Random(seed)
    for _ in range(number):
        first, second = draw.randrange(5), draw.randrange(10 ** draw.randint(1, 4))
        reward = first / 4 if draw.random() < 0.9 else draw.random()
        answer = draw.randrange(10 ** draw.randint(1, 6))
        yield {"prompt": f"What is {first} + {second}?", "completion": f"The answer is {answer}.", "reward": reward}


def run(output_dir, *settings, **more):
    """One run in this process; its metrics by step."""
    script.main(flags(*settings, output_dir=output_dir, **more))
    return metrics_of(output_dir)


def config_of(directory):
    """Of a saved critic, as JSON that other programs can read: NaN is none."""
    text = (directory / "config.json").read_text()
    assert "NaN" not in text
    return json.loads(text)


def values(directory):
    """What the critic of a directory predicts for one text, by `from_pretrained` alone."""
    critic = AutoModelForDistributionalValue.from_pretrained(directory)
    tokens = AutoTokenizer.from_pretrained(directory)("What is 3 + 14? The answer is 15.", return_tensors="pt")
    with torch.no_grad():
        return critic(input_ids=tokens["input_ids"]).quantiles
