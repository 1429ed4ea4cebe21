"""Fixtures shared by several test files."""

import os

# before anything of Hugging Face is imported: no test may reach for the network
os.environ["HF_HUB_OFFLINE"] = "1"
# scripts that tests start share our helpers
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))

import pytest  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}<end>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.fixture
def tiny_tokenizer():
    """A byte-level BPE of 320 tokens with pad, begin and end tokens and a chat template; fresh for every test."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    text = "What is 2 + 3? First add two and three. The answer is 5. user: assistant: tool: system: hello world"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    model.train_from_iterator([text] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="<end>", chat_template=CHAT_TEMPLATE
    )
