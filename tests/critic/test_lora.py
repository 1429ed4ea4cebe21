"""LoRA adapters with heads: transformers' own, stock PEFT's, merged ones."""

import json
import logging
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm
from transformers import AutoModel

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.auto import base_of_adapter

TARGETS = ["q_proj", "v_proj"]
load = AutoModelForDistributionalValue.from_pretrained


@pytest.fixture
def base(tmp_path):
    """Directory of a saved random LM."""
    torch.manual_seed(0)
    tiny_causal_lm("qwen3").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def critic_on(base, **settings):
    critic = load(base, num_value_heads=2, num_quantiles=5, **settings)
    critic.config.return_mean, critic.config.return_scale = 0.25, 2.0
    return critic


def lora():
    return LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["quantile_heads"])


def train(model):
    """Two large steps, so that adapter and heads are far from where they began."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    torch.manual_seed(1)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tiny_batch(), labels=torch.randn(2, 6)).loss.backward()
        optimizer.step()
    return model.eval()


def values(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch()).quantiles


def assert_adapter_and_heads_were_trained(critic, model):
    assert (values(model) - values(critic)).abs().max() > 0.1
    parameters = dict(model.named_parameters())
    adapters = [p for name, p in parameters.items() if "lora_B" in name]
    assert len(adapters) == 4 and all(p.abs().max() > 0 for p in adapters)  # lora_B starts at zero


def native(base, **settings):
    critic = critic_on(base, **settings)
    critic.add_adapter(lora())
    return train(critic)


def stock(base, directory):
    """Trained by PEFT, and saved as PEFT saves it, with the critic's config beside."""
    model = train(get_peft_model(critic_on(base), lora()))
    assert_adapter_and_heads_were_trained(critic_on(base), model)
    model.save_pretrained(directory)
    model.get_base_model().config.save_pretrained(directory)
    return model


def saved_native(base, directory, lose=None):
    """A trained adapter saved by transformers, without the weights whose names hold `lose`."""
    native(base).save_pretrained(directory)
    path = directory / "adapter_model.safetensors"
    if lose:
        save_file({name: tensor for name, tensor in load_file(path).items() if lose not in name}, path)


def test_lora_trains_the_heads_copy_and_the_adapter_alone(base):
    model = get_peft_model(critic_on(base), lora())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "quantile_heads.modules_to_save" in name for name in trained)
    assert len([name for name in trained if "quantile_heads" in name]) == 2


def test_all_linear_leaves_the_heads_alone(base):
    model = get_peft_model(critic_on(base), LoraConfig(r=4, target_modules="all-linear"))
    adapted = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert len(adapted) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert not any("quantile_heads" in name for name in adapted)


def test_native_adapter(base, tmp_path):
    critic = native(base)
    assert_adapter_and_heads_were_trained(critic_on(base), critic)
    critic.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert any("quantile_heads" in name for name in names) and any("lora_A" in name for name in names)
    loaded, info = load(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]  # the base model lacks heads, and the adapter has them
    assert torch.equal(values(loaded), values(critic))
    assert (loaded.config.return_mean, loaded.config.return_scale) == (0.25, 2.0)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(values(load(tmp_path / "again")), values(critic))


@pytest.fixture
def transformers_log():
    """Records of transformers, which does not hand them on to the root logger."""
    records, handler = [], logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize("how", [native, stock])
def test_only_heads_that_are_new_are_reported_as_new(how, base, tmp_path, transformers_log, recwarn):
    """transformers reported the base's lack of heads, "newly initialized", though the adapter had them, trained."""
    critic_on(base)
    assert [text.count("quantile_heads.weight") for text in transformers_log] == [1]
    saved_native(base, tmp_path) if how is native else stock(base, tmp_path)
    transformers_log.clear()
    recwarn.clear()
    load(tmp_path)
    assert not transformers_log and not recwarn.list
    critic_on(base)  # its reports are back
    assert [text.count("MISSING") > 0 for text in transformers_log] == [True]


def test_weights_without_a_place_are_said(base, tmp_path):
    saved_native(base, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    layer = {
        name.replace("layers.1.", "layers.2."): tensor.clone()
        for name, tensor in weights.items()
        if "layers.1." in name
    }
    save_file(weights | layer, path)
    with pytest.warns(UserWarning, match=r"hold weights that the critic has no place for.*layers\.2\..*\(4 in all\)"):
        load(tmp_path)


def test_stock_peft_adapter(base, tmp_path):
    model = stock(base, tmp_path)
    assert torch.equal(values(load(tmp_path)), values(model))
    # and PEFT itself loads it, on a critic whose heads are then replaced
    assert torch.equal(values(PeftModel.from_pretrained(critic_on(base), tmp_path).eval()), values(model))


@pytest.mark.parametrize("modules_to_save", [["quantile_heads"], None])
def test_adapter_on_a_saved_critic(modules_to_save, tmp_path):
    """With LoRA's copy of the heads, and without: the base critic's own are kept."""
    tiny_critic().save_pretrained(tmp_path / "base")
    critic = load(tmp_path / "base")
    critic.add_adapter(LoraConfig(r=4, target_modules=TARGETS, modules_to_save=modules_to_save))
    train(critic).save_pretrained(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter")
    assert torch.equal(values(loaded), values(critic))
    assert (values(loaded) - values(tiny_critic())).abs().max() > 0.1
    assert loaded.config.return_scale == 2.0


def test_adapter_with_a_half_precision_body(base, tmp_path):
    critic = native(base, dtype=torch.bfloat16)
    critic.save_pretrained(tmp_path)
    heads = {n: t for n, t in load_file(tmp_path / "adapter_model.safetensors").items() if "heads" in n}
    assert len(heads) == 2 and {t.dtype for t in heads.values()} == {torch.float32}
    assert torch.equal(values(load(tmp_path, dtype=torch.bfloat16)), values(critic))


@pytest.mark.parametrize("how", ["stock", "loaded adapter"])
def test_merged(how, base, tmp_path):
    model = stock(base, tmp_path / "adapter")
    if how == "loaded adapter":
        model = PeftModel.from_pretrained(critic_on(base), tmp_path / "adapter").eval()
    before = values(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(values(merged), before, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) == set(tiny_critic().state_dict())
    assert torch.equal(values(load(tmp_path / "merged")), values(merged))


def test_adapter_without_its_critics_config_is_refused(base, tmp_path):
    stock(base, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds an adapter but no config.json.*critic.config.save_pretrained"):
        load(tmp_path)
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(ValueError, match="is no critic's: it lacks num_value_heads, num_quantiles, value_head_type"):
        load(tmp_path)


def test_adapter_without_heads_is_refused(base, tmp_path):
    """Fresh heads under a trained adapter would be random values that look like a critic's."""
    model = get_peft_model(critic_on(base), LoraConfig(r=4, target_modules=TARGETS))
    model.save_pretrained(tmp_path)
    model.get_base_model().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r'lacks quantile_heads.*modules_to_save=\["quantile_heads"\]'):
        load(tmp_path)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        # transformers only reports these; the layer then runs as if it had never been adapted
        ("layers.1.self_attn.q_proj", r"lacks weights of its own: model.layers.1.self_attn.q_proj.*\(2 in all\)"),
        ("quantile_heads.bias", "lacks quantile_heads.bias: train it"),
    ],
)
def test_adapter_with_lost_weights_is_refused(lost, message, base, tmp_path):
    saved_native(base, tmp_path, lose=lost)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_other_heads_than_the_adapters_are_refused(base, tmp_path):
    saved_native(base, tmp_path)
    assert load(tmp_path, num_quantiles=5).config.num_quantiles == 5
    with pytest.raises(ValueError, match=r"'num_quantiles': 5.*but {'num_quantiles': 6} were asked for"):
        load(tmp_path, num_quantiles=6)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_quantiles": 6}))
    with pytest.raises(ValueError, match=r"do not have the shapes .*quantile_heads.bias \(10,\) \(needed \(12,\)\)"):
        load(tmp_path)


def test_pushing_while_saving_an_adapter_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="call push_to_hub.repo_id. on the critic"):
        native(base).save_pretrained(tmp_path / "adapter", push_to_hub=True)
    assert not (tmp_path / "adapter").exists()


class TestRelativeBase:
    """Adapters name their base as it was named when they were trained, often relative to that day's directory."""

    @pytest.fixture
    def adapter(self, base, tmp_path, monkeypatch):
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path / "runs")
        model = native("../base")
        model.save_pretrained(tmp_path / "adapter")
        return model

    def test_is_found_from_any_directory(self, adapter, tmp_path, monkeypatch):
        """From another directory the name was taken for a repository of the Hub, and the error spoke of that."""
        (tmp_path / "else" / "where").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "else" / "where")
        assert torch.equal(values(load(tmp_path / "adapter")), values(adapter))
        assert torch.equal(values(load("../../adapter")), values(adapter))

    def test_here_comes_first(self, adapter, tmp_path, monkeypatch):
        (tmp_path / "else" / "base").mkdir(parents=True)
        (tmp_path / "else" / "where").mkdir()
        monkeypatch.chdir(tmp_path / "else" / "where")
        config = tmp_path / "adapter" / "adapter_config.json"
        assert base_of_adapter(tmp_path / "adapter", config) == "../base"

    def test_that_is_nowhere_says_where_it_was_looked_for(self, adapter, base, tmp_path):
        shutil.move(base, tmp_path / "moved")
        message = (
            rf"adapter is one for the base model '../base'\. There is no directory of that name, seen from "
            rf"{tmp_path}/runs or from the adapter's own, and no repository .* base_model_name_or_path"
        )
        with pytest.raises(OSError, match=message):
            load(tmp_path / "adapter")


def test_remote_code_says_what_an_adapter_needs(base, tmp_path):
    """`AutoModel` said that a file model.safetensors was missing."""
    native(base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds a critic's LoRA adapter without its base .*pip install modeling-"):
        AutoModel.from_pretrained(tmp_path / "adapter", trust_remote_code=True)
