"""Settings of train_dvpo.py: what the algorithm fills in, and what is refused. What only a
run can tell is in train_dvpo/test_refusals.py."""

import pytest
from scripts import flags

from modeling_dvpo.training.algorithms.advantages import ALGORITHMS
from modeling_dvpo.training.algorithms.policy_arguments import (
    AlgorithmArguments,
    PolicyArguments,
    PolicyCriticArguments,
    PolicyTrainingArguments,
    RewardArguments,
    check_together,
    unused_settings,
)
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.run.config import parse_config
from modeling_dvpo.training.trainers.dvpo_trainer import ARGUMENTS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_left_out_is_the_algorithm_s_own(name):
    args, algorithm = AlgorithmArguments(algorithm=name), ALGORITHMS[name]
    assert (args.whiten_advantages, args.aggregation, args.kl) == (
        algorithm.whiten,
        algorithm.aggregation,
        algorithm.kl,
    )


def test_what_is_given_wins_over_the_algorithm_s_own():
    args = AlgorithmArguments(
        algorithm="reinforce_plus_plus", whiten_advantages=False, aggregation="constant", kl="none"
    )
    assert (args.whiten_advantages, args.aggregation, args.kl) == (False, "constant", "none")


def test_heads_learn_ten_times_as_fast_unless_told_otherwise():
    assert PolicyCriticArguments(critic_learning_rate=2e-3).heads_learning_rate == pytest.approx(2e-2)
    assert PolicyCriticArguments(critic_learning_rate=2e-3, heads_learning_rate=0.0).heads_learning_rate == 0


def test_the_critic_s_loss_as_json_or_mapping():
    expected = {"form": "paper", "risk": 0.2}
    for given in (expected, '{"form": "paper", "risk": 0.2}'):
        assert PolicyCriticArguments(critic_loss=given).critic_loss == expected
    assert PolicyCriticArguments().critic_loss == {}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (AlgorithmArguments, {"algorithm": "reinforce++"}, "did you mean 'reinforce_plus_plus'"),
        (AlgorithmArguments, {"algorithm": "xyz"}, r"there are dvpo, .*reinforce_plus_plus\.$"),
        (AlgorithmArguments, {"kl": "penalty"}, "kl is 'penalty'; it must be one of loss, reward, none"),
        (AlgorithmArguments, {"aggregation": "mean"}, "aggregation is 'mean'"),
        (AlgorithmArguments, {"risk_measure": "cvr"}, "risk_measure is 'cvr'"),
        (AlgorithmArguments, {"gamma": 1.1}, "gamma is 1.1; it must be between 0 and 1"),
        (AlgorithmArguments, {"lam": -0.1}, "lam is -0.1"),
        (AlgorithmArguments, {"clip_low": 2.0}, "clip_low is 2.0"),
        (AlgorithmArguments, {"clip_high": -1.0}, "clip_high is -1.0"),
        (AlgorithmArguments, {"kl_coef": float("inf")}, "kl_coef is inf"),
        (AlgorithmArguments, {"length_adaptive_lam": 0.0}, "length_adaptive_lam is 0.0; it must be more than 0"),
        (AlgorithmArguments, {"num_epochs": 0}, "num_epochs is 0; it must be at least 1"),
        (AlgorithmArguments, {"algorithm": "grpo", "kl": "reward"}, "one advantage a completion: use kl=loss"),
        (AlgorithmArguments, {"algorithm": "grpo", "gamma": 0.9}, "gamma is 0.9, and grpo has one advantage"),
        (AlgorithmArguments, {"algorithm": "grpo", "risk_measure": "cvar"}, "risk_measure needs a critic, and grpo"),
        (AlgorithmArguments, {"algorithm": "dr_grpo", "bootstrap_truncated": True}, "needs a critic, and dr_grpo"),
        (AlgorithmArguments, {"algorithm": "ppo", "risk_measure": "cvar"}, "risk_measure needs a distribution"),
        (AlgorithmArguments, {"risk_level": 0.5}, "risk_level is set, and the expectation has no parameter"),
        (
            PolicyCriticArguments,
            {"critic_trainable": "head"},
            "critic_trainable is .head.; it must be one of all, lora",
        ),
        (PolicyCriticArguments, {"critic_target": "mixture"}, "critic_target is 'mixture'"),
        (PolicyCriticArguments, {"critic_lam": 1.5}, "critic_lam is 1.5"),
        (PolicyCriticArguments, {"critic_loss": '{"risks": 1}'}, "critic_loss is .*risks"),
        (PolicyCriticArguments, {"num_critic_epochs": 0}, "num_critic_epochs is 0"),
        (PolicyCriticArguments, {"critic_warmup_steps": -1}, "critic_warmup_steps is -1"),
        (PolicyArguments, {"model_name_or_path": "a/b", "trainable": "heads"}, "trainable is 'heads'"),
        (PolicyTrainingArguments, {"output_dir": "x", "max_steps": 0}, "max_steps is 0"),
        (PolicyTrainingArguments, {"output_dir": "x", "log_completions": -1}, "log_completions is -1"),
        (PolicyTrainingArguments, {"output_dir": "x", "eval_temperature": -1.0}, "eval_temperature is -1.0"),
        (RewardArguments, {"reward_funcs": ["a:b"], "reward_weights": [1.0, 2.0]}, "2 reward_weights for 1"),
    ],
)
def test_out_of_range(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def together(**settings):
    """`check_together` with these settings and otherwise the defaults."""
    given = {"model_name_or_path": "a/b", "dataset": "rows.jsonl", "reward_funcs": ["a:b"], "output_dir": "run"}
    check_together(*parse_config(ARGUMENTS, flags(given, settings)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "grpo", "num_generations": 2},
        {"algorithm": "grpo", "num_generations": 2, "critic_warmup_steps": 500, "critic_lam": 0.9, "lam": 0.5},
        {"critic": "c/d", "critic_revision": "main", "critic_trainable": "none"},
        {"critic_warmup_steps": 499},
        {"reference": "c/d", "kl": "reward"},
        {"prompts_per_step": 3, "num_generations": 4, "num_mini_batches": 6},
        {"eval_steps": 5, "eval_dataset": ["held_out.jsonl"]},
    ],
)
def test_what_goes_together(settings):
    together(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "dr_grpo"}, "num_generations is 1, and dr_grpo compares the completions of a prompt"),
        (
            {"algorithm": "reinforce_plus_plus", "num_quantiles": 8, "critic": "c/d"},
            "reinforce_plus_plus has no critic, and critic, num_quantiles asks for one",
        ),
        ({"critic_warmup_steps": 500}, "critic_warmup_steps is 500 and max_steps is 500: the policy would never"),
        ({"critic_trainable": "none"}, "critic_trainable is 'none', so the critic must be a trained one"),
        (
            {"critic_trainable": "none", "critic": "c/d", "critic_warmup_steps": 1},
            "critic_trainable is 'none', so nothing would learn",
        ),
        ({"critic_revision": "main"}, "critic_revision is set, and there is no critic"),
        ({"reference": "c/d", "kl": "none"}, "reference is set, and there is no KL penalty"),
        ({"reference": "c/d", "kl_coef": 0.0}, "reference is set, and there is no KL penalty"),
        ({"prompts_per_step": 3, "num_generations": 3, "num_mini_batches": 6}, "does not divide the 9 completions"),
        ({"reward_noise": ["flip=0.2", "majority_vote=a:b"]}, "a majority vote, and num_generations is 1"),
        ({"eval_steps": 5}, "eval_steps is set, but nothing is held out"),
    ],
)
def test_what_does_not(settings, message):
    with pytest.raises(ConfigError, match=message):
        together(**settings)


def test_settings_without_use():
    critic_args = PolicyCriticArguments(critic_learning_rate=1e-4, critic_loss={"risk": 0.2})
    found = unused_settings(AlgorithmArguments(algorithm="grpo", lam=0.9), critic_args)
    assert found == ["critic_loss", "critic_learning_rate", "heads_learning_rate", "lam"]
    assert unused_settings(AlgorithmArguments(algorithm="ppo", lam=0.9), critic_args) == []
    assert unused_settings(AlgorithmArguments(algorithm="grpo"), PolicyCriticArguments()) == []
