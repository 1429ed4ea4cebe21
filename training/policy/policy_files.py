"""From names to policy, reference and critic; and from a run to the two directories and the record that ties them."""

import json
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import find_adapter_config_file

import modeling_dvpo
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.critic_loading import HEAD_SETTINGS
from modeling_dvpo.hub.fingerprints import file_sha256
from modeling_dvpo.training.config import ConfigError
from modeling_dvpo.training.critic_files import warn_of_other_meaning
from modeling_dvpo.training.distributed import is_main
from modeling_dvpo.training.policy.algorithms import ALGORITHMS
from modeling_dvpo.training.policy.policy_step import disable_dropout
from modeling_dvpo.training.saving import save_language_model, write_whole
from modeling_dvpo.training.tracking import without_nan

RECORD_FILE = "pair.json"


def base_of(args):
    """The arguments, with the base model's name in place of an adapter's: a policy's adapter has no config of its own
    (with one beside it, `AutoModelForCausalLM` would look for whole weights there)."""
    adapter = find_adapter_config_file(args.model_name_or_path, revision=args.revision)
    if adapter is None:
        return args
    return replace(
        args, model_name_or_path=json.loads(Path(adapter).read_text())["base_model_name_or_path"], revision=None
    )


def load_policy(args):
    """The policy to train: float32, on the CPU, without dropout."""
    return _load_language_model(args.model_name_or_path, args, revision=args.revision)


def load_reference(policy, args):
    """What the KL penalty looks to, frozen; None where it is the policy itself without its adapter.

    A policy whose adapter is this run's own needs no second copy of its weights.
    """
    if args.reference is None and args.trainable == "lora" and not getattr(policy, "_hf_peft_config_loaded", False):
        return None
    name = args.reference or args.model_name_or_path
    reference = _load_language_model(name, args, revision=None if args.reference else args.revision)
    if reference.config.get_text_config().vocab_size != policy.config.get_text_config().vocab_size:
        raise ConfigError(
            f"reference {name} has {reference.config.get_text_config().vocab_size} tokens, and the policy "
            f"{policy.config.get_text_config().vocab_size}: it must be a model of the same vocabulary."
        )
    return reference.requires_grad_(False)


def _load_language_model(name: str, args, revision):
    options = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    # Master weights are float32: bfloat16 ones lose updates of 1e-6.
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32, **options)
    disable_dropout(model)
    return model


def add_adapter(policy, args) -> None:
    """Add a LoRA adapter, without dropout, where `trainable` asks for one and none was loaded; in place."""
    if args.trainable == "lora" and not getattr(policy, "_hf_peft_config_loaded", False):
        from peft import LoraConfig

        policy.add_adapter(
            LoraConfig(
                r=args.lora_r,
                lora_alpha=args.lora_alpha,
                target_modules=args.lora_target_modules,
                task_type="CAUSAL_LM",
            )
        )


@contextmanager
def as_reference(policy, reference):
    """Yield the model that gives the reference's log-probabilities."""
    if reference is not None:
        yield reference
        return
    policy.disable_adapters()
    try:
        yield policy
    finally:
        policy.enable_adapters()


def load_online_critic(policy_args, critic_args, algorithm: str, tokenizer):
    """The critic that the algorithm asks for, float32, on the CPU, and the config it had before.

    A fresh one has the weights of the policy, or of the base of the policy's adapter.

    Raises:
        ConfigError: it has another tokenizer than the policy, or heads of the wrong kind.
    """
    chosen, base = ALGORITHMS[algorithm], base_of(policy_args)
    name = critic_args.critic or base.model_name_or_path
    revision = critic_args.critic_revision if critic_args.critic else base.revision
    parent_config = AutoConfig.from_pretrained(name, revision=revision)
    if critic_args.critic:
        try:
            own = AutoTokenizer.from_pretrained(name, revision=revision).get_vocab()
        except (OSError, ValueError) as error:
            raise ConfigError(f"critic {name} has no tokenizer to compare with the policy's: {error}") from error
        if own != tokenizer.get_vocab():
            raise ConfigError(
                f"critic {name} has another tokenizer than {policy_args.model_name_or_path}, so it would read other "
                "tokens than the policy wrote: give a critic trained on this policy's family."
            )
    settings = {key: getattr(critic_args, key) for key in HEAD_SETTINGS if getattr(critic_args, key) is not None}
    if not hasattr(parent_config, "num_value_heads"):
        if critic_args.critic:
            raise ConfigError(f"critic {name} is no critic: train one with train_critic.py, or leave critic out.")
        heads, quantiles = chosen.heads
        settings = {"num_value_heads": heads, "num_quantiles": quantiles} | settings
    if policy_args.attn_implementation:
        settings["attn_implementation"] = policy_args.attn_implementation
    critic = AutoModelForDistributionalValue.from_pretrained(name, revision=revision, dtype=torch.float32, **settings)
    if chosen.heads[1] == 1 and critic.config.num_quantiles != 1:
        raise ConfigError(
            f"{algorithm} has a scalar critic, and this one has num_quantiles={critic.config.num_quantiles}: use "
            "algorithm=dvpo, or a critic with num_quantiles=1."
        )
    if critic_args.critic_trainable == "all" and getattr(critic, "_hf_peft_config_loaded", False):
        raise ConfigError(
            f"critic {name} is a LoRA adapter, and critic_trainable is 'all': go on with lora or heads, or merge the "
            "adapter into its base model first."
        )
    if chosen.pessimistic and critic.config.num_value_heads == 1:
        raise ConfigError(f"{algorithm} takes the worst of several heads, and the critic has one: num_value_heads=3.")
    disable_dropout(critic)
    return critic, parent_config


def critic_record(settings: dict, returns: torch.Tensor) -> dict:
    """What the critic's config keeps of its training: what its values mean, and how they came about."""
    monte_carlo = settings["critic_lam"] == 1 and not settings["bootstrap_truncated"]
    return {
        "parent": settings["critic"] or settings["model_name_or_path"],
        "parent_revision": settings["critic_revision"] if settings["critic"] else settings["revision"],
        "policy": settings["model_name_or_path"],
        "algorithm": settings["algorithm"],
        "gamma": settings["gamma"],
        "lam": settings["critic_lam"],
        "returns": "monte_carlo" if monte_carlo else "lambda",
        "target": None if monte_carlo else settings["critic_target"],
        "kl_in_reward": settings["kl"] == "reward" and settings["kl_coef"] > 0,
        "reward_source": settings["reward_funcs"],
        "reward_noise": settings["reward_noise"],
        "return_range": [returns.min().item(), returns.max().item()],
        "dataset": settings["dataset"],
        "dataset_config": settings["dataset_config"],
        "dataset_split": settings["dataset_split"],
        "trainable": settings["critic_trainable"],
        "learning_rate": settings["critic_learning_rate"],
        "heads_learning_rate": settings["heads_learning_rate"],
        "seed": settings["seed"],
        "versions": versions(),
    }


def warn_of_other_critic(parent_config, record: dict) -> None:
    """Warn, by name, where a loaded critic's values mean something else than this run's; see `MEANING`."""
    warn_of_other_meaning(parent_config, record)
    before = (getattr(parent_config, "critic_training", None) or {}).get("return_range")
    now = record["return_range"]
    if before and is_main() and (now[0] < before[0] or now[1] > before[1]):
        warnings.warn(
            f"{record['parent']} was trained on returns from {before[0]:.4g} to {before[1]:.4g}, and the first "
            f"completions have {now[0]:.4g} to {now[1]:.4g}: return_range differs. Its values may be off until it has "
            "learnt.",
            stacklevel=2,
        )


def versions() -> dict[str, str]:
    return {
        "modeling_dvpo": modeling_dvpo.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def save_pair(directory, policy, critic, tokenizer, *, step: int, settings: dict, metrics: dict) -> None:
    """Write `policy/`, `critic/` (None: left out) and `pair.json`, whole or not at all; every rank must call it.

    `pair.json` ties the two: their files' SHA-256, the step, the run's settings and its last metrics. A frozen
    critic's own record stays as it was.
    """
    if critic is not None and any(parameter.requires_grad for parameter in critic.parameters()):
        critic.config.critic_training = {**critic.config.critic_training, "step": step}

    def write(partial: Path) -> None:
        parts = {"policy": lambda path: save_language_model(policy, path)}
        if critic is not None:
            parts["critic"] = critic.save_pretrained
        for name, save in parts.items():
            save(partial / name)
            if is_main():
                tokenizer.save_pretrained(partial / name)
        if is_main():
            record = {
                "step": step,
                "files": {name: _digests(partial / name) for name in parts},
                "settings": settings,
                "metrics": without_nan(metrics),
                "versions": versions(),
            }
            (partial / RECORD_FILE).write_text(json.dumps(record, indent=1))

    write_whole(directory, write)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(directory.glob("*.safetensors"))}
