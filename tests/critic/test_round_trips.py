"""What is saved is what is loaded, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_critics import HEADS, tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm

from modeling_dvpo import AutoModelForDistributionalValue

MODULES = (
    "modeling_distributional_value families loading upload value_heads categorical units "
    "losses loss_terms quantile_huber quantiles"
)
SHIPPED = {f"{name}.py" for name in MODULES.split()}
OF_A_CRITIC = {
    "auto_map": {"AutoModel": "modeling_distributional_value.Qwen3ForDistributionalValue"},
    "architectures": ["Qwen3ForDistributionalValue"],
    "model_type": "qwen3",
}
load = AutoModelForDistributionalValue.from_pretrained


def weights_in(directory):
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_equal_critics(loaded, critic):
    assert type(loaded) is type(critic)
    ids = tiny_batch()
    output, expected = loaded(ids), critic(ids)
    assert torch.equal(output.quantiles, expected.quantiles) and torch.equal(output.value, expected.value)
    state = critic.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_plain(model_type, heads, tmp_path):
    critic = tiny_critic(model_type, return_mean=-3.5, return_scale=0.7, **HEADS[heads])
    critic.save_pretrained(tmp_path)
    assert set(weights_in(tmp_path)) == set(critic.state_dict())
    loaded = load(tmp_path)
    assert (loaded.config.return_mean, loaded.config.return_scale) == (-3.5, 0.7)
    assert_equal_critics(loaded, critic)
    loaded.save_pretrained(tmp_path / "again")
    for file in tmp_path.glob("*.*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_directory_holds_weights_config_and_code_and_no_pickles(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", *SHIPPED}
    assert json.loads((tmp_path / "config.json").read_text()).items() >= OF_A_CRITIC.items()


def test_sharded(tmp_path):
    critic = tiny_critic()
    critic.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert_equal_critics(load(tmp_path), critic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_body_of_any_type_with_float32_heads(dtype, tmp_path):
    critic = AutoModelForDistributionalValue.from_config(tiny_critic().config, dtype=dtype).eval()
    critic.save_pretrained(tmp_path)
    stored = {name: tensor.dtype for name, tensor in weights_in(tmp_path).items()}
    heads = {name: stored.pop(name) for name in ("quantile_heads.weight", "quantile_heads.bias")}
    assert set(heads.values()) == {torch.float32}
    assert set(stored.values()) == {dtype}
    assert_equal_critics(load(tmp_path), critic)
    assert_equal_critics(load(tmp_path, dtype=dtype), critic)


def test_heads_saved_in_half_precision_load_as_float32(tmp_path):
    """As after `critic.to(torch.bfloat16)`: what is left of the heads computes, and trains, in float32."""
    critic = tiny_critic().bfloat16()
    critic.save_pretrained(tmp_path)
    for dtype in ("auto", torch.bfloat16):
        loaded = load(tmp_path, dtype=dtype)
        assert loaded.dtype == torch.bfloat16
        assert loaded.quantile_heads.weight.dtype == loaded.quantile_heads.bias.dtype == torch.float32
        # not the outputs: bfloat16() also rounds the rotary frequencies, which no file holds
        for name, tensor in critic.state_dict().items():
            assert torch.equal(loaded.state_dict()[name].to(tensor), tensor), name


def test_fitted_return_scale_and_loss_settings_are_kept_to_the_last_bit(tmp_path):
    critic = tiny_critic(num_quantiles=7)
    critic.fit_return_scale(torch.tensor([0.1, 0.7, 1 / 3]), fresh_heads=True)
    critic.config.critic_loss = {"form": "paper", "kappa": 0.5}
    critic.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    for name in ("return_mean", "return_scale"):
        assert getattr(loaded.config, name) == getattr(critic.config, name)
    assert (loaded.critic_loss_config.form, loaded.critic_loss_config.kappa) == ("paper", 0.5)
    assert_equal_critics(loaded, critic)


def test_after_torch_compile(tmp_path):
    """Saved from the compiled wrapper, whose own state dict has another prefix."""
    critic, ids = tiny_critic(), tiny_batch()
    compiled = torch.compile(critic, backend="aot_eager")
    torch.testing.assert_close(compiled(ids).quantiles, critic(ids).quantiles, atol=1e-5, rtol=1e-5)
    assert next(iter(compiled.state_dict())).startswith("_orig_mod.")
    compiled.save_pretrained(tmp_path)
    assert_equal_critics(load(tmp_path), critic)


def test_after_compiling_in_place(tmp_path):
    critic, ids = tiny_critic(), tiny_batch()
    expected = critic(ids).quantiles
    critic.compile(backend="eager")
    assert critic(ids).quantiles.shape == expected.shape
    critic.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(ids).quantiles, expected)


@pytest.fixture(scope="module")
def saved_by_two_ranks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_ranks")
    torch.manual_seed(0)
    tiny_causal_lm("qwen3").save_pretrained(directory / "base")
    script = Path(__file__).with_name("save_fully_sharded.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run([*launch, str(directory)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return directory


@pytest.mark.parametrize("kind", ["plain", "sharded", "hub-0/critic"])
def test_after_fully_shard_on_two_ranks(kind, saved_by_two_ranks):
    directory = saved_by_two_ranks / kind
    # the script builds the same critic and shards it
    assert_equal_critics(load(directory), tiny_critic())
    # FSDP has put a class of its own in our class's place, and torch's file would be shipped for it
    assert {path.name for path in directory.glob("*.py")} == SHIPPED
    assert json.loads((directory / "config.json").read_text()).items() >= OF_A_CRITIC.items()
    assert (len(list(directory.glob("model-*.safetensors"))) > 2) == (kind == "sharded")


def test_adapter_after_fully_shard_on_two_ranks(saved_by_two_ranks):
    directory = saved_by_two_ranks / "adapter"
    assert not (directory / "model.safetensors").exists()
    expected = load_file(saved_by_two_ranks / "adapted.safetensors")["quantiles"]
    loaded = load(directory)
    assert torch.equal(loaded(tiny_batch()).quantiles, expected)


def test_only_rank_0_uploads(saved_by_two_ranks):
    """Every rank uploaded the directory it had saved to, which on all but rank 0 held nothing but a model card."""
    assert [path.name for path in saved_by_two_ranks.glob("hub-*")] == ["hub-0"]


def test_auto_map_of_the_base_repository_is_reset(tmp_path):
    """It names files that the base repository holds and the critic's does not."""
    base = tiny_causal_lm("qwen3")
    base.config.auto_map = {"AutoConfig": "their_code.TheirConfig", "AutoModelForCausalLM": "their_code.TheirLM"}
    base.save_pretrained(tmp_path / "base")
    assert "their_code" in (tmp_path / "base" / "config.json").read_text()
    critic = load(tmp_path / "base", num_quantiles=5)
    critic.save_pretrained(tmp_path / "critic")
    assert json.loads((tmp_path / "critic" / "config.json").read_text()).items() >= OF_A_CRITIC.items()
    assert_equal_critics(load(tmp_path / "critic"), critic)


def test_state_dict_argument_is_what_is_saved(tmp_path):
    critic = tiny_critic()
    state = {name: tensor + 1 for name, tensor in critic.state_dict().items()}
    critic.save_pretrained(tmp_path, state_dict=state)
    saved = weights_in(tmp_path)
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
