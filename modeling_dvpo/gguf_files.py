"""Models that come as one GGUF file: loaded by transformers, and from then on models like any other.

Their weights are unpacked, since blocks of four bits can neither be trained nor saved.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import quantization_config


def gguf_arguments(gguf_file: str | None, *, weights: bool = False) -> dict[str, Any]:
    """Arguments of `from_pretrained` that name a GGUF file in the directory or repository; none for None.

    Args:
        gguf_file: its name there.
        weights: of a model's `from_pretrained`; otherwise of a config's or tokenizer's.

    Raises:
        ImportError: the package that reads such files is not installed.
    """
    if gguf_file is None:
        return {}
    if find_spec("gguf") is None:
        raise ImportError(
            f"gguf_file is {gguf_file!r}, and the package that reads such files is not installed: "
            'pip install "modeling-dvpo[gguf]".'
        )
    # older versions always unpack, and have no such class
    unpacking = getattr(quantization_config, "GgufConfig", None) if weights else None
    return {"gguf_file": gguf_file} | ({"quantization_config": unpacking(dequantize=True)} if unpacking else {})


def forget_gguf(model: PreTrainedModel) -> None:
    """Remove what transformers keeps of how a model was loaded, which would keep it from being saved; in place."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(model)
