"""Which files are a model, which a push replaces, and what a repository holds, by names alone."""

import pytest

from modeling_dvpo.hub.model_files import (
    belongs_to_model,
    decides_numbers,
    is_replaced,
    is_wanted,
    is_weights,
    kind_of,
)

WEIGHTS = [
    "model.safetensors", "model-00001-of-00012.safetensors", "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors", "adapter_model.safetensors",
]  # fmt: skip
OTHERS = [
    "optimizer.pt",
    "run.json",
    "metrics.jsonl",
    "pair.json",
    ".env",
    "sub/model.safetensors",
    "model.safetensors.bak",
]


@pytest.mark.parametrize("path", WEIGHTS)
def test_weights(path):
    assert is_weights(path) and belongs_to_model(path) and decides_numbers(path) and is_wanted(path)
    assert is_replaced(path, with_tokenizer=False)


@pytest.mark.parametrize("path", ["model.safetensors.index.json", "config.json", "adapter_config.json"])
def test_configs_decide_numbers(path):
    assert belongs_to_model(path) and decides_numbers(path) and is_replaced(path, with_tokenizer=False)


@pytest.mark.parametrize(
    "path",
    ["tokenizer.json", "tokenizer.model", "chat_template.jinja", "additional_chat_templates/tool.jinja", "merges.txt"],
)
def test_tokenizer_files_go_only_with_a_tokenizer(path):
    assert belongs_to_model(path) and not decides_numbers(path)
    assert is_replaced(path, with_tokenizer=True) and not is_replaced(path, with_tokenizer=False)


@pytest.mark.parametrize("path", OTHERS)
def test_others_stay_where_they_are(path):
    assert not belongs_to_model(path) and not is_wanted(path) and not is_replaced(path, with_tokenizer=True)


@pytest.mark.parametrize(
    "path", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
)
def test_pickles_are_neither_pushed_nor_pulled_but_replaced(path):
    assert not belongs_to_model(path) and not is_wanted(path) and is_replaced(path, with_tokenizer=False)


@pytest.mark.parametrize(
    ("names", "config", "kind"),
    [
        ([".gitattributes", "README.md"], None, "nothing"),
        (["config.json"], {"num_value_heads": 3, "architectures": ["Qwen3ForDistributionalValue"]}, "critic"),
        (["config.json", "adapter_config.json"], {"num_value_heads": 3}, "critic"),
        (["config.json"], {"architectures": ["Qwen3ForCausalLM"]}, "policy"),
        (["config.json"], {"architectures": ["GPT2LMHeadModel"]}, "policy"),
        (["config.json"], {"architectures": ["Gemma4ForConditionalGeneration"]}, "policy"),
        (["config.json"], {}, "policy"),
        (["adapter_config.json", "adapter_model.safetensors"], None, "policy"),
        (["config.json"], {"architectures": ["Qwen3ForSequenceClassification"]}, "other"),
        (["model.safetensors"], None, "other"),
        (["model_index.json"], None, "other"),
        (["q4.gguf"], None, "other"),
        (["old/model.safetensors"], None, "nothing"),
    ],
)
def test_kind_of(names, config, kind):
    assert kind_of(names, config) == kind
