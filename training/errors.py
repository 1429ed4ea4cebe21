"""What can be wrong with what a run was given; each message says what came, what is needed and what to do."""

from modeling_dvpo.text.problems import DataError


class ConfigError(ValueError):
    """A configuration that cannot be run; says which key, what came and what is needed."""


class RewardDataError(DataError):
    """A reward set, or its tokenizer, that cannot be trained on; the message says what to change."""


class RewardFunctionError(RuntimeError):
    """A reward function raised; says which one, and has what it raised as its cause."""


class RolloutError(ValueError):
    """Rollouts that cannot be made; the message says what to change."""
