"""`AutoModelForDistributionalValue`: the critic of any decoder-only causal LM family, by checkpoint or config."""

import copy
import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file

from .critic.families import critic_config_class
from .critic.loading import HEAD_SETTINGS
from .critic.modeling_distributional_value import distributional_value_class
from .gguf_files import forget_gguf, gguf_arguments

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class _CriticMapping:
    """Config class -> critic class, made on demand; covers whatever is registered as causal LM and as backbone."""

    def __init__(self):
        self._registered = {}

    def __contains__(self, config_class) -> bool:
        try:
            self[config_class]
        except (KeyError, ValueError):
            return False
        return True

    def __getitem__(self, config_class):
        return self._registered.get(config_class) or distributional_value_class(config_class)

    def keys(self):
        # one config class may serve several model types
        return list(dict.fromkeys([*(c for c in MODEL_FOR_CAUSAL_LM_MAPPING.keys() if c in self), *self._registered]))

    def __iter__(self):
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def register(self, config_class, model_class, exist_ok=False):
        if config_class in self._registered and not exist_ok:
            raise ValueError(f"{config_class.__name__} is already registered with a critic class.")
        self._registered[config_class] = model_class


class AutoModelForDistributionalValue(_BaseAutoModelClass):
    """Loads or builds a distributional critic; use `from_pretrained` or `from_config`.

    Example:
        >>> critic = AutoModelForDistributionalValue.from_pretrained("Qwen/Qwen3-8B")  # doctest: +SKIP
        >>> critic(**tokenizer("2 + 2 =", return_tensors="pt")).quantiles.shape  # doctest: +SKIP
        torch.Size([1, 5, 3, 200])
    """

    _model_mapping: Any = _CriticMapping()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a critic, or put fresh heads on a base LM, policy, reward model, classifier or bare backbone.

        Args:
            pretrained_model_name_or_path: directory or Hub repository of a checkpoint, or of a LoRA adapter that was
                saved with its critic's config.
            num_value_heads, num_quantiles, value_head_type: for fresh heads (3, 200, "linear"); a checkpoint that is
                a critic has its own. `num_quantiles=1` makes a scalar critic. Types are linear and monotone
                (quantiles), categorical and bernoulli (atoms) and bounded (a scalar in a range); docs/loss.md.
            value_support: for categorical heads their atoms, for bernoulli and bounded ones [low, high]; ascending,
                the reward's units.
            value_projection: of returns on atoms, for categorical heads: hl_gauss, two_hot or one_hot.
            gguf_file: name of a GGUF file there that holds the base LM, or an adapter's; its weights are unpacked.
            others: as `AutoModel.from_pretrained` (dtype, device_map, attn_implementation, revision, token, ...).

        Raises:
            ImportError: a `gguf_file`, without the package that reads it.
            ValueError: encoder-only or encoder-decoder family; backbone weights missing; a critic whose heads are
                missing, of another shape than its config says, or than asked for.
        """
        settings = {name: kwargs.pop(name) for name in HEAD_SETTINGS if name in kwargs}
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        adapter = find_adapter_config_file(
            pretrained_model_name_or_path, **{k: v for k, v in hub.items() if k != "subfolder"}
        )
        if adapter is not None:
            return cls._from_adapter(pretrained_model_name_or_path, adapter, settings, model_args, kwargs)
        config, gguf_file = kwargs.get("config"), kwargs.pop("gguf_file", None)
        if not isinstance(config, PreTrainedConfig):
            config = AutoConfig.from_pretrained(
                config or pretrained_model_name_or_path,
                trust_remote_code=kwargs.get("trust_remote_code"),
                **hub,
                **gguf_arguments(gguf_file),
            )
        if type(config) not in cls._model_mapping:
            critic_config_class(type(config))  # says why not
        if gguf_file is not None:
            # its own config would come with it again
            kwargs |= {"config": config, **gguf_arguments(gguf_file, weights=True)}
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, critic_settings=settings, **kwargs
        )
        if gguf_file is not None:
            forget_gguf(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @classmethod
    def from_config(cls, config, **kwargs):
        """Build a critic with random weights; takes the head settings of `from_pretrained`. `config` is not changed.

        Raises:
            ValueError: as `from_pretrained`.
        """
        settings = {name: kwargs.pop(name) for name in HEAD_SETTINGS if name in kwargs}
        if type(config) not in cls._model_mapping:
            critic_config_class(type(config))
        return super().from_config(copy.deepcopy(config), critic_settings=settings, **kwargs)

    @classmethod
    def _from_adapter(cls, path, adapter_config_file, settings, model_args, kwargs):
        """The critic that a LoRA adapter was trained on: its base model's backbone, the adapter and its heads."""
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        if cached_file(path, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub) is None:
            raise ValueError(
                f"{path} holds an adapter but no {CONFIG_NAME}, so its number of heads and quantiles and its return "
                "scale are unknown. Save the critic's config beside it: critic.config.save_pretrained(directory)."
            )
        config = AutoConfig.from_pretrained(path, **hub)
        stored = {name: getattr(config, name, None) for name in HEAD_SETTINGS}
        if lacking := [name for name, default in HEAD_SETTINGS.items() if default and stored[name] is None]:
            raise ValueError(
                f"The {CONFIG_NAME} beside the adapter {path} is no critic's: it lacks "
                f"{', '.join(lacking)}. Save the critic's config "
                "there: critic.config.save_pretrained(directory)."
            )
        if any(stored[name] != value for name, value in settings.items()):
            raise ValueError(f"The adapter {path} was saved with the heads {stored}, but {settings} were asked for.")
        base = base_of_adapter(path, adapter_config_file, **hub)
        # the base repository has revisions of its own
        base_kwargs = {k: v for k, v in kwargs.items() if k not in ("revision", "subfolder", "config")}
        with _without_load_reports():
            model, info = cls.from_pretrained(
                base, *model_args, **{**base_kwargs, "config": config, "output_loading_info": True}
            )
            heads = _adapter_heads(path, hub, model.quantile_heads, fresh=bool(info["missing_keys"]))
            adapter_info = model.load_adapter(path, adapter_kwargs=hub)
        lost = sorted(getattr(adapter_info, "missing_keys", ()))
        unknown = set(getattr(adapter_info, "unexpected_keys", ()))
        for key in [key for key in lost if key.rpartition(".")[2] in heads and "quantile_heads." in key]:
            # transformers 5.10 overlooks bare parameters of `modules_to_save`: missing here, unexpected there
            name = key.rpartition(".")[2]
            model.get_parameter(key).data.copy_(heads[name])
            lost.remove(key)
            unknown.discard(f"quantile_heads.{name}")
        if lost:
            raise ValueError(
                f"The adapter {path} lacks weights of its own: {', '.join(lost[:5])} ({len(lost)} in all). They "
                "would have been random: check that the file is complete and was trained on this architecture."
            )
        # of the base's, its output layer is no part of a critic
        unused = [key for key in info["unexpected_keys"] if key.startswith(f"{model.base_model_prefix}.")]
        if unused := sorted({*unused, *unknown}):
            warnings.warn(
                f"The adapter {path} and its base {base} hold weights that the critic has no place for; they were "
                f"left out: {', '.join(unused[:5])} ({len(unused)} in all). Check that both are of the architecture "
                f"that the adapter's {CONFIG_NAME} describes.",
                stacklevel=3,
            )
        info["missing_keys"] = set()  # all of them were in the adapter
        return (model, info) if kwargs.get("output_loading_info") else model


def base_of_adapter(path, adapter_config_file, **hub) -> str:
    """The base model that a LoRA adapter names, as a directory that is there or the name of a Hub repository.

    A relative path is looked up from here and, where there is none, from the adapter's directory.

    Args:
        path: of the adapter, or its Hub name.
        adapter_config_file: its adapter_config.json.
        hub: as `AutoConfig.from_pretrained` takes them; the base repository has revisions of its own.

    Raises:
        OSError: there is no such base; says where it was looked for.
    """
    base = json.loads(Path(adapter_config_file).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if Path(base).is_dir():
        return base
    beside = Path(path) / base
    if beside.is_dir():
        return str(beside)
    try:
        cached_file(base, CONFIG_NAME, **{k: v for k, v in hub.items() if k not in ("revision", "subfolder")})
    except (OSError, ValueError) as error:
        raise OSError(
            f"The adapter {path} is one for the base model {base!r}. There is no directory of that name, seen from "
            f"{Path.cwd()} or from the adapter's own, and no repository that can be read from the Hub "
            f"({str(error).splitlines()[0]}). Put the base model there, or write where it is into "
            "base_model_name_or_path of the adapter's adapter_config.json."
        ) from error
    return base


@contextmanager
def _without_load_reports():
    """Keep back transformers' tables of what each of two files lacks: they call heads new that the other one has."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "integrations.peft")]
    for logger in loggers:
        logger.addFilter(is_other)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_other)


def _adapter_heads(path, hub, heads, *, fresh: bool) -> dict:
    """The adapter's head weights by name; none where a base critic's own were left frozen.

    Raises:
        ValueError: it lacks heads that would be random, or has others than its config says.
    """
    from safetensors import safe_open

    found = {}
    with safe_open(cached_file(path, "adapter_model.safetensors", **hub), framework="pt") as file:
        for key in file.keys():
            _, is_head, name = key.partition("quantile_heads.")
            if is_head:
                found[name.removeprefix("modules_to_save.default.")] = file.get_tensor(key)
    needed = {name: tuple(parameter.shape) for name, parameter in heads.named_parameters()}
    lacking = [f"quantile_heads.{name}" for name in needed if name not in found]
    if lacking and (fresh or found):
        raise ValueError(
            f"The adapter {path} lacks {', '.join(lacking)}: train it with "
            'LoraConfig(modules_to_save=["quantile_heads"]) so that its heads are saved with it.'
        )
    wrong = [
        f"quantile_heads.{name} {tuple(found[name].shape)} (needed {shape})"
        for name, shape in needed.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if wrong:
        raise ValueError(
            f"Weights of the adapter {path} do not have the shapes that its {CONFIG_NAME} asks of the heads: "
            f"{', '.join(wrong)}. Repair {CONFIG_NAME} or the weights."
        )
    return found
