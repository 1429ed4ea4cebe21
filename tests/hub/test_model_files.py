"""Which files are a model, which a push replaces, and what a repository holds, by names alone."""

from functools import partial

import pytest

from modeling_dvpo.hub.model_files import (
    belongs_to_model,
    decides_numbers,
    is_replaced,
    is_wanted,
    is_weights,
    kind_of,
)

CHECKS = {
    "weights": is_weights,
    "belongs": belongs_to_model,
    "decides": decides_numbers,
    "wanted": is_wanted,
    "replaced": partial(is_replaced, with_tokenizer=False),
    "replaced with a tokenizer": partial(is_replaced, with_tokenizer=True),
}
ALWAYS = {"replaced", "replaced with a tokenizer"}


@pytest.mark.parametrize(
    ("paths", "holds"),
    [
        (
            "model.safetensors model-00001-of-00012.safetensors model.fp16.safetensors adapter_model.safetensors "
            "model.fp16-00001-of-00002.safetensors",
            {"weights", "belongs", "decides", "wanted", *ALWAYS},
        ),
        ("model.safetensors.index.json config.json adapter_config.json", {"belongs", "decides", "wanted", *ALWAYS}),
        (
            "tokenizer.json tokenizer.model chat_template.jinja additional_chat_templates/tool.jinja merges.txt",
            {"belongs", "wanted", "replaced with a tokenizer"},
        ),
        ("pytorch_model.bin pytorch_model-00001-of-00002.bin pytorch_model.bin.index.json", ALWAYS),
        ("optimizer.pt run.json metrics.jsonl pair.json .env sub/model.safetensors model.safetensors.bak", set()),
    ],
    ids=["weights", "configs", "tokenizer", "pickles", "others"],
)
def test_what_holds_of_a_file(paths, holds):
    for path in paths.split():
        assert {name for name, check in CHECKS.items() if check(path)} == holds, path


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
