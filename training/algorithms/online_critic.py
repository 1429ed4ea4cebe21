"""The critic beside the policy: loaded at the start, put to work at the first completions, its units kept in step."""

import warnings
from dataclasses import asdict
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoTokenizer

from modeling_dvpo.critic.loading import HEAD_SETTINGS
from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.gguf_files import gguf_arguments
from modeling_dvpo.ranks import is_main

from ..engine.distributed import broadcast, shard
from ..engine.learner import Learner
from ..errors import ConfigError
from ..models.critics import load_critic
from ..models.policies import base_of, disable_dropout
from ..models.records import online_record, warn_of_other_critic
from ..models.trainable import choose_trainable
from .advantages import ALGORITHMS
from .critic_arguments import CriticArguments
from .returns_seen import ReturnsSeen

# What the critic's config learns in a run, beside its weights.
LEARNT_SETTINGS = ("return_mean", "return_scale", "critic_loss", "critic_training")


class OnlineCritic:
    """A critic that is trained by the policy's own completions, or only asked (`critic_trainable` none).

    Args:
        policy_args, critic_args, args: the run's.
        algorithm: its name.
        tokenizer: the policy's.
        device: where it will run.

    Raises:
        ConfigError: as `load_online_critic` does.
    """

    def __init__(self, policy_args, critic_args, args, *, algorithm: str, tokenizer, device: torch.device):
        self.policy_args, self.critic_args, self.args, self.device = policy_args, critic_args, args, device
        self.model, self.parent_config = load_online_critic(policy_args, critic_args, algorithm, tokenizer)
        self.started, self.returns_seen = False, ReturnsSeen()
        self.learner: Learner | None = None

    @property
    def frozen(self) -> bool:
        return self.critic_args.critic_trainable == "none"

    @property
    def fresh(self) -> bool:
        return not hasattr(self.parent_config, "num_value_heads")

    def start(self, returns: torch.Tensor, settings: dict, loss_config: CriticLossConfig) -> None:
        """Make it ready, at the first completions' returns, (tokens,); every rank must call it, with the same.

        Fresh heads start at their quantiles and in their units. A loaded critic keeps its own units, and what it
        predicts: it knows more returns than these. A frozen one keeps its record, too: it is still what its own
        training made of it.
        """
        record = online_record(settings, returns)
        if not self.fresh:
            warn_of_other_critic(self.parent_config, record)
        if not self.frozen:
            if self.fresh:
                self.model.fit_return_scale(returns, fresh_heads=True)
                broadcast(self.model.quantile_heads)  # they are random, and ranks have sampled each for itself
            self.model.config.critic_loss = loss_config.to_dict()
            self.model.config.critic_training = record
        self.returns_seen.add(returns)
        self.place()
        if self.fresh and self.model.config.value_head_type == "monotone" and is_main():
            warnings.warn(
                "monotone heads cannot be rescaled, so this critic keeps the units of the first completions' returns, "
                "however few of them succeed: prefer value_head_type linear, or a critic of train_critic.py.",
                stacklevel=2,
            )

    def follow(self, returns: torch.Tensor) -> None:
        """Bring a fresh critic's units to all returns so far, a later step's included; every rank must call it.

        What it predicts stays: the first completions of a hard task, one success in hundreds, say little about the
        returns that it will see.
        """
        self.returns_seen.add(returns)
        if self.frozen:
            return
        seen, config = self.returns_seen, self.model.config
        if self.fresh:
            self.model.set_return_scale(seen.mean, seen.scale)
        config.critic_training = {**config.critic_training, "return_range": [seen.low, seen.high]}

    @property
    def learnt_settings(self) -> dict:
        """What it has learnt beside its weights, for a checkpoint."""
        config = self.model.config
        found = {name: getattr(config, name) for name in LEARNT_SETTINGS if hasattr(config, name)}
        return {"config": found, "returns_seen": asdict(self.returns_seen)}

    @learnt_settings.setter
    def learnt_settings(self, learnt: dict) -> None:
        for name, value in learnt["config"].items():
            setattr(self.model.config, name, value)
        self.returns_seen = ReturnsSeen(**learnt["returns_seen"])

    def place(self) -> None:
        """Choose what trains, shard it, and make its learner; a resumed run's own way to begin, instead of `start`."""
        model, args, critic_args = self.model, self.args, self.critic_args
        self.started = True
        if self.frozen:
            model.requires_grad_(False)
            shard(model, self.device, bf16=args.bf16)
            return
        choice = {
            "model_name_or_path": critic_args.critic or self.policy_args.model_name_or_path,
            "trainable": critic_args.critic_trainable,
            "lora_dropout": 0.0,
        }
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(args.seed)  # ranks must agree on a new adapter
            choose_trainable(model, SimpleNamespace(**{**vars(self.policy_args), **choice}))
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        shard(model, self.device, bf16=args.bf16)
        rates = {
            "learning_rate": critic_args.critic_learning_rate,
            "heads_learning_rate": critic_args.heads_learning_rate,
        }
        self.learner = Learner(model, SimpleNamespace(**{**vars(args), **rates}), args.max_steps, self.device)


def load_online_critic(policy_args, critic_args, algorithm: str, tokenizer):
    """The critic that the algorithm asks for, float32, on the CPU, and the config it had before.

    A fresh one has the weights of the policy, or of the base of the policy's adapter.

    Raises:
        ConfigError: it has another tokenizer than the policy, or heads of the wrong kind.
    """
    chosen, base = ALGORITHMS[algorithm], base_of(policy_args)
    name = critic_args.critic or base.model_name_or_path
    revision = critic_args.critic_revision if critic_args.critic else base.revision
    gguf_file = None if critic_args.critic else base.gguf_file
    parent_config = AutoConfig.from_pretrained(name, revision=revision, **gguf_arguments(gguf_file))
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
    attention = policy_args.attn_implementation
    where = {"model_name_or_path": name, "revision": revision, "gguf_file": gguf_file}
    source = CriticArguments(**where, attn_implementation=attention, **settings)
    critic = load_critic(source)
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
