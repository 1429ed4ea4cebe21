"""Saved critics and policies with the records of the runs that made them, without a run."""

import hashlib
import json

import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_causal_lm, tiny_config

TRAINING = {
    "parent": "someone/base-model",
    "parent_revision": "abc123",
    "gamma": 0.99,
    "lam": 1.0,
    "returns": "monte_carlo",
    "target": None,
    "kl_in_reward": False,
    "reward_source": "column 'score'",
    "return_range": [-1.0, 2.5],
    "dataset": "someone/scored-answers",
    "dataset_config": "easy",
    "dataset_split": "train",
    "training_rows": 1234,
    "trainable": "all",
    "learning_rate": 2e-5,
    "heads_learning_rate": 2e-4,
    "rows_per_step": 32,
    "seed": 7,
    "step": 20,
    "evaluation": {"explained_variance": 0.4321, "crps": 0.123, "bias": None, "rows": 1500, "prompts": 20},
    "versions": {"modeling_dvpo": "0.1.0", "torch": "2.13.0"},
}
ONLINE = {
    **TRAINING,
    "parent": "someone/critic",
    "policy": "someone/policy-before",
    "algorithm": "dvpo",
    "lam": 0.95,
    "returns": "lambda",
    "target": "index",
    "reward_source": ["rewards:right", "/home/me/secret/judge-model"],
    "reward_noise": ["flip=0.2"],
    "evaluation": None,
}
LOSS = {
    "form": "calibrated", "quantile": 1.0, "risk": 0.1, "cvar": 0.01, "gain": 0.0, "shift": 0.001, "shape": 0.0,
    "curvature": 0.0, "consistency": 0.1, "alpha": 0.1, "beta": 0.1, "kappa": 0.02, "risk_aversion": 2.0,
}  # fmt: skip
SETTINGS = {
    "algorithm": "dvpo", "model_name_or_path": "someone/base-model", "revision": None, "trainable": "all",
    "dataset": "someone/prompts", "dataset_config": None, "dataset_split": "train", "chat": False,
    "reward_funcs": ["rewards:right"], "reward_noise": [], "environment": None, "gamma": 1.0, "lam": 0.95,
    "kl": "loss", "kl_coef": 0.01, "learning_rate": 1e-4, "critic_learning_rate": 3e-4, "max_steps": 60, "seed": 0,
    "prompts_per_step": 128, "max_completion_length": 8, "temperature": 1.0, "lora_r": 16, "max_turns": 8,
    "system_prompt": "a secret", "output_dir": "/home/me/secret", "eval_temperature": None, "eval_generations": 1,
}  # fmt: skip


def save_critic(directory, training=TRAINING, *, tokenizer=None, **settings):
    """A tiny critic's directory; `training` is its config's `critic_training`, None for a critic without one."""
    vocabulary = {"vocab_size": len(tokenizer)} if tokenizer else {}
    critic = tiny_critic(config=tiny_config("qwen3", **vocabulary), **settings)
    critic.config.critic_loss = LOSS if training else None
    if training:
        critic.config.critic_training = training
    critic.save_pretrained(directory)
    if tokenizer:
        tokenizer.save_pretrained(directory)
    return directory


def save_policy(directory, *, tokenizer=None):
    torch.manual_seed(0)
    vocabulary = {"vocab_size": len(tokenizer)} if tokenizer else {}
    tiny_causal_lm("qwen3", **vocabulary).save_pretrained(directory)
    if tokenizer:
        tokenizer.save_pretrained(directory)
    return directory


def pair_of(**directories) -> dict:
    """What pair.json says of these saved models: `policy=`, `critic=`."""
    files = {name: {"model.safetensors": sha256(path / "model.safetensors")} for name, path in directories.items()}
    return {"step": 60, "files": files, "settings": SETTINGS, "metrics": {}, "versions": {"torch": "2.13.0"}}


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_run(directory, settings, lines):
    """A run's run.json and metrics.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(settings))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def save_evaluation(directory, critic=None, **changes):
    """An evaluation.json of two sets with one figure beside it; `critic` is the directory of what it measured."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "reliability.png").write_bytes(b"\x89PNG")
    measured = {
        "explained_variance": 0.31, "crps": 0.1534, "coverage_50": 0.52, "coverage_80": 0.781, "pit_ks": 0.02,
        "value_auc_0": 0.7, "value_auc_50": 0.77, "wasserstein_1": None, "ranking_accuracy": 0.84,
        "explained_variance_within": 0.12,
    }  # fmt: skip
    held_out = {
        "name": "held-out", "domain": "in", "dataset": "someone/scored-answers", "rows": 500, "prompts": 100,
        "states": 12345, "truth": "returns", "continuations": None,
        "metrics": {"critic": measured, "constant": {"explained_variance": 0.0, "crps": 0.2}},
        "coverage_interval": {"80": [0.75, 0.81]},
        "intervals": {"critic": {"ranking_accuracy": [0.8, 0.88], "explained_variance_within": [-0.01, 0.2]}},
        "subsets": {"level=hard": {"rows": 120, "metrics": {"critic": {"crps": 0.4}}}},
        "loss_terms": {"quantile": 0.2, "cvar": 3.0},
    }  # fmt: skip
    states = {
        "name": "states: 64 runs | each", "domain": "out", "dataset": "outputs/states.jsonl", "rows": 10,
        "states": 200, "truth": "monte_carlo", "continuations": 64,
        "metrics": {"critic": {"wasserstein_1": 0.1, "coverage_80": 0.7}},
    }  # fmt: skip
    content = {
        "format": 1, "critic": "someone/critic", "revision": None,
        "critic_files": {"model.safetensors": sha256(critic / "model.safetensors")} if critic else {},
        "versions": {}, "settings": {}, "sets": [held_out, states],
        "figures": {"reliability": "reliability.png", "pit": "gone.png"},
    }  # fmt: skip
    (directory / "evaluation.json").write_text(json.dumps({**content, **changes}))
    return directory / "evaluation.json"
