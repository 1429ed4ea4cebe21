"""Writing a tiny model and its tokenizer to a GGUF file, as converters do."""

import json
from pathlib import Path

import gguf
import torch
from tiny_models import tiny_causal_lm


def tiny_gguf_model(model_type, tokenizer, *, width=32):
    """Of a family whose tensors a GGUF file can hold; `width` a multiple of 32 for quantised ones."""
    torch.manual_seed(0)
    return tiny_causal_lm(model_type, vocab_size=len(tokenizer), hidden_size=width, tie_word_embeddings=False)


def write_gguf(path: Path, model, tokenizer, *, quantised=False):
    """Its matrices in blocks of 8-bit numbers, if quantised."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if config.model_type == "llama" and (heads := _rotated_heads(name, config)):
            tensor = _interleaved(tensor, heads)
        data = tensor.float().numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and data.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(data, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, tokenizer):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    special = {*tokenizer.all_special_tokens}
    writer.add_token_types([3 if token in special else 1 for token in tokens])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _rotated_heads(name, config):
    if name.endswith("q_proj.weight"):
        return config.num_attention_heads
    return config.num_key_value_heads if name.endswith("k_proj.weight") else None


def _interleaved(weight, heads):
    """As llama.cpp rotates: pairs of neighbours, where transformers pairs the halves of a head."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
