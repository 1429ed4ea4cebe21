"""Which of a run's settings a card shows, and in which order: no paths and nothing of the machine."""

OPTIMISATION = (
    "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16",
)  # fmt: skip
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

# of train_critic.py
CRITIC_RUN = (
    "trainable", *LORA, "returns", "gamma", "lam", "target", "rows_per_step", "num_train_epochs", "max_steps",
    "heads_learning_rate", *OPTIMISATION, "max_length", "append_eos", "best_metric", "seed",
)  # fmt: skip
# of train_dvpo.py, as far as they concern the critic
CRITIC_ONLINE = (
    "algorithm", "critic_trainable", "gamma", "critic_lam", "critic_target", "prompts_per_step", "num_generations",
    "max_steps", "num_critic_epochs", "num_mini_batches", "critic_warmup_steps", "critic_learning_rate",
    "heads_learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16", "seed",
)  # fmt: skip
POLICY_RUN = (
    "algorithm", "trainable", *LORA, "gamma", "lam", "length_adaptive_lam", "risk_measure", "risk_level",
    "whiten_advantages", "aggregation", "kl", "kl_coef", "clip_low", "clip_high", "entropy_coef",
    "bootstrap_truncated", "prompts_per_step", "num_generations", "max_steps", "num_epochs", "num_mini_batches",
    *OPTIMISATION, "max_prompt_length", "max_completion_length", "max_turns", "temperature", "top_p", "top_k", "min_p",
    "reward_weights", "critic_lam", "critic_learning_rate", "heads_learning_rate", "seed",
)  # fmt: skip

# A setting that says nothing while another has this value.
MEANINGLESS = {
    **{name: ("trainable", ("all", "heads", None)) for name in LORA},
    "lam": ("returns", ("monte_carlo",)),
    "target": ("returns", ("monte_carlo",)),
    "kl_coef": ("kl", ("none",)),
}


def hyperparameters(settings: dict, names: tuple[str, ...]) -> list[tuple[str, object]]:
    """The settings of these names that were set and meant something."""
    shown = []
    for name in names:
        value = settings.get(name)
        other, values = MEANINGLESS.get(name, (None, ()))
        silent = other in settings and settings[other] in values
        if value is None or value == [] or silent or (name == "max_steps" and value == -1):
            continue
        if name == "max_turns" and not settings.get("environment"):
            continue
        shown.append((name, value))
    return shown
