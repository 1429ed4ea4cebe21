"""Model cards for critics and policies, filled from facts: what is not known of a model is not on its card."""

from .errors import CardError
from .evaluation import card_files
from .metadata import eval_result_files, read_benchmarks
from .render import critic_card, policy_card

__all__ = ["CardError", "card_files", "critic_card", "eval_result_files", "policy_card", "read_benchmarks"]
