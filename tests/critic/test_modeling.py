import copy
import pickle

import pytest
import torch
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import tiny_config
from torch.testing import assert_close
from transformers.quantizers import HfQuantizer
from transformers.utils import ModelOutput

from modeling_dvpo import AutoModelForDistributionalValue, align_to_actions
from modeling_dvpo.critic import modeling_distributional_value


@pytest.mark.parametrize("value_head_type", ["linear", "monotone"])
def test_output_shapes_and_types(value_head_type):
    critic = tiny_critic(value_head_type=value_head_type)
    output = critic(tiny_batch(), output_hidden_states=True)
    assert isinstance(output, ModelOutput) and output.loss is None
    assert output.quantiles.shape == (2, 6, 2, 5) and output.quantiles.dtype == torch.float32
    assert output.value.shape == (2, 6) and output.value.dtype == torch.float32
    assert [h.shape for h in output.hidden_states] == [(2, 6, 32)] * 3
    quantiles, value, *_ = critic(tiny_batch(), return_dict=False)
    assert torch.equal(quantiles, output.quantiles) and torch.equal(value, output.value)


def test_defaults_are_the_papers():
    critic = AutoModelForDistributionalValue.from_config(tiny_config("qwen3"))
    assert critic(tiny_batch()).quantiles.shape == (2, 6, 3, 200)
    assert critic.config.value_head_type == "linear"


def test_outputs_are_in_the_units_of_the_reward():
    critic, ids = tiny_critic(return_mean=0.25, return_scale=2.0), tiny_batch()
    hidden = critic.base_model(ids).last_hidden_state
    normalized = (hidden @ critic.quantile_heads.weight.T + critic.quantile_heads.bias).unflatten(-1, (2, 5))
    output = critic(ids)
    assert_close(output.quantiles, 2.0 * normalized + 0.25)
    assert_close(output.value, 2.0 * normalized.mean((-2, -1)) + 0.25)
    assert_close(critic.normalize_returns(output.quantiles), normalized)


@pytest.mark.parametrize("kept", [1, 3, 6, torch.tensor([4]), torch.tensor([0, 2, 5])])
def test_values_to_keep_equals_slicing(kept):
    critic, ids = tiny_critic(), tiny_batch()
    labels = torch.randn(2, 6)
    positions = list(range(6))[-kept:] if isinstance(kept, int) else kept.tolist()
    sizes = []
    critic.quantile_heads.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    part = critic(ids, labels=labels, values_to_keep=kept)
    assert sizes == [len(positions)]  # the heads ran on no other token
    elsewhere_ignored = torch.full_like(labels, -100)
    elsewhere_ignored[:, positions] = labels[:, positions]
    full = critic(ids, labels=elsewhere_ignored)
    assert_close(part.quantiles, full.quantiles[:, positions])
    assert_close(part.value, full.value[:, positions])
    assert_close(part.loss, full.loss)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2", "gemma3_text"])
def test_changing_token_t_never_changes_the_value_used_for_action_t(model_type):
    critic, ids = tiny_critic(model_type), tiny_batch()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    used = align_to_actions(critic(ids).quantiles, mask)
    for t in range(1, 6):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] - 3 + 7) % 96 + 3  # another token, not a special one
        after = align_to_actions(critic(changed).quantiles, mask)
        assert_close(after[:, : t + 1], used[:, : t + 1], atol=1e-6, rtol=1e-6)
        if t < 5:  # while the next action's state has seen it
            assert ((after[:, t + 1] - used[:, t + 1]).abs() > 1e-4).all()


def test_incremental_forward_equals_full():
    critic, ids = tiny_critic(), tiny_batch(2, 8)
    full = critic(ids).quantiles
    start = critic(ids[:, :5], use_cache=True)
    step = critic(ids[:, 5:6], past_key_values=start.past_key_values, use_cache=True)
    rest = critic(ids[:, 6:], past_key_values=step.past_key_values, use_cache=True)
    assert rest.past_key_values.get_seq_length() == 8
    pieces = torch.cat([start.quantiles, step.quantiles, rest.quantiles], dim=1)
    assert_close(pieces, full, atol=1e-5, rtol=1e-5)
    # the cache matters: the last two tokens alone are another prefix
    assert (critic(ids[:, 6:]).quantiles - full[:, 6:]).abs().max() > 1e-2


def test_inputs_embeds_in_place_of_ids():
    critic, ids = tiny_critic(), tiny_batch()
    embeds = critic.get_input_embeddings()(ids)
    assert torch.equal(critic(inputs_embeds=embeds).quantiles, critic(ids).quantiles)


def test_resized_embeddings_keep_the_values():
    critic, ids = tiny_critic(), tiny_batch()
    before = critic(ids).quantiles
    critic.resize_token_embeddings(120)
    assert critic.config.vocab_size == 120
    assert torch.equal(critic(ids).quantiles, before)
    assert critic(torch.full((1, 2), 119)).quantiles.shape == (1, 2, 2, 5)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    critic, ids, labels = tiny_critic().train(), tiny_batch(), torch.randn(2, 6)
    checkpointed = copy.deepcopy(critic)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    runs = []
    checkpointed.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    for model in (critic, checkpointed):
        model(ids, labels=labels).loss.backward()
    assert len(runs) == 2  # forward, and again in backward
    for (name, plain), (_, other) in zip(critic.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert plain.grad.abs().max() > 0, name
        assert_close(other.grad, plain.grad, msg=name)


def test_attention_implementations_agree_and_can_be_changed_later():
    config, ids = tiny_config("qwen3"), tiny_batch()
    critic = AutoModelForDistributionalValue.from_config(config, attn_implementation="eager").eval()
    eager = critic(ids, output_attentions=True)
    assert [a.shape for a in eager.attentions] == [(2, 4, 6, 6)] * 2
    assert_close(eager.attentions[0].sum(-1), torch.ones(2, 4, 6))
    critic.set_attn_implementation("sdpa")
    assert critic.base_model.config._attn_implementation == "sdpa"
    assert_close(critic(ids).quantiles, eager.quantiles)


def test_quantisers_leave_the_heads_alone():
    critic = tiny_critic()
    skipped = HfQuantizer.get_modules_to_not_convert(critic, ["lm_head"], critic._keep_in_fp32_modules)
    assert "quantile_heads" in skipped
    # and by type: they replace linear layers
    assert not any(isinstance(module, torch.nn.Linear) for module in critic.quantile_heads.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bodies_have_float32_outputs(dtype):
    critic = AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), dtype=dtype)
    output = critic(tiny_batch(), labels=torch.randn(2, 6))
    assert output.quantiles.dtype == output.value.dtype == output.loss.dtype == torch.float32


def test_heads_compute_in_float32_in_a_model_that_was_converted_whole():
    critic, ids = tiny_critic(), tiny_batch()
    before = critic(ids).quantiles
    after = critic.bfloat16()(ids).quantiles
    assert after.dtype == torch.float32
    assert not torch.equal(after.bfloat16().float(), after)  # and not rounded to bf16 on the way
    assert_close(after, before, atol=0.2, rtol=0.05)


def test_fresh_heads_predict_standard_normal_quantiles_until_fitted():
    # ndtri of the levels 1/8, 3/8, 5/8, 7/8
    expected = torch.tensor([-1.1503494, -0.3186394, 0.3186394, 1.1503494])
    critic = AutoModelForDistributionalValue.from_config(tiny_config("qwen3"), num_quantiles=4)
    assert_close(critic(tiny_batch()).quantiles, expected.expand(2, 6, 3, 4), atol=0.1, rtol=0)


def test_classes_are_found_by_name():
    critic = tiny_critic()
    assert type(critic).__name__ == "Qwen3ForDistributionalValue"
    assert modeling_distributional_value.Qwen3ForDistributionalValue is type(critic)
    assert modeling_distributional_value.GPT2ForDistributionalValue.config_class.__name__ == "GPT2Config"
    assert pickle.loads(pickle.dumps(type(critic))) is type(critic)
    with pytest.raises(AttributeError, match="no attribute 'NoSuchForDistributionalValue'"):
        _ = modeling_distributional_value.NoSuchForDistributionalValue
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = modeling_distributional_value.nothing


def test_a_copy_is_equal_and_independent():
    critic, ids = tiny_critic(), tiny_batch()
    copied = copy.deepcopy(critic)
    before = critic(ids).quantiles
    assert torch.equal(copied(ids).quantiles, before)
    with torch.no_grad():
        copied.quantile_heads.bias.add_(1)
    assert torch.equal(critic(ids).quantiles, before)
    assert_close(copied(ids).quantiles, before + 2)  # 1 in normalised units, times return_scale


def test_data_parallel_wrappers_can_take_the_output_apart():
    """A field called `values` shadowed ModelOutput.values(), with which DDP and pytree walk the output."""
    output = tiny_critic()(tiny_batch(), labels=torch.randn(2, 6), use_cache=False)
    leaves, spec = torch.utils._pytree.tree_flatten(output)
    rebuilt = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert type(rebuilt) is type(output)
    assert [leaf.shape for leaf in leaves if leaf is not None] == [(), (2, 6, 2, 5), (2, 6)]
    assert torch.equal(rebuilt.quantiles, output.quantiles)
