"""Tiny saved policies and critics with tokenizers and training records, to be pushed and pulled."""

import json
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_critics import tiny_batch, tiny_critic
from tiny_models import tiny_causal_lm, tiny_config
from transformers import AutoModelForCausalLM

from modeling_dvpo import AutoModelForDistributionalValue, CriticLossConfig
from modeling_dvpo.digests import file_sha256

VOCABULARY = 320  # of conftest's tiny tokenizer
TRAINING = {
    "parent": "/home/alice/models/policy",
    "parent_revision": None,
    "gamma": 0.99,
    "lam": 0.9,
    "returns": "lambda",
    "target": "sampled",
    "kl_in_reward": False,
    "reward_source": "column 'reward'",
    "return_range": [-1.0, 2.0],
    "dataset": "/home/alice/data/rewards.jsonl",
    "dataset_split": "train",
    "seed": 7,
    "step": 12,
    "trainable": "all",
    "versions": {"modeling_dvpo": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
}


def save_policy(directory, tokenizer, *, seed=0, model_type="qwen3", **options) -> Path:
    torch.manual_seed(seed)
    tiny_causal_lm(model_type, vocab_size=VOCABULARY).save_pretrained(directory, **options)
    tokenizer.save_pretrained(directory)
    return Path(directory)


def make_critic(*, seed=0, model_type="qwen3", training=TRAINING, **settings):
    critic = tiny_critic(seed=seed, config=tiny_config(model_type, vocab_size=VOCABULARY), **settings)
    critic.config.critic_training = dict(training)
    critic.config.critic_loss = CriticLossConfig(risk=0.2).to_dict()
    return critic


def save_critic(
    directory, tokenizer, *, seed=0, model_type="qwen3", training=TRAINING, settings=None, **options
) -> Path:
    make_critic(seed=seed, model_type=model_type, training=training, **(settings or {})).save_pretrained(
        directory, **options
    )
    tokenizer.save_pretrained(directory)
    return Path(directory)


def make_adapter(base):
    """A LoRA critic on a saved policy."""
    critic = AutoModelForDistributionalValue.from_pretrained(base, num_value_heads=2, num_quantiles=5).eval()
    critic.add_adapter(
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["quantile_heads"], init_lora_weights=False)
    )
    return critic


def save_run(directory, tokenizer, *, seed=0) -> Path:
    """`last/` as a run of train_dvpo.py leaves it."""
    last = Path(directory) / "last"
    save_policy(last / "policy", tokenizer, seed=seed)
    save_critic(last / "critic", tokenizer, seed=seed)
    files = {
        role: {"model.safetensors": file_sha256(last / role / "model.safetensors")} for role in ("policy", "critic")
    }
    settings = {"algorithm": "dvpo", "gamma": 0.99, "model_name_or_path": "/home/alice/models/policy", "seed": 7}
    record = {"step": 12, "files": files, "settings": settings, "metrics": {}, "versions": TRAINING["versions"]}
    (last / "pair.json").write_text(json.dumps(record))
    return last


def nudge(directory) -> None:
    """Change one weight: the same size, other bytes, another model."""
    path = Path(directory) / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})


def assert_is_the_run(pair, last) -> None:
    """What was pulled computes what the run saved."""
    policy, critic, tokenizer = pair.load()
    batch = tiny_batch()
    saved = AutoModelForCausalLM.from_pretrained(last / "policy").eval()
    assert torch.equal(policy(batch).logits, saved(batch).logits)
    saved = AutoModelForDistributionalValue.from_pretrained(last / "critic").eval()
    assert torch.equal(critic(batch).quantiles, saved(batch).quantiles)
    assert not policy.training and not critic.training
    assert tokenizer("hello")["input_ids"]
