"""The critic beside the policy: loaded at the start, and put to work once the first completions fix its units."""

from types import SimpleNamespace

import torch

from modeling_dvpo import CriticLossConfig
from modeling_dvpo.training.critic_files import commit_of
from modeling_dvpo.training.distributed import broadcast, shard
from modeling_dvpo.training.learner import Learner
from modeling_dvpo.training.policy.policy_files import critic_record, load_online_critic, warn_of_other_critic
from modeling_dvpo.training.trainable import choose_trainable

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
        self.started, self.learner = False, None

    @property
    def frozen(self) -> bool:
        return self.critic_args.critic_trainable == "none"

    def start(self, returns: torch.Tensor, settings: dict, loss_config: CriticLossConfig) -> None:
        """Fix the units by the first completions' returns, (tokens,), and make it ready; every rank must call it.

        A frozen critic keeps its units and its record: it is still what its own training made of it.
        """
        record = critic_record(settings, returns)
        parent = record["parent"], record["parent_revision"]
        record["parent_revision"] = commit_of(*parent) or record["parent_revision"]
        fresh = not hasattr(self.parent_config, "num_value_heads")
        if not fresh:
            warn_of_other_critic(self.parent_config, record)
        if not self.frozen:
            self.model.fit_return_scale(returns, fresh_heads=fresh)
            broadcast(self.model.quantile_heads)  # fresh ones are random, and ranks have sampled each for itself
            self.model.config.critic_loss = loss_config.to_dict()
            self.model.config.critic_training = record
        self.place()

    @property
    def learnt_settings(self) -> dict:
        config = self.model.config
        return {name: getattr(config, name) for name in LEARNT_SETTINGS if hasattr(config, name)}

    @learnt_settings.setter
    def learnt_settings(self, settings: dict) -> None:
        for name, value in settings.items():
            setattr(self.model.config, name, value)

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
