"""Every recipe is one of a script's, and parses there."""

from pathlib import Path

import pytest

from modeling_dvpo.training.algorithms.critic_arguments import CriticArguments, TrainingArguments
from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.rewards.functions import load_reward_function
from modeling_dvpo.training.run.config import parse_config
from modeling_dvpo.training.trainers.dvpo_trainer import ARGUMENTS

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
OF_CRITICS = ("demo", "lora", "qwen3-8b")
OF_POLICIES = ("arithmetic", "gsm8k", "math")
LEFT_OPEN = [f"--{name}=x" for name in ("model_name_or_path", "dataset", "output_dir")]


def test_each_belongs_to_a_script():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*OF_CRITICS, *OF_POLICIES}


@pytest.mark.parametrize("name", OF_CRITICS)
def test_critics_parse(name):
    parse_config(
        (CriticArguments, RewardDataArguments, TrainingArguments), [str(RECIPES / f"{name}.yaml"), *LEFT_OPEN]
    )


@pytest.mark.parametrize("name", OF_POLICIES)
def test_policies_parse_and_find_their_reward(name):
    # a bare name is ours wherever one stands
    _, _, _, rewards, *_ = parse_config(ARGUMENTS, [f"{name}.yaml", *LEFT_OPEN])
    assert all(callable(load_reward_function(reward)) for reward in rewards.reward_funcs)
