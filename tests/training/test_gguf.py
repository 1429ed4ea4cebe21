"""Every script takes a policy that is one GGUF file, and leaves ordinary directories."""

import pytest
from scripts import flags, read_rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_dvpo import AutoModelForDistributionalValue, gguf_files
from modeling_dvpo.digests import file_sha256
from modeling_dvpo.training import evaluate_critic, sample, train_critic, train_dvpo
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.models.files import weights_of_policy
from modeling_dvpo.training.models.policies import load_policy
from modeling_dvpo.training.sampling.arguments import SampledPolicyArguments

pytest.importorskip("gguf")
from gguf_models import tiny_gguf_model, write_gguf  # noqa: E402

ROLLOUTS = {
    "reward_funcs": "made_up_rewards:length",
    "num_generations": 4,
    "max_completion_length": 6,
}


@pytest.fixture
def inputs(tmp_path, tiny_tokenizer):
    """Flags that name a GGUF policy, and prompts."""
    (tmp_path / "policy").mkdir()
    tiny_tokenizer.add_tokens(["<more>"])  # readers of such files add tokens of their own: the model has room for some
    write_gguf(tmp_path / "policy" / "tiny.gguf", tiny_gguf_model("llama", tiny_tokenizer), tiny_tokenizer)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"What is {i}?"} for i in range(4)])
    return {"model_name_or_path": tmp_path / "policy", "gguf_file": "tiny.gguf", "dataset": prompts}


def test_from_the_file_to_a_reward_set_a_critic_and_a_policy(inputs, tmp_path):
    sample.main(flags(inputs, ROLLOUTS, output_dir=tmp_path / "sampled"))
    reward_set = tmp_path / "sampled" / "reward_set.jsonl"
    assert len(read_rows(reward_set)) == 16

    critic = {"num_quantiles": 4, "max_steps": 1}
    train_critic.main(flags(inputs, critic, dataset=reward_set, output_dir=tmp_path / "critic"))
    last = tmp_path / "critic" / "last"
    found = AutoModelForDistributionalValue.from_pretrained(last)
    assert found.config.critic_training["parent"] == str(inputs["model_name_or_path"])

    monte_carlo = {"policy": inputs["model_name_or_path"], "policy_gguf_file": "tiny.gguf", "critic": last}
    monte_carlo |= {"prompts": inputs["dataset"], "num_states": 4, "num_continuations": 2, "max_completion_length": 6}
    monte_carlo |= {"reward_funcs": ROLLOUTS["reward_funcs"]}
    evaluate_critic.main(flags(monte_carlo, output_dir=tmp_path / "evaluation"))
    assert (tmp_path / "evaluation" / "evaluation.json").exists()

    training = {"algorithm": "dvpo", "num_quantiles": 4, "max_steps": 1, "prompts_per_step": 2}
    train_dvpo.main(flags(inputs, ROLLOUTS, training, output_dir=tmp_path / "dvpo"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "dvpo" / "last" / "policy")
    AutoTokenizer.from_pretrained(tmp_path / "dvpo" / "last" / "policy")
    AutoModelForDistributionalValue.from_pretrained(tmp_path / "dvpo" / "last" / "critic")


def test_an_adapter_of_one(inputs, tmp_path):
    import peft
    import torch

    base = SampledPolicyArguments(model_name_or_path=str(inputs["model_name_or_path"]), gguf_file="tiny.gguf")
    policy = load_policy(base)
    policy.add_adapter(peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    policy.save_pretrained(tmp_path / "adapter")
    args = SampledPolicyArguments(model_name_or_path=str(tmp_path / "adapter"), gguf_file="tiny.gguf")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(load_policy(args)(ids).logits, policy(ids).logits)
    fingerprint, files = weights_of_policy(args)
    assert files["base/tiny.gguf"] == file_sha256(inputs["model_name_or_path"] / "tiny.gguf")
    assert sorted(files) == ["adapter_model.safetensors", "base/tiny.gguf"]
    assert fingerprint != weights_of_policy(base)[0]


def test_without_its_package(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gguf_file is 'tiny.gguf', .* pip install"):
        sample.main(flags(inputs, ROLLOUTS, output_dir=tmp_path / "sampled"))


def test_a_file_that_is_not_there(inputs, tmp_path):
    with pytest.raises(ConfigError, match="has no config that transformers can read"):
        sample.main(flags(inputs, ROLLOUTS, gguf_file="other.gguf", output_dir=tmp_path / "sampled"))
