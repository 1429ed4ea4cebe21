from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_config

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.engine.learner import make_optimizer
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.models.trainable import choose_trainable, parameter_counts


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), num_value_heads=2, num_quantiles=5)


def settings(**changes):
    return SimpleNamespace(
        **{
            "model_name_or_path": "policy",
            "trainable": "all",
            "lora_r": 2,
            "lora_alpha": 4,
            "lora_dropout": 0.0,
            "lora_target_modules": "all-linear",
            "learning_rate": 1e-4,
            "heads_learning_rate": 1e-3,
            "weight_decay": 0.1,
            **changes,
        }
    )


def trained_names(critic):
    return {name for name, parameter in critic.named_parameters() if parameter.requires_grad}


def test_all(critic):
    choose_trainable(critic, settings())
    assert trained_names(critic) == dict(critic.named_parameters()).keys()


def test_heads_only(critic):
    choose_trainable(critic, settings(trainable="heads"))
    assert trained_names(critic) == {"quantile_heads.weight", "quantile_heads.bias"}
    # 2 heads x 5 quantiles on a width of 32, and a bias
    trained, parameters = parameter_counts(critic)
    assert trained == 2 * 5 * (32 + 1)
    assert parameters == sum(parameter.numel() for parameter in critic.parameters()) > trained


def test_lora_trains_the_adapter_and_a_copy_of_the_heads(critic):
    choose_trainable(critic, settings(trainable="lora"))
    names = trained_names(critic)
    assert {name for name in names if "lora_" not in name} == {
        "quantile_heads.modules_to_save.default.weight",
        "quantile_heads.modules_to_save.default.bias",
    }
    # two layers of q, k, v, o, gate, up, down; A and B each
    assert len([name for name in names if "lora_" in name]) == 2 * 7 * 2


def test_lora_targets_by_pattern(critic):
    choose_trainable(critic, settings(trainable="lora", lora_target_modules=r".*\.q_proj"))
    assert {name.split(".")[4] for name in trained_names(critic) if "lora_" in name} == {"q_proj"}


def test_a_loaded_adapter_goes_on(critic):
    choose_trainable(critic, settings(trainable="lora"))
    expected = trained_names(critic)
    critic.requires_grad_(False)
    choose_trainable(critic, settings(trainable="lora"))
    assert trained_names(critic) == expected
    choose_trainable(critic, settings(trainable="heads"))
    assert trained_names(critic) == {name for name in expected if "lora_" not in name}


def test_all_on_a_loaded_adapter_is_refused(critic):
    choose_trainable(critic, settings(trainable="lora"))
    with pytest.raises(ConfigError, match="policy is a LoRA adapter, and trainable is 'all'. Go on with"):
        choose_trainable(critic, settings())


@pytest.mark.parametrize("trainable", ["all", "heads", "lora"])
def test_optimizer_groups(critic, trainable):
    """Every trained parameter in one group; the heads at their own rate; only matrices decay."""
    choose_trainable(critic, settings(trainable=trainable))
    optimizer = make_optimizer(critic, settings())
    names = {parameter: name for name, parameter in critic.named_parameters()}
    grouped = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == trained_names(critic)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (1e-3 if "quantile_heads." in names[parameter] else 1e-4)
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
    # the log reads the heads' rate from the last group
    assert optimizer.param_groups[-1]["lr"] == 1e-3
    assert optimizer.param_groups[0]["lr"] == (1e-3 if trainable == "heads" else 1e-4)
