"""Which files make a model: what is pushed, what a push replaces, what is pulled."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

CONFIG, ADAPTER_CONFIG, CARD = "config.json", "adapter_config.json", "README.md"

WEIGHTS = re.compile(r"(adapter_)?model(\.\w+)?(-\d{5}-of-\d{5})?\.safetensors")
INDEX = re.compile(r"model(\.\w+)?\.safetensors\.index\.json")
# weights in formats that transformers or PEFT would fall back to, or take the model for
OLD_WEIGHTS = re.compile(
    r"(pytorch_model(\.\w+)?(-\d{5}-of-\d{5})?\.bin(\.index\.json)?|adapter_model\.bin|tf_model\.h5|flax_model\.msgpack)"
)
TOKENIZER = re.compile(
    r"tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|"
    r"merges\.txt|spiece\.model|sentencepiece\.bpe\.model|tekken\.json|[\w.-]+\.tiktoken|"
    r"chat_template\.(jinja|json)|additional_chat_templates/[^/]+\.jinja"
)
CONFIGS = re.compile(r"config\.json|adapter_config\.json|generation_config\.json|(pre)?processor_config\.json")
POLICY_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
CODE = re.compile(r"\w+\.py")
OTHERS = re.compile(r"LICENSE(\.\w+)?|NOTICE(\.\w+)?")


def is_weights(path: str) -> bool:
    return bool(WEIGHTS.fullmatch(path))


def is_tokenizer(path: str) -> bool:
    return bool(TOKENIZER.fullmatch(path))


def belongs_to_model(path: str) -> bool:
    """Whether a file of a saved model's directory is part of the model; a run leaves other files beside it."""
    kinds = (WEIGHTS, INDEX, CONFIGS, TOKENIZER, CODE, OTHERS)
    return any(kind.fullmatch(path) for kind in kinds)


def is_wanted(path: str) -> bool:
    """Whether a file of a repository is to be pulled: the model, its card and its record, but no pickles."""
    return belongs_to_model(path) or path == CARD or bool(re.fullmatch(r"dvpo_pair\.json|evaluation\.json", path))


def decides_numbers(path: str) -> bool:
    """Whether what a model computes hangs on this file, so that the record pins its content."""
    return bool(WEIGHTS.fullmatch(path) or INDEX.fullmatch(path) or path in (CONFIG, ADAPTER_CONFIG))


def is_replaced(path: str, *, with_tokenizer: bool) -> bool:
    """Whether a file that a repository has must go when a push does not bring it.

    A leftover of another layout would be loaded in place of the new weights (a single file under new shards, whole
    weights beside an adapter) or change the tokenizer (an old chat template).
    """
    if WEIGHTS.fullmatch(path) or INDEX.fullmatch(path) or OLD_WEIGHTS.fullmatch(path):
        return True
    return bool(CONFIGS.fullmatch(path)) or (with_tokenizer and is_tokenizer(path))


def files_in(directory: Path) -> list[str]:
    """Paths of all files, relative to the directory, with "/"."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def kind_of(names: Iterable[str], config: Mapping | None) -> str:
    """What a directory or repository holds: "critic", "policy" (any other causal LM), "other" or "nothing"."""
    names = set(names)
    if config is not None:
        if config.get("num_value_heads") is not None:
            return "critic"
        architectures = config.get("architectures") or []
        is_other = architectures and not any(name.endswith(POLICY_SUFFIXES) for name in architectures)
        return "other" if is_other and ADAPTER_CONFIG not in names else "policy"
    if ADAPTER_CONFIG in names:
        return "policy"
    models = (".safetensors", ".bin", ".gguf", ".onnx", ".pt", ".pth", ".h5", ".ckpt")
    at_the_top = [name for name in names if "/" not in name]
    return "other" if any(name.endswith(models) or name == "model_index.json" for name in at_the_top) else "nothing"


def read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
