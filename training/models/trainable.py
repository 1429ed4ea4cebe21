"""Which of the critic's parameters train, and at which rate: heads only, LoRA and heads, or all."""

from torch import nn
from transformers import PreTrainedModel

from ..errors import ConfigError

TRAINABLE = ("all", "lora", "heads")


def choose_trainable(critic: PreTrainedModel, args) -> None:
    """Freeze what does not train, in place; with "lora", add an adapter or go on with the one that was loaded.

    Call before sharding.

    Args:
        args: `model_name_or_path`, `trainable` (one of TRAINABLE) and the `lora_*` settings of a new adapter.

    Raises:
        ConfigError: "all" on a loaded adapter.
    """
    adapted = getattr(critic, "_hf_peft_config_loaded", False)
    if args.trainable == "all" and adapted:
        raise ConfigError(
            f"{args.model_name_or_path} is a LoRA adapter, and trainable is 'all'. Go on with trainable=lora or "
            "heads, or merge the adapter into its base model first."
        )
    if args.trainable == "lora" and not adapted:
        from peft import LoraConfig

        critic.add_adapter(
            LoraConfig(
                r=args.lora_r,
                lora_alpha=args.lora_alpha,
                lora_dropout=args.lora_dropout,
                target_modules=args.lora_target_modules,
                modules_to_save=["quantile_heads"],
            )
        )
    parts = {"heads": ("quantile_heads.",), "lora": ("quantile_heads.", ".lora_"), "all": ("",)}[args.trainable]
    for name, parameter in critic.named_parameters():
        # an adapter has heads of its own; the base model's are kept beside them, unused
        parameter.requires_grad_(".original_module." not in name and any(part in name for part in parts))


def parameter_counts(critic: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters; of the whole model, sharded or not."""
    sizes = [(p.numel(), p.requires_grad) for p in critic.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
