"""A critic by its name, and saved; before it the config and tokenizer of whatever checkpoint a run starts from."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import find_adapter_config_file

from modeling_dvpo.auto import AutoModelForDistributionalValue
from modeling_dvpo.critic.loading import HEAD_SETTINGS
from modeling_dvpo.gguf_files import gguf_arguments
from modeling_dvpo.ranks import is_main
from modeling_dvpo.saving import without_nan, write_whole

from ..errors import ConfigError


def load_config_and_tokenizer(args):
    """Of the checkpoint to start from; a critic's or adapter's config has its head settings.

    Raises:
        ConfigError: one of them cannot be read.
    """
    name, where = args.model_name_or_path, {"revision": args.revision}
    try:
        # an adapter's own lie beside it; the file is its base's
        if args.gguf_file and find_adapter_config_file(name, **where) is None:
            where |= gguf_arguments(args.gguf_file)
        config = AutoConfig.from_pretrained(name, **where)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name_or_path: {name} has no config that transformers can read. {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} has no tokenizer that can be read: save one beside the model. {error}") from error
    # where there are no files, some families get a tokenizer without a vocabulary instead of an error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ConfigError(f"{name} has no tokenizer files: save the model's tokenizer beside it.")
    return config, tokenizer


def load_critic(args, *, replace: bool = False):
    """The critic of a checkpoint, float32, on the CPU; heads are fresh unless the checkpoint is a critic.

    Args:
        args: `CriticArguments`.
        replace: the checkpoint is a critic, and its heads are to be fresh, too.

    Raises:
        ConfigError: its files, or those of its adapter's base model, are not all there.
    """
    heads = {name: getattr(args, name) for name in HEAD_SETTINGS if getattr(args, name) is not None}
    settings = {} if replace else dict(heads)
    if args.attn_implementation is not None:
        settings["attn_implementation"] = args.attn_implementation
    if args.gguf_file is not None:
        settings["gguf_file"] = args.gguf_file
    # Master weights are float32: bfloat16 ones lose updates of 1e-6.
    try:
        critic = AutoModelForDistributionalValue.from_pretrained(
            args.model_name_or_path, revision=args.revision, dtype=torch.float32, **settings
        )
    except OSError as error:
        raise ConfigError(f"{args.model_name_or_path} cannot be loaded: {error}") from error
    if replace:
        try:
            critic.replace_heads(**heads)
        except ValueError as error:
            raise ConfigError(f"fresh_heads: {error}") from error
    return critic


def save_critic(critic, tokenizer, directory, *, step: int, report: dict | None) -> None:
    """Write weights, config, code and tokenizer to `directory`, whole or not at all; every rank must call it.

    Args:
        report: held-out metrics of these weights, kept in the config.
    """
    evaluation = without_nan(report) if report else None
    critic.config.critic_training = {**critic.config.critic_training, "step": step, "evaluation": evaluation}

    def write(partial: Path) -> None:
        critic.save_pretrained(partial)
        if is_main():
            tokenizer.save_pretrained(partial)

    write_whole(directory, write)
