"""A small policy that has learnt to work out arithmetic from somebody careless.

It imitates worked solutions in which hard steps are often wrong (`Problem.worked`). A policy that had merely stopped
training early would be wrong about as often, but how often would hang on the seed and on the last few steps; this one
learns the arithmetic well and the carelessness with it, so that its chance of success differs from state to state.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from modeling_dvpo.training.tasks import imitation
from modeling_dvpo.training.tasks.arithmetic import CHARACTERS, WORDS, demonstrations


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and one for the word before the answer; text round-trips exactly."""
    return imitation.build_tokenizer(WORDS, CHARACTERS)


def train_policy(
    output_dir: str | Path, seed: int, *, domain: str = "in_domain", carelessness: float = 0.2, **settings
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Trains a policy by imitation and saves it with its tokenizer as an ordinary transformers directory.

    Args:
        seed: of the initial weights, the problems and the slips in them.
        domain: what is imitated; several are drawn from uniformly.
        settings: `num_steps`, `batch_size` and others of `imitation.train_policy`.
    """
    examples = demonstrations(seed=seed, domain=domain, carelessness=carelessness)
    return imitation.train_policy(examples, build_tokenizer(), output_dir, seed=seed, **settings)
