"""What `AutoModelForDistributionalValue` refuses, and in what words."""

import json

import pytest
from safetensors.torch import load_file, save_file
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm, tiny_config
from transformers import BartConfig, BertConfig, PreTrainedConfig, T5Config

from modeling_dvpo import AutoModelForDistributionalValue


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def drop_weights(directory, *prefixes):
    path = directory / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if not name.startswith(prefixes)}
    save_file(weights, path, metadata={"format": "pt"})


class UnknownConfig(PreTrainedConfig):
    model_type = "unknown_family"


def test_unknown_family_is_refused():
    with pytest.raises(ValueError, match="UnknownConfig has no causal LM in transformers.*AutoModelForCausalLM.reg"):
        AutoModelForDistributionalValue.from_config(UnknownConfig())


def test_unknown_head_type_is_refused(tmp_path):
    message = "value_head_type is 'cubic'; it must be one of linear, monotone"
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), value_head_type="cubic")
    tiny_critic().save_pretrained(tmp_path)
    edit_config(tmp_path, value_head_type="cubic")
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_pretrained(tmp_path)


def test_a_critic_whose_heads_are_missing_is_refused(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    drop_weights(tmp_path, "quantile_heads.bias")
    with pytest.raises(ValueError, match="says in its config that it is a critic, but its weights lack quantile_head"):
        AutoModelForDistributionalValue.from_pretrained(tmp_path)
    edit_config(tmp_path, num_value_heads=None, num_quantiles=None, value_head_type=None)  # as the message says
    drop_weights(tmp_path, "quantile_heads")
    assert AutoModelForDistributionalValue.from_pretrained(tmp_path)(tiny_batch()).quantiles.shape == (2, 6, 3, 200)


@pytest.mark.parametrize("by", ["an edited config.json", "a config object"])
def test_heads_of_another_shape_are_refused(by, tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    asked = {"config": tiny_config("qwen3", num_value_heads=2, num_quantiles=6)}
    if by == "an edited config.json":
        edit_config(tmp_path, num_quantiles=6)
        asked = {}
    message = r"do not have the shapes .*quantile_heads.bias \(10,\) \(needed \(12,\)\), quantile_heads.weight"
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_pretrained(tmp_path, **asked)


def test_weights_of_another_family_are_refused(tmp_path):
    tiny_causal_lm("gpt2").save_pretrained(tmp_path)
    tiny_config("qwen3").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks backbone weights of Qwen3For.*and [0-9]+ more"):
        AutoModelForDistributionalValue.from_pretrained(tmp_path)


@pytest.mark.parametrize("config_class", [BertConfig, T5Config, BartConfig])
def test_encoders_are_refused(config_class, tmp_path):
    kind = "encoder .masked LM." if config_class is BertConfig else "encoder-decoder"
    message = f"{config_class.__name__} is an {kind} family. A critic needs a decoder-only causal LM"
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_config(config_class())
    config_class().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AutoModelForDistributionalValue.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize("name", ["num_quantiles", "num_value_heads"])
def test_numbers_of_heads_and_quantiles_are_checked(name, wrong):
    message = rf"{name} is {wrong!r}; it must be a whole number of at least 1"
    for config, asked in [(tiny_config("qwen3"), {name: wrong}), (tiny_config("qwen3", **{name: wrong}), {})]:
        with pytest.raises(ValueError, match=message):
            AutoModelForDistributionalValue.from_config(config, **asked)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [({"num_quantiles": 6}, 5), ({"num_value_heads": 3}, 2), ({"value_head_type": "monotone"}, "linear")],
)
def test_a_saved_critic_keeps_its_heads(asked, stored, tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    ((name, value),) = asked.items()
    with pytest.raises(ValueError, match=f"is a critic with {name}={stored}, but {name}={value} was asked for"):
        AutoModelForDistributionalValue.from_pretrained(tmp_path, **asked)


@pytest.mark.parametrize("from_critic", [True, False])
def test_missing_backbone_weights_are_refused(from_critic, tmp_path):
    (tiny_critic() if from_critic else tiny_causal_lm("qwen3")).save_pretrained(tmp_path)
    drop_weights(tmp_path, "model.layers.1.mlp")
    names = ", ".join(f"model.layers.1.mlp.{part}_proj.weight" for part in ("down", "gate", "up"))
    with pytest.raises(ValueError, match=f"lacks backbone weights of Qwen3ForDistributionalValue: {names}. They"):
        AutoModelForDistributionalValue.from_pretrained(tmp_path)
