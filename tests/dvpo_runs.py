"""Short runs of train_dvpo.py on a tiny policy."""

import json
from pathlib import Path

from scripts import flags, metrics_of, read_rows
from transformers import AutoModelForCausalLM

import modeling_dvpo.training.train_dvpo as script
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.algorithms.advantages import ALGORITHMS
from modeling_dvpo.training.trainers import dvpo_trainer

WITH_CRITIC = [name for name, algorithm in ALGORITHMS.items() if algorithm.advantages == "critic"]
# a step has 12 completions of up to 10 tokens
SHORT = {
    "max_steps": 4,
    "prompts_per_step": 3,
    "num_generations": 4,
    "max_completion_length": 10,
    "num_mini_batches": 2,
    "learning_rate": 1e-3,
    "reward_funcs": "made_up_rewards:vowels",
}
CRITIC = {"algorithm": "dvpo", "num_quantiles": 8, "critic_learning_rate": 1e-3}


def run(output_dir, *settings, **more):
    """One run in this process; its metrics by step."""
    script.main(flags(*settings, output_dir=output_dir, **more))
    return metrics_of(output_dir)


def table_of(output_dir):
    return read_rows(Path(output_dir) / "completions.jsonl")


def record_of(output_dir):
    text = (Path(output_dir) / "last" / "pair.json").read_text()
    assert "NaN" not in text  # other programs can read it
    return json.loads(text)


def saved_critic(output_dir):
    return AutoModelForDistributionalValue.from_pretrained(Path(output_dir) / "last" / "critic")


def weights(output_dir):
    """Of the policy and the critic that a run left, by `from_pretrained` alone."""
    found = {}
    for part, auto_class in (("policy", AutoModelForCausalLM), ("critic", AutoModelForDistributionalValue)):
        if (Path(output_dir) / "last" / part).exists():
            state = auto_class.from_pretrained(Path(output_dir) / "last" / part).state_dict().items()
            # an adapter has heads of its own; the base model's are fresh, and unused
            found |= {f"{part}.{name}": value for name, value in state if ".original_module." not in name}
    return found


def recorded_samples(monkeypatch):
    """The samples of every step, in order."""
    found, collect = [], dvpo_trainer.DVPOTrainer.collect

    def recording(self, step):
        found.append(collect(self, step))
        return found[-1]

    monkeypatch.setattr(dvpo_trainer.DVPOTrainer, "collect", recording)
    return found
