"""Distributional critics as native transformers classes: one `XForDistributionalValue` for every causal LM family X.

A critic is the family's own backbone with N heads of M quantiles on every hidden state. `model_type`, tokenizer,
parallel plans, checkpoint conversions and attention back ends are those of the family; weights keep the backbone's
keys plus `quantile_heads.*`; the critic's settings are extra attributes of the family's config:

    num_value_heads (N), num_quantiles (M), value_head_type, value_support, value_projection, value_clip,
    return_mean, return_scale, critic_loss

This file and the files it imports are shipped into every critic repository as its remote code, so they import torch
and transformers only.
"""

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.utils import ModelOutput, can_return_tuple

from .categorical import categorical_cross_entropy
from .families import (
    BACKBONE_ATTRIBUTES,
    critic_config_class,
    family_classes,
    hidden_size,
)
from .loading import (
    HEAD_SETTINGS,
    check_head_settings,
    check_loaded,
    refuse_adapter,
    stored_head_settings,
)
from .losses import CriticLossConfig, dvpo_critic_loss
from .units import return_units
from .upload import upload_critic
from .value_heads import LinearQuantileHeads, ValueHeads, make_heads

CLASS_SUFFIX = "ForDistributionalValue"
IGNORED_LABEL = -100.0


@dataclass
class DistributionalValueOutput(ModelOutput):
    """What a critic returns; T is the number of tokens asked for (`values_to_keep`).

    Attributes:
        loss: () float32, normalised units, when `labels` were given.
        quantiles: (B, T, N, M) float32, in the reward's own units; `quantiles[b, t, i, j]` is head i's estimate of
            the (j + 1/2) / M quantile of the return that follows the prefix x_0..x_t; of categorical heads the mean
            of the quantiles between j / M and (j + 1) / M.
        value: (B, T) float32, the expected return: mean over heads and quantiles, or over heads and atoms.
        logits: (B, T, N, B) float32, of the atoms of `config.value_support`; categorical and Bernoulli heads only.
        past_key_values, hidden_states, attentions: the backbone's.
    """

    loss: torch.Tensor | None = None
    quantiles: torch.Tensor | None = None
    value: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: object | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


# behind the mixin stands a family's PreTrainedModel, in every class that is made of it
_Family: Any = object


class DistributionalValueMixin(_Family):
    """Turns a family's `PreTrainedModel` class into its critic; see `distributional_value_class`."""

    _auto_class = "AutoModel"
    backbone_class: type[PreTrainedModel]
    quantile_heads: ValueHeads
    accepts_loss_kwargs = True

    def __init__(self, config: PreTrainedConfig, critic_settings: dict | None = None):
        for name, default in HEAD_SETTINGS.items():
            stored = getattr(config, name, None)
            setattr(config, name, (critic_settings or {}).get(name, default if stored is None else stored))
        check_head_settings(config)
        config.value_clip = bool(getattr(config, "value_clip", False))
        config.return_mean = float(getattr(config, "return_mean", 0.0))
        config.return_scale = float(getattr(config, "return_scale", 1.0))
        config.critic_loss = getattr(config, "critic_loss", None)
        super().__init__(config)
        self.critic_loss_config = CriticLossConfig.from_dict(config.critic_loss or {})
        setattr(self, self.base_model_prefix, self.backbone_class(config))
        self.quantile_heads = make_heads(hidden_size(config), config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: object | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        values_to_keep: int | torch.LongTensor = 0,
        output_quantiles: bool = True,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> DistributionalValueOutput:
        """Estimate the distribution of the return that follows every prefix.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache: as in the family's
                causal LM; so are other keyword arguments, which go to the backbone.
            labels: target returns in the reward's units and the model's frame (`labels[:, t]` is the return that
                follows token t), (B, T) or (B, T, K) for K sampled returns a token. Exactly -100 is ignored; so is a
                token of whose K returns one is -100.
            values_to_keep: run the heads on the last n positions only (0: all), or on these position indices (1-D).
                `quantiles` and `value` are then those positions', and so is the loss; `labels` cover all T tokens.
            output_quantiles: False leaves `quantiles` at None where there are `logits`, which hold all there is to
                know: training needs no more, and M numbers a head are most of the heads' work.
            num_items_in_batch: divide the summed loss by this number instead of by the labels counted here, so that
                accumulated micro-batches give the loss of the whole batch; counts label *entries* other than -100,
                as `transformers.Trainer` does.

        The loss is that of `value_loss` with `config.critic_loss` (default: `CriticLossConfig()`), without its
        `shift` term, whose gate depends on the whole batch, which one forward cannot see. Labels (B, T) with
        `num_quantiles = 1` give mean squared error. Of heads with atoms, labels beyond the outermost count as it.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        # some backbones lack some of these arguments: pass what was given
        outputs = self.base_model(**{k: v for k, v in inputs.items() if v is not None}, **kwargs)

        kept = slice(-values_to_keep, None) if isinstance(values_to_keep, int) else values_to_keep
        found = self.quantile_heads(outputs.last_hidden_state[:, kept])
        logits, quantiles = self.quantile_heads.logits(found), None
        if logits is None or output_quantiles:
            quantiles = self.quantile_heads.quantiles(found)
        if not self.quantile_heads.in_reward_units:
            quantiles = quantiles * self.config.return_scale + self.config.return_mean
        loss = None
        if labels is not None:
            _check_labels(labels, outputs.last_hidden_state)
            loss = self._loss(quantiles, logits, labels[:, kept], num_items_in_batch)
        return DistributionalValueOutput(
            loss=loss,
            quantiles=quantiles,
            value=self.quantile_heads.value(quantiles, logits),
            logits=logits,
            past_key_values=getattr(outputs, "past_key_values", None),
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )

    def _loss(self, quantiles, logits, labels, num_items):
        labels = labels if labels.ndim == 3 else labels.unsqueeze(-1)
        trained = (labels != IGNORED_LABEL).all(-1)
        if num_items is not None:
            num_items = num_items / labels.shape[-1]
        loss, _ = self.value_loss(
            quantiles, logits, labels.float(), trained, self.critic_loss_config, num_items=num_items, shift_gate=False
        )
        return loss

    def value_loss(
        self,
        quantiles: torch.Tensor | None,
        logits: torch.Tensor | None,
        returns: torch.Tensor,
        mask: torch.Tensor,
        config: CriticLossConfig,
        *,
        num_items: int | float | torch.Tensor | None = None,
        shift_gate: bool | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss that fits the heads: `categorical_cross_entropy` of logits, else `dvpo_critic_loss` of quantiles.

        Args:
            quantiles, logits: as the output has them, aligned with what follows.
            returns: (B, T, K), the reward's units.
            mask, num_items, shift_gate: as in `dvpo_critic_loss`.
            config: weights of the terms; they are of quantiles, and cross-entropy has none.
        """
        if logits is not None:
            support, projection = self.quantile_heads.atoms(logits.device), self.quantile_heads.projection
            return categorical_cross_entropy(logits, returns, mask, support, projection, num_items=num_items)
        assert quantiles is not None, "heads without logits have quantiles"
        predicted, wanted = self.normalize_returns(quantiles), self.normalize_returns(returns)
        return dvpo_critic_loss(predicted, wanted, mask, config, num_items=num_items, shift_gate=shift_gate)

    def normalize_returns(self, returns: torch.Tensor) -> torch.Tensor:
        """Returns or quantiles in the reward's units -> the heads' normalised units, (x - mean) / scale."""
        return (returns - self.config.return_mean) / self.config.return_scale

    @torch.no_grad()
    def fit_return_scale(self, returns: torch.Tensor, *, fresh_heads: bool) -> None:
        """Fix the normalised units from the training returns, before step 1 (METHOD §3).

        Args:
            returns: returns of the training set's action tokens, any shape, in the reward's units.
            fresh_heads: True resets the heads so that every state starts at the quantiles of `returns`. False keeps
                what the critic predicts, as `set_return_scale` does.

        Raises:
            ValueError: no returns, or not all finite.
        """
        returns = returns.detach().flatten().to("cpu", torch.float64)
        if returns.numel() == 0 or not returns.isfinite().all():
            raise ValueError(f"Training returns must be finite and at least one; got {returns.numel()} of them.")
        mean, scale = return_units(returns)
        if not fresh_heads:
            self.set_return_scale(mean, scale)
            return
        for parameter in self.quantile_heads.parameters():
            setattr(parameter, "_is_hf_initialized", False)  # noqa: B010  (transformers' own mark)
        self.quantile_heads.reset(self.quantile_heads.first_bias(returns.sort().values, mean, scale))
        self.config.return_mean, self.config.return_scale = mean, scale

    def replace_heads(self, **settings) -> None:
        """Put fresh heads on this critic's body, for returns that its own cannot hold.

        Args:
            settings: those of `from_pretrained`; what is left out has its default, not the old heads'.

        Raises:
            ValueError: settings that cannot be built, or an adapter, which holds the heads that it was trained with.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError("An adapter's heads cannot be replaced: merge it into its base model first.")
        for name, default in HEAD_SETTINGS.items():
            setattr(self.config, name, settings.get(name, default))
        check_head_settings(self.config)
        heads = make_heads(hidden_size(self.config), self.config).to(self.quantile_heads.weight.device)
        self.quantile_heads = heads
        self._init_weights(heads)
        self.config.value_clip, self.config.return_mean, self.config.return_scale = False, 0.0, 1.0

    @torch.no_grad()
    def set_return_scale(self, mean: float, scale: float) -> None:
        """Change the normalised units to (x - mean) / scale; what the critic predicts stays, as heads are rescaled.

        As Pop-Art does (van Hasselt et al. 2016); exact but for rounding, sharded or not, an adapter's own heads, too.
        Monotone heads, whose gaps are not closed under scaling, keep their old units. What categorical, Bernoulli and
        bounded heads say is in the reward's own units already.
        """
        config = self.config
        if config.value_head_type == "monotone":
            return
        for heads in self.modules():
            if isinstance(heads, LinearQuantileHeads):
                heads.weight.mul_(config.return_scale / scale)
                heads.bias.mul_(config.return_scale / scale).add_((config.return_mean - mean) / scale)
        config.return_mean, config.return_scale = mean, scale

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, ValueHeads):
            module.reset(module.first_bias(None, 0.0, 1.0))
        else:
            super()._init_weights(module)

    def get_input_embeddings(self):
        return self.base_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.base_model.set_input_embeddings(value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, critic_settings=None, **kwargs):
        """Load a critic, or put fresh heads on the backbone of any checkpoint of the family.

        Takes the arguments of `PreTrainedModel.from_pretrained`, and `num_value_heads`, `num_quantiles`,
        `value_head_type`, `value_support` and `value_projection` for fresh heads. Nothing but the heads of a
        checkpoint that is no critic may be missing.

        Raises:
            ValueError: weights are missing or of another shape, or a critic is asked for other heads than it has.
        """
        settings = dict(critic_settings or {})
        settings.update({name: kwargs.pop(name) for name in HEAD_SETTINGS if name in kwargs})
        stored = stored_head_settings(pretrained_model_name_or_path, kwargs)
        for name in settings:
            if stored and settings[name] != stored.get(name, HEAD_SETTINGS[name]):
                raise ValueError(
                    f"{pretrained_model_name_or_path} is a critic with {name}={stored.get(name)}, but {name}="
                    f"{settings[name]} was asked for. Its heads cannot change shape: leave {name} out, or start from "
                    "a checkpoint without heads."
                )
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["ignore_mismatched_sizes"] = True  # reported below, with the names and shapes
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                critic_settings=settings,
                output_loading_info=True,
                **kwargs,
            )
        except OSError as error:
            refuse_adapter(pretrained_model_name_or_path, error)
            raise
        check_loaded(cls, pretrained_model_name_or_path, info, is_critic=bool(stored))
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Write config, safetensors weights and this code, so that the directory loads with or without our package.

        Takes the arguments of `PreTrainedModel.save_pretrained`. After `fully_shard` every rank must call it; the
        weights are gathered and rank 0 writes. With a LoRA adapter loaded, writes the adapter and the heads that were
        trained with it, and the critic's config beside them.
        """
        adapter = getattr(self, "_hf_peft_config_loaded", False)
        if adapter and kwargs.get("push_to_hub"):
            raise ValueError("To push an adapter with its critic's config, call push_to_hub(repo_id) on the critic.")
        sharded = self._is_sharded()
        if sharded and kwargs.get("state_dict") is None:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            kwargs["state_dict"] = get_model_state_dict(self, options=options)
        if not sharded or dist.get_rank() == 0:
            # what a base repository named here is not in the critic's repository
            self.config.auto_map = None
            with _own_class_name(self):
                super().save_pretrained(save_directory, **kwargs)
                if adapter:
                    self.config.save_pretrained(save_directory)
        if sharded:
            dist.barrier()

    def push_to_hub(self, *args, **kwargs):
        """Upload what `save_pretrained` writes; takes the arguments of `PreTrainedModel.push_to_hub`.

        Weights of an earlier version that would be loaded in place of these are deleted in the same commit.
        After `fully_shard` every rank must call it; rank 0 uploads, the others return None.
        """
        if self._is_sharded() and dist.get_rank() != 0:
            self.save_pretrained(os.curdir)  # their part in gathering the weights; writes nothing
            return None
        return super().push_to_hub(*args, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, **kwargs):
        return upload_critic(working_dir, repo_id, **kwargs)

    def _is_sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    @classmethod
    def is_custom_code(cls) -> bool:
        # The backbone is the family's own code: its checkpoint conversions must apply.
        return False

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks at the source of the class's module, which here is this file
        return cls.backbone_class._can_set_attn_implementation()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls.backbone_class._can_set_experts_implementation()


def _check_labels(labels: torch.Tensor, hidden_states: torch.Tensor) -> None:
    if labels.shape[:2] != hidden_states.shape[:2] or labels.ndim not in (2, 3):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; they must be (batch, tokens) or (batch, tokens, samples) for "
            f"the {tuple(hidden_states.shape[:2])} tokens given."
        )


@contextmanager
def _own_class_name(model):
    """FSDP2 swaps a model's class for one of torch's; saving must name and ship ours."""
    cls = type(model)
    own = next(c for c in cls.__mro__ if c.__module__ == __name__ and c.__name__.endswith(CLASS_SUFFIX))
    names = cls.__name__, cls.__module__
    cls.__name__, cls.__module__ = own.__name__, own.__module__
    try:
        yield
    finally:
        cls.__name__, cls.__module__ = names


@functools.cache
def distributional_value_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel]:
    """Make `XForDistributionalValue` for the family of `XConfig`; the same class every time.

    Named after the config class, as several configs share one causal LM class.

    Raises:
        ValueError: as `critic_config_class`.
    """
    config_class = critic_config_class(config_class)
    backbone_class, causal_class = family_classes(config_class)
    family: type[PreTrainedModel] = next(c for c in causal_class.__mro__ if c.__name__.endswith("PreTrainedModel"))
    attributes = {
        "__module__": __name__,
        "__doc__": f"Distributional critic on {backbone_class.__name__}; see `DistributionalValueMixin`.",
        "config_class": config_class,
        "base_model_prefix": BACKBONE_ATTRIBUTES.get(config_class.model_type, causal_class.base_model_prefix),
        "backbone_class": backbone_class,
        # strict: when loading in half precision; the other: what quantisers ask for
        "_keep_in_fp32_modules_strict": {"quantile_heads", *(family._keep_in_fp32_modules_strict or ())},
        "_keep_in_fp32_modules": {"quantile_heads", *(family._keep_in_fp32_modules or ())},
        # heads of other tasks, left behind on purpose
        "_keys_to_ignore_on_load_unexpected": [
            *(family._keys_to_ignore_on_load_unexpected or ()),
            *(rf"^{head}\." for head in ("lm_head", "score", "classifier", "embed_out", "output")),
        ],
    }
    name = config_class.__name__.removesuffix("Config") + CLASS_SUFFIX
    return type(name, (DistributionalValueMixin, family), attributes)


def __getattr__(name: str):
    """`XForDistributionalValue` by name: what remote code loading, pickling and copying look up."""
    if name.endswith(CLASS_SUFFIX):
        config_name = name.removesuffix(CLASS_SUFFIX) + "Config"
        for model_type, known in CONFIG_MAPPING_NAMES.items():
            if known == config_name:
                return distributional_value_class(CONFIG_MAPPING[model_type])  # type: ignore[arg-type]
        for config_class in CONFIG_MAPPING._extra_content.values():
            if config_class.__name__ == config_name:
                return distributional_value_class(config_class)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
