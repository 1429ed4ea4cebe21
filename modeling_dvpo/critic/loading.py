"""What a checkpoint must hold to load as a critic: its head settings, and every weight but fresh heads.

Shipped into every critic repository as part of its remote code: imports torch and transformers only.
"""

import math
import os

from transformers import PreTrainedConfig

from .categorical import PROJECTIONS
from .value_heads import VALUE_HEAD_TYPES

ADAPTER_CONFIG = "adapter_config.json"
# What `from_pretrained` and `from_config` take for fresh heads, with the paper's defaults.
HEAD_SETTINGS = {
    "num_value_heads": 3,
    "num_quantiles": 200,
    "value_head_type": "linear",
    "value_support": None,
    "value_projection": None,
}


def check_head_settings(config: PreTrainedConfig) -> None:
    """Raise ValueError unless the config's head settings can be built."""
    for name in ("num_value_heads", "num_quantiles"):
        number = getattr(config, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least 1.")
    if config.value_head_type not in VALUE_HEAD_TYPES:
        raise ValueError(
            f"value_head_type is {config.value_head_type!r}; it must be one of {', '.join(VALUE_HEAD_TYPES)}."
        )
    _check_support(config)


def _check_support(config: PreTrainedConfig) -> None:
    """Of heads that have one; `value_projection` is left at None for the others."""
    kind, support = config.value_head_type, config.value_support
    if kind in ("linear", "monotone"):
        if support is not None or config.value_projection is not None:
            raise ValueError(f"{kind} heads have no value_support and no value_projection: leave them out.")
        return
    wanted = "at least two atoms" if kind == "categorical" else "two numbers, the lowest return and the highest"
    numbers = isinstance(support, list) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in support)
    if (
        not numbers
        or len(support) < 2
        or (kind != "categorical" and len(support) != 2)
        or any(b <= a for a, b in zip(support, support[1:], strict=False))
    ):
        raise ValueError(
            f"value_support is {support!r}; {kind} heads need {wanted}, ascending, in the reward's units, such as "
            "[0.0, 1.0]. (`train_critic.py` fits it to the training returns.)"
        )
    if kind == "categorical":
        if config.value_projection not in PROJECTIONS:
            raise ValueError(
                f"value_projection is {config.value_projection!r}; it must be one of {', '.join(PROJECTIONS)}."
            )
        if config.value_projection == "hl_gauss":
            gaps = [b - a for a, b in zip(support, support[1:], strict=False)]
            if max(gaps) - min(gaps) > 1e-3 * max(gaps):
                raise ValueError("hl_gauss needs equally spaced atoms in value_support; use two_hot for these.")
    elif config.value_projection is not None:
        raise ValueError(f"{kind} heads have no value_projection: leave it out.")
    if kind == "bounded" and config.num_quantiles != 1:
        raise ValueError(f"bounded heads are a scalar critic's: num_quantiles must be 1, not {config.num_quantiles}.")


def stored_head_settings(path, kwargs) -> dict:
    """Head settings in the checkpoint's own config.json; empty when it is no critic."""
    if path is None:
        return {}
    names = (
        "cache_dir",
        "force_download",
        "local_files_only",
        "proxies",
        "revision",
        "subfolder",
        "token",
        "gguf_file",
    )
    config, _ = PreTrainedConfig.get_config_dict(path, **{k: kwargs[k] for k in names if k in kwargs})
    return {name: config[name] for name in HEAD_SETTINGS if config.get(name) is not None}


def check_loaded(cls, path, info, *, is_critic: bool) -> None:
    """Raise ValueError for weights that `output_loading_info` calls missing or of another shape, but fresh heads."""
    mismatched = [f"{key} {tuple(found)} (needed {tuple(needed)})" for key, found, needed in info["mismatched_keys"]]
    if mismatched:
        raise ValueError(
            f"Weights of {path} do not have the shapes that its config asks of {cls.__name__}: "
            f"{_shortened(sorted(mismatched))}. Nothing is re-initialised: repair config.json or the weights."
        )
    missing = sorted(info["missing_keys"])
    heads = [key for key in missing if key.startswith("quantile_heads.")]
    if heads and is_critic:
        raise ValueError(
            f"{path} says in its config that it is a critic, but its weights lack {_shortened(heads)}. "
            "Save the critic again, or remove num_value_heads and num_quantiles from config.json for fresh heads."
        )
    lost = [key for key in missing if key not in heads]
    if lost:
        raise ValueError(
            f"{path} lacks backbone weights of {cls.__name__}: {_shortened(lost)}. They would have been random: "
            "check that the checkpoint is complete and of this architecture."
        )


def refuse_adapter(path, error: Exception) -> None:
    """Raise ValueError, from `error`, where the directory holds a critic's LoRA adapter and not its whole weights."""
    if os.path.isfile(os.path.join(str(path), ADAPTER_CONFIG)):
        raise ValueError(
            f"{path} holds a critic's LoRA adapter without its base model, and `AutoModel` does not put the two "
            "together: load it with `AutoModelForDistributionalValue` of modeling_dvpo (pip install modeling-dvpo)."
        ) from error


def _shortened(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
