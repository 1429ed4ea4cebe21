"""`push_to_hub` uploads what `save_pretrained` writes; the Hub's client is replaced, nothing leaves the machine."""

import pytest
import torch
from peft import LoraConfig
from tiny_critics import FakeHub, tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm

from modeling_dvpo import AutoModelForDistributionalValue


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """Directory that stands for the repository `critic`."""
    FakeHub(tmp_path).install(monkeypatch.setattr)
    return tmp_path / "critic"


def test_a_critic(repository):
    critic = tiny_critic()
    critic.push_to_hub("critic")
    names = {path.name for path in repository.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_distributional_value.py", "losses.py", "README.md"} <= names
    loaded = AutoModelForDistributionalValue.from_pretrained(repository)
    assert torch.equal(loaded(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)


def test_an_adapter_with_its_critics_config(repository, tmp_path):
    tiny_causal_lm("qwen3").save_pretrained(tmp_path / "base")
    critic = AutoModelForDistributionalValue.from_pretrained(tmp_path / "base", num_quantiles=5)
    critic.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["quantile_heads"]))
    critic.eval().push_to_hub("critic")
    names = {path.name for path in repository.iterdir()}
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names
    loaded = AutoModelForDistributionalValue.from_pretrained(repository)
    assert torch.equal(loaded(tiny_batch()).quantiles, critic(tiny_batch()).quantiles)
