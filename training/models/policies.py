"""Policy and reference by their names: without dropout, and with the adapter that trains, if one does."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import find_adapter_config_file

from modeling_dvpo.auto import base_of_adapter
from modeling_dvpo.gguf_files import forget_gguf, gguf_arguments

from ..errors import ConfigError


def base_of(args):
    """The arguments, with the base model's name in place of an adapter's: a policy's adapter has no config of its own
    (with one beside it, `AutoModelForCausalLM` would look for whole weights there)."""
    adapter = find_adapter_config_file(args.model_name_or_path, revision=args.revision)
    if adapter is None:
        return args
    return replace(args, model_name_or_path=_base_name(args.model_name_or_path, adapter), revision=None)


def _base_name(name: str, adapter_config_file: str) -> str:
    try:
        return base_of_adapter(name, adapter_config_file)
    except OSError as error:
        raise ConfigError(str(error)) from error


def load_policy(args, *, dtype: torch.dtype = torch.float32):
    """The policy, on the CPU, without dropout; to be trained it must be float32: bfloat16 weights lose updates of
    1e-6."""
    return _load_language_model(
        args.model_name_or_path, args, revision=args.revision, gguf_file=args.gguf_file, dtype=dtype
    )


def load_reference(policy, args):
    """What the KL penalty looks to, frozen; None where it is the policy itself without its adapter.

    A policy whose adapter is this run's own needs no second copy of its weights.
    """
    if args.reference is None and args.trainable == "lora" and not getattr(policy, "_hf_peft_config_loaded", False):
        return None
    if args.reference:
        reference = _load_language_model(args.reference, args)
    else:
        reference = load_policy(args)
    if reference.config.get_text_config().vocab_size != policy.config.get_text_config().vocab_size:
        raise ConfigError(
            f"reference {args.reference} has {reference.config.get_text_config().vocab_size} tokens, and the policy "
            f"{policy.config.get_text_config().vocab_size}: it must be a model of the same vocabulary."
        )
    return reference.requires_grad_(False)


def _load_language_model(name: str, args, revision=None, gguf_file=None, dtype: torch.dtype = torch.float32):
    options = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    adapter = find_adapter_config_file(name, revision=revision)
    base, base_revision = (name, revision) if adapter is None else (_base_name(name, adapter), None)
    options |= gguf_arguments(gguf_file, weights=True)
    model = AutoModelForCausalLM.from_pretrained(base, revision=base_revision, dtype=dtype, **options)
    forget_gguf(model)
    if adapter is not None:
        model.load_adapter(name, adapter_kwargs={"revision": revision} if revision else {})
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


def disable_dropout(model: nn.Module) -> None:
    """Switch every dropout off, in place, and the noise some routers add to their inputs: the ratio of new to old
    probabilities must measure the update alone.

    Families keep rates of functional dropout under many names (`attention_dropout`, `resid_pdrop`, `layerdrop` ...).
    The config keeps what it says.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)
