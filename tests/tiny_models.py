"""Tiny random configs of any causal LM family, for tests without a network."""

import copy

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

VOCABULARY = 99

# Shrinks what a family's config has of these; sizes are chosen so that heads divide widths everywhere.
SIZES = [
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    # widths
    (32, "hidden_size n_embd d_model dim embed_dim embedding_size word_embed_proj_dim out_hidden_size"),
    (32, "hidden_size_global"),
    (8, "hidden_size_per_layer_input"),
    (64, "intermediate_size n_inner ffn_dim d_ff dff dim_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim"),
    (16, "expert_ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size"),
    (16, "router_hidden_size"),
    # depth
    (2, "num_hidden_layers n_layer num_layers n_layers depth decoder_layers encoder_layers"),
    (1, "first_k_dense_replace num_dense_layers"),
    # attention
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (2, "num_key_value_heads index_n_heads"),
    (4, "rotary_dim qk_rope_head_dim"),
    (8, "head_dim qk_nope_head_dim v_head_dim index_head_dim"),
    (16, "q_lora_rank kv_lora_rank"),
    # recurrence
    (4, "linear_num_heads linear_num_value_heads"),
    (2, "linear_num_key_heads"),
    (8, "linear_head_dim linear_key_head_dim linear_value_head_dim state_size"),
    (8, "mamba_n_heads mamba_d_head mamba_num_heads mamba_head_dim mamba_d_state"),
    (64, "mamba_d_ssm"),
    (1, "mamba_n_groups n_groups"),
    # positions
    (128, "max_position_embeddings n_positions n_ctx max_seq_len"),
    # mixture of experts
    (4, "num_experts n_routed_experts num_local_experts"),
    (2, "zero_expert_num num_experts_per_tok moe_topk"),
    (1, "n_shared_experts n_group topk_group"),
    # tokens
    (0, "pad_token_id"),
    (1, "bos_token_id"),
    (2, "eos_token_id"),
]
TINY = {name: size for size, names in SIZES for name in names.split()}

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
GEMMA4 = {"global_head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}

# What the shrinking above cannot know, by model type; these are added to it.
SPECIAL = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 100, "use_cache": False},
    "cohere_compass_text": {"rope_parameters": {"full_attention": DEFAULT_ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {"o_lora_rank": 8, "o_groups": 2},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32, "pyramid_num_routed": [-1, 4]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
    },
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"num_heads": 8},
    "phi3": {"original_max_position_embeddings": 128},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},  # widths are rounded up to 64 in some places only
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str, **changes):
    """A config of this family with few parameters; the parts of composite families are shrunk likewise."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**{**shrunk(config_class()), **changes})


def shrunk(known: PreTrainedConfig) -> dict:
    """Settings that make a tiny config of the class of `known`, a config with that class's defaults."""
    names = type(known).attribute_map
    # a setting under the config's own name wins over its alias; properties are derived from other settings
    settings = {names.get(name, name): value for name, value in TINY.items()} | TINY
    settings = {name: value for name, value in settings.items() if name in vars(known) and name not in names}

    if "qk_rope_head_dim" in settings:  # multi-head latent attention: every head has its own keys
        settings.pop("head_dim", None)
        settings["num_key_value_heads"] = settings["num_attention_heads"]

    layer_types = names.get("layer_types", "layer_types")
    if vars(known).get(layer_types):
        # one layer of each kind, as far as there are layers
        kinds = list(dict.fromkeys(vars(known)[layer_types]))
        layers = max(2, len(kinds))
        settings[layer_types] = (kinds * layers)[:layers]
        if "num_hidden_layers" in settings:
            settings["num_hidden_layers"] = layers

    for name in type(known).sub_configs:
        part = getattr(known, name, None)
        if isinstance(part, PreTrainedConfig):
            settings[name] = {"model_type": part.model_type, **shrunk(part)}
    return {**settings, **SPECIAL.get(known.model_type, {})}


def tiny_causal_lm(model_type: str, *, most_parameters: int = 30_000_000, **changes):
    """A random causal LM of this family.

    Raises:
        ValueError: it has more than `most_parameters` even so; found out before memory is taken.
    """
    config = tiny_config(model_type, **changes)
    causal_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    causal_class = causal_class[0] if isinstance(causal_class, tuple) else causal_class
    if causal_class.config_class is not type(config) and causal_class.config_class in config.sub_configs.values():
        config = config.get_text_config()
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in causal_class(copy.deepcopy(config)).parameters())
    if size > most_parameters:
        raise ValueError(f"{model_type}: {size} parameters at its smallest")
    return causal_class(config).eval()
