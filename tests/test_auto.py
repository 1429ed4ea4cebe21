import pytest
import torch
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import shrunk, tiny_causal_lm, tiny_config
from torch.testing import assert_close
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from modeling_dvpo import AutoModelForDistributionalValue, distributional_value_class
from modeling_dvpo.auto import _CriticMapping
from modeling_dvpo.critic import modeling_distributional_value

CLASSIFIERS = {
    "sequence classification": AutoModelForSequenceClassification,
    "token classification": AutoModelForTokenClassification,
}


def saved_model(kind, directory, model_type="qwen3"):
    """Save a random model of this kind; returns it."""
    torch.manual_seed(0)
    if classifier := CLASSIFIERS.get(kind):
        model = classifier.from_config(tiny_config(model_type)).eval()
    else:
        model = tiny_causal_lm(model_type)
        model = model.base_model if kind == "bare backbone" else model
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
@pytest.mark.parametrize("kind", ["base LM", "bare backbone", *CLASSIFIERS])
def test_from_checkpoints_of_other_kinds(kind, model_type, tmp_path):
    model, ids = saved_model(kind, tmp_path, model_type), tiny_batch()
    critic, info = AutoModelForDistributionalValue.from_pretrained(
        tmp_path, num_value_heads=2, num_quantiles=7, output_loading_info=True
    )
    assert not critic.training
    assert set(info["missing_keys"]) == {"quantile_heads.weight", "quantile_heads.bias"}
    assert not info["unexpected_keys"]
    backbone = model if kind == "bare backbone" else model.base_model
    loaded = critic.base_model.state_dict()
    assert loaded.keys() == backbone.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in backbone.state_dict().items())
    output = critic(ids, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], backbone(ids).last_hidden_state)
    assert output.quantiles.shape == (2, 6, 2, 7)
    # fresh heads: standard normal quantiles, moved a little
    levels = (torch.arange(7) + 0.5) / 7
    assert_close(output.quantiles, torch.special.ndtri(levels).expand(2, 6, 2, 7), atol=0.2, rtol=0)
    assert (output.quantiles[:, :, 0] - output.quantiles[:, :, 1]).abs().min() > 0


def test_from_a_policy_that_was_saved_in_bf16(tmp_path):
    tiny_causal_lm("qwen3").bfloat16().save_pretrained(tmp_path)
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path)
    assert critic.dtype == torch.bfloat16 and critic.quantile_heads.weight.dtype == torch.float32
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in critic.parameters()} == {torch.float32}


def test_from_a_saved_critic(tmp_path):
    critic, ids = tiny_critic(value_head_type="monotone"), tiny_batch()
    critic.save_pretrained(tmp_path)
    for asked in ({}, {"num_value_heads": 2, "num_quantiles": 5, "value_head_type": "monotone"}):
        loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path, **asked)
        assert type(loaded) is type(critic)
        assert torch.equal(loaded(ids).quantiles, critic(ids).quantiles)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_device_map_and_attention(device_map, tmp_path):
    critic, ids = tiny_critic(), tiny_batch()
    critic.save_pretrained(tmp_path)
    settings = {"device_map": device_map, "attn_implementation": "eager"}
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path, **settings)
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    assert loaded.config._attn_implementation == "eager"
    assert_close(loaded(ids).quantiles, critic(ids).quantiles)


def test_offloaded_layers_give_the_same(tmp_path):
    """The heads are one block: a device map names them like any other module."""
    critic, ids = tiny_critic(), tiny_batch()
    critic.save_pretrained(tmp_path / "critic")
    settings = {"device_map": {"model": "cpu", "quantile_heads": "disk"}, "offload_folder": tmp_path / "offload"}
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path / "critic", **settings)
    assert loaded.quantile_heads.weight.device.type == "meta"
    assert torch.equal(loaded(ids).quantiles, critic(ids).quantiles)


def test_from_config_takes_head_settings_and_leaves_the_config_alone():
    config = tiny_config("llama")
    before = config.to_dict()
    asked = {"num_value_heads": 4, "num_quantiles": 6, "value_head_type": "monotone"}
    critic = AutoModelForDistributionalValue.from_config(config, **asked, dtype=torch.bfloat16)
    assert config.to_dict() == before
    assert type(critic).__name__ == "LlamaForDistributionalValue"
    assert critic.dtype == torch.bfloat16
    assert critic(tiny_batch()).quantiles.shape == (2, 6, 4, 6)
    assert {name: getattr(critic.config, name) for name in asked} == asked


def test_text_part_of_a_vision_language_checkpoint(tmp_path):
    """The critic of a composite family is its text model's; the checkpoint's own key names are converted."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config("qwen3_5")).eval()
    model.save_pretrained(tmp_path)
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path, num_quantiles=5)
    assert type(critic).__name__ == "Qwen3_5TextForDistributionalValue"
    text = model.model.language_model
    assert all(torch.equal(critic.base_model.state_dict()[name], value) for name, value in text.state_dict().items())
    output = critic(tiny_batch(), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], text(tiny_batch()).last_hidden_state)
    critic.save_pretrained(tmp_path / "critic")
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path / "critic")
    assert torch.equal(loaded(tiny_batch()).quantiles, output.quantiles)


def test_head_settings_in_a_config_object_are_used(tmp_path):
    saved_model("base LM", tmp_path)
    config = tiny_config("qwen3", num_value_heads=1, num_quantiles=9)
    assert AutoModelForDistributionalValue.from_config(config)(tiny_batch()).quantiles.shape == (2, 6, 1, 9)
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path, config=config)
    assert critic(tiny_batch()).quantiles.shape == (2, 6, 1, 9)


class CustomConfig(Qwen3Config):
    model_type = "custom_family"


class CustomModel(Qwen3Model):
    config_class = CustomConfig


class CustomForCausalLM(Qwen3ForCausalLM):
    config_class = CustomConfig


@pytest.fixture
def custom_family():
    AutoConfig.register("custom_family", CustomConfig)
    AutoModel.register(CustomConfig, CustomModel)
    AutoModelForCausalLM.register(CustomConfig, CustomForCausalLM)
    yield
    CONFIG_MAPPING._extra_content.pop("custom_family")
    MODEL_MAPPING._extra_content.pop(CustomConfig)
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(CustomConfig)


def test_a_family_that_the_user_registered(custom_family, tmp_path):
    torch.manual_seed(0)
    model = CustomForCausalLM(CustomConfig(**shrunk(Qwen3Config()))).eval()
    model.save_pretrained(tmp_path / "base")
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path / "base", num_quantiles=5)
    assert type(critic).__name__ == "CustomForDistributionalValue"
    assert type(critic.base_model) is CustomModel
    assert modeling_distributional_value.CustomForDistributionalValue is type(critic)
    output = critic(tiny_batch(), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], model.model(tiny_batch()).last_hidden_state)
    critic.save_pretrained(tmp_path / "critic")
    loaded = AutoModelForDistributionalValue.from_pretrained(tmp_path / "critic")
    assert torch.equal(loaded(tiny_batch()).quantiles, output.quantiles)


def test_register_overrides_the_class_of_a_config(monkeypatch):
    monkeypatch.setattr(AutoModelForDistributionalValue, "_model_mapping", _CriticMapping())
    config = tiny_config("qwen2")

    class OwnCritic(distributional_value_class(type(config))):
        pass

    AutoModelForDistributionalValue.register(type(config), OwnCritic)
    assert type(AutoModelForDistributionalValue.from_config(config)) is OwnCritic
    with pytest.raises(ValueError, match="Qwen2Config is already registered with a critic class"):
        AutoModelForDistributionalValue.register(type(config), OwnCritic)
    AutoModelForDistributionalValue.register(type(config), OwnCritic, exist_ok=True)


def test_mapping_lists_decoder_only_families_alone():
    mapping = AutoModelForDistributionalValue._model_mapping
    names = {config_class.__name__ for config_class in mapping}
    assert {"Qwen3Config", "LlamaConfig", "GPT2Config", "Gemma3TextConfig", "MixtralConfig"} <= names
    assert not names & {"BertConfig", "T5Config", "BartConfig", "ViTConfig"}
    assert len(mapping) == len(names) > 90
