"""Which causal LM families can carry a critic, and what of each family a critic is made from.

Shipped into every critic repository as part of its remote code: imports torch and transformers only.
"""

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

# `base_model_prefix` of these families is not the attribute that holds their text backbone.
BACKBONE_ATTRIBUTES = {"llama4_text": "model"}
# Registered as causal LMs, yet a change of a token moves their output at earlier tokens.
NOT_CAUSAL = {
    "bert-generation": "attends in both directions unless is_decoder is set",
    "cpmant": "attends to its context in both directions",
    "xlnet": "attends in both directions without a perm_mask",
}


def critic_config_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """The config class of the critic for checkpoints of `config_class`: itself, or its text part.

    Raises:
        ValueError: the family has no decoder-only causal LM in transformers, or is not registered there.
    """
    name, model_type = config_class.__name__, config_class.model_type
    needed = "A critic needs a decoder-only causal LM, whose output at a token has seen only the tokens up to it."
    # some encoder-decoder families (BART) also have a masked LM: ask for them first
    encoder_decoder = getattr(config_class, "is_encoder_decoder", False)
    if encoder_decoder or model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{name} is an encoder-decoder family. {needed}")
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(f"{name} is an encoder (masked LM) family. {needed}")
    if model_type in NOT_CAUSAL:
        raise ValueError(f"{name} {NOT_CAUSAL[model_type]}. {needed}")
    causal_class = _first(MODEL_FOR_CAUSAL_LM_MAPPING.get(config_class, None))
    if causal_class is None:
        raise ValueError(
            f"{name} has no causal LM in transformers. {needed} Register a custom one with AutoConfig.register, "
            "AutoModel.register and AutoModelForCausalLM.register."
        )
    part_class = causal_class.config_class
    if part_class is config_class.sub_configs.get("text_config"):
        config_class = part_class
    elif part_class is not config_class and part_class in config_class.sub_configs.values():
        raise ValueError(f"{name} holds its causal LM as a part, {part_class.__name__}; a critic starts from that.")
    for mapping, auto_class in ((MODEL_FOR_CAUSAL_LM_MAPPING, "AutoModelForCausalLM"), (MODEL_MAPPING, "AutoModel")):
        if mapping.get(config_class, None) is None:
            raise ValueError(f"{config_class.__name__} is not known to {auto_class}; {auto_class}.register adds it.")
    return config_class


def family_classes(config_class) -> tuple[type[PreTrainedModel], type[PreTrainedModel]]:
    """(backbone, causal LM) of a config class that `critic_config_class` returned."""
    return _first(MODEL_MAPPING[config_class]), _first(MODEL_FOR_CAUSAL_LM_MAPPING[config_class])


def hidden_size(config: PreTrainedConfig) -> int:
    """Width of the backbone's last hidden states."""
    text = config.get_text_config()
    # BLT's outermost module is a decoder with a config of its own
    return text.hidden_size if hasattr(text, "hidden_size") else text.decoder_config.hidden_size


def _first(classes):
    return classes[0] if isinstance(classes, (list, tuple)) else classes
