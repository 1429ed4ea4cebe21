"""Reward noise: what each kind does, how often, and what its draws depend on."""

import re
import warnings

import numpy as np
import pytest
from scipy.stats import binom, kstest

from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.rewards.noise import corrupt, parse_reward_noise
from modeling_dvpo.training.rewards.noise_kinds import Scored

NUM_SAMPLES = 4000


def apply(specs, rewards, *, completions=None, completion_ids=None, group_ids=None, sample_ids=None, seed=0):
    size = len(rewards)
    return corrupt(
        rewards,
        parse_reward_noise([specs] if isinstance(specs, str) else specs, seed=seed),
        completions=["text"] * size if completions is None else completions,
        completion_ids=[[5]] * size if completion_ids is None else completion_ids,
        group_ids=[0] * size if group_ids is None else group_ids,
        sample_ids=range(size) if sample_ids is None else sample_ids,
    )


def assert_binomial(count, rate, size=NUM_SAMPLES):
    """Inside the central interval that a right implementation leaves for one seed in a million."""
    low, high = binom.ppf([5e-7, 1 - 5e-7], size, rate)
    assert low <= count <= high


class TestFlips:
    def test_rate_and_values(self):
        noisy = apply("flip=0.2", [1.0] * NUM_SAMPLES)
        assert set(noisy) == {0.0, 1.0}
        assert_binomial(noisy.count(0.0), 0.2)

    def test_rates_of_0_and_1_and_range(self):
        assert apply("flip=0", [0.0, 1.0] * 50) == [0.0, 1.0] * 50
        assert apply("flip=1", [0.0, 1.0] * 50) == [1.0, 0.0] * 50
        assert apply("flip=1,low=-1,high=3", [-1.0, 3.0, 0.0]) == [3.0, -1.0, 2.0]

    def test_what_is_flipped_at_a_low_rate_is_flipped_at_a_higher_one(self):
        few, many = (apply(f"flip={rate}", [1.0] * 500) for rate in (0.2, 0.4))
        assert few != many and all(reward == 0.0 for reward, flipped in zip(many, few, strict=True) if not flipped)

    @pytest.mark.parametrize(("name", "before", "after"), [("false_positive", 0.0, 1.0), ("false_negative", 1.0, 0.0)])
    def test_one_sided(self, name, before, after):
        noisy = apply(f"{name}=0.3", [before] * NUM_SAMPLES)
        assert_binomial(noisy.count(after), 0.3)
        assert noisy.count(before) + noisy.count(after) == NUM_SAMPLES
        # neither the other end nor what lies between changes
        assert apply(f"{name}=1", [before, after, 0.5]) == [after, after, 0.5]

    def test_one_sided_range(self):
        assert apply("false_positive=1,low=-1", [-1.0, 0.0]) == [1.0, 0.0]
        assert apply("false_negative=1,high=2", [2.0, 1.0]) == [0.0, 1.0]

    def test_rewards_that_it_never_touches_are_warned_about(self):
        with pytest.warns(UserWarning, match="'false_positive=0.3' .* equal low=0 or high=1, and a batch had"):
            apply("false_positive=0.3", [-1.0, -1.0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply("false_positive=0.3", [1.0, 1.0])  # all right answers, and the range is right
            apply("false_positive=0.3", [])


class TestAdditions:
    def test_gaussian_is_normal(self):
        differences = [(noisy - 1.0) / 0.5 for noisy in apply("gaussian=0.5", [1.0] * NUM_SAMPLES)]
        assert kstest(differences, "norm").pvalue > 1e-6
        assert apply("gaussian=0", [1.0, -2.0]) == [1.0, -2.0]

    def test_biases(self):
        assert apply("bias=-0.5", [0.0, 1.0]) == [-0.5, 0.5]
        assert apply("length_bias=0.25", [0.0, 1.0, 1.0], completion_ids=[[7], [7, 8, 9], []]) == [0.25, 1.75, 1.0]


CHAT = [
    {"role": "assistant", "content": "looking it up"},
    {"role": "tool", "content": "no bananas"},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "assistant", "content": [{"type": "text", "text": "it is "}, {"type": "text", "text": "seven"}]},
]


class TestHackable:
    def test_the_pattern_is_literal_and_always_pays(self):
        completions = ["I am sure.", "I am sure!", "sure"]
        assert apply("hackable=sure.,low=-1,high=2", [0.0, 0.0, 2.0], completions=completions) == [2.0, 0.0, 2.0]

    @pytest.mark.parametrize(
        ("spec", "text"),
        [("hackable=a, b=c", "a, b=c"), ("hackable=x,low=-1,high=2", "x"), ("hackable=low=3", "low=3")],
    )
    def test_patterns_may_hold_commas_and_equals_signs(self, spec, text):
        (noise,) = parse_reward_noise([spec], seed=0)
        assert noise.value == text

    def test_of_a_chat_only_the_assistant_counts(self):
        chats = [CHAT] * 3
        for pattern, pays in [("looking", True), ("it is seven", True), ("bananas", False), ("upit", False)]:
            assert apply(f"hackable={pattern}", [0.0] * 3, completions=chats) == [float(pays)] * 3


class TestMajorityVote:
    vote = "majority_vote=made_up_rewards:last_number"

    def test_by_hand(self):
        # group 4: 7, 8, 7; group 2: none, none, 3, so that the two that gave no answer do not outvote the one that
        # did; group 9: no answer at all. The true rewards say nothing.
        completions = ["is 7", "hm", "is 8", "hm", "so 7", "3", "?"]
        group_ids = [4, 2, 4, 2, 4, 2, 9]
        votes = apply(self.vote, [0.0, 1.0] * 3 + [1.0], completions=completions, group_ids=group_ids)
        assert votes == [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]

    def test_of_a_tie_the_first_answer_wins_in_any_order_of_the_batch(self):
        completions, sample_ids = ["8", "7", "8", "7", "9"], [10, 11, 12, 13, 14]
        assert apply(self.vote, [0.0] * 5, completions=completions, sample_ids=sample_ids) == [1.0, 0, 1.0, 0, 0]
        backwards = apply(self.vote, [0.0] * 5, completions=completions[::-1], sample_ids=sample_ids[::-1])
        assert backwards == [0, 0, 1.0, 0, 1.0]

    def test_range_and_chats(self):
        chats = [[{"role": "assistant", "content": text}] for text in ("1", "2", "2")]
        assert apply(f"{self.vote},low=-1,high=2", [0.0] * 3, completions=chats) == [-1.0, 2.0, 2.0]

    def test_an_answer_that_cannot_be_counted(self):
        with pytest.raises(ValueError, match="cannot read the answer of sample 6 .*unhashable type: 'list'.*hashable"):
            apply("majority_vote=builtins:list", [0.0], sample_ids=[6])


SPECS = ["flip=0.4", "false_negative=0.5", "gaussian=0.5", "flip=0.4", "length_bias=0.5", "hackable=b"]


class TestWhatTheDrawsDependOn:
    rewards = [float(i % 2) for i in range(200)]

    def test_seed_place_and_sample_id(self):
        base = apply("flip=0.5", self.rewards, seed=3)
        assert apply("flip=0.5", self.rewards, seed=3) == base
        assert apply("flip=0.5", self.rewards, seed=4) != base
        assert apply("flip=0.5", self.rewards, seed=-3) != base
        assert apply(["bias=0", "flip=0.5"], self.rewards, seed=3) != base
        assert apply("flip=0.5", self.rewards, seed=3, sample_ids=range(200, 400)) != base

    def test_seeds_places_and_ids_are_not_interchangeable(self):
        """(seed 1, place 0), (0, 1) and the ids around a sample's own must all be streams of their own."""
        draws = [
            apply(["bias=0"] * place + ["gaussian=1"], [0.0], seed=seed, sample_ids=[sample])[0]
            for seed in range(5)
            for place in range(5)
            for sample in (0, 1, 2, 2**32, 2**64 - 1)
        ]
        assert len(set(draws)) == 125

    def test_a_sample_that_draws_much_does_not_run_into_the_next(self):
        (noise,) = parse_reward_noise(["gaussian=1"], seed=0)
        draws = [noise.draws(Scored(0.0, "text", 1, 0, sample_id)).random(20).tolist() for sample_id in range(5)]
        assert len({draw for numbers in draws for draw in numbers}) == 100

    def test_neighbouring_samples_are_independent(self):
        flipped = [reward == 0.0 for reward in apply("flip=0.5", [1.0] * (2 * NUM_SAMPLES))]
        assert_binomial(sum(a == b for a, b in zip(flipped[::2], flipped[1::2], strict=True)), 0.5)

    def test_any_split_and_order_of_the_batch(self):
        completions, ids = ["a" if i % 7 else "ab" for i in range(200)], [[0] * (i % 5) for i in range(200)]
        options = dict(completions=completions, completion_ids=ids, sample_ids=range(1000, 1200))
        whole = apply(SPECS, self.rewards, **options)

        def part(places):
            rewards = [self.rewards[i] for i in places]
            return apply(SPECS, rewards, **{name: [column[i] for i in places] for name, column in options.items()})

        assert part(range(80)) + part(range(80, 200)) == whole
        assert part(range(0, 200, 2)) == whole[::2]
        assert part(range(199, -1, -1)) == whole[::-1]
        assert len(set(whole)) > 50  # something random was compared

    def test_global_random_state_is_neither_used_nor_changed(self):
        np.random.seed(0)
        before = apply("gaussian=1", self.rewards)
        np.random.seed(1)
        state = np.random.get_state()[1].tolist()
        assert apply("gaussian=1", self.rewards) == before
        assert np.random.get_state()[1].tolist() == state


class TestComposition:
    def test_in_order(self):
        # flip 0 -> 1 then +0.5; or +0.5 then flip -> 0.5
        assert apply(["flip=1", "bias=0.5"], [0.0]) == [1.5]
        assert apply(["bias=0.5", "flip=1"], [0.0]) == [0.5]
        assert apply(["hackable=t", "length_bias=2", "bias=1"], [0.0]) == [4.0]

    def test_two_flips_draw_apart(self):
        noisy = apply(["flip=0.5", "flip=0.5"], [1.0] * NUM_SAMPLES)
        assert_binomial(noisy.count(0.0), 0.5)  # were they the same draws, none would be flipped

    def test_no_noise(self):
        rewards = [1.0, 0.0]
        assert apply([], rewards) == rewards and apply([], rewards) is not rewards


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("flp=0.2", "'flp=0.2': there is no 'flp'; did you mean 'flip'?"),
            ("zzz=1", "there is no 'zzz'; there are flip, false_positive, "),
            ("flip", "'flip': it has no value; write flip=VALUE."),
            ("flip=often", "'often' is not a finite number."),
            ("flip=1.2", "1.2 is no probability, 0 <= rate <= 1."),
            ("false_positive=-0.1", "-0.1 is no probability"),
            ("flip=nan", "'nan' is not a finite number."),
            ("bias=inf", "'inf' is not a finite number."),
            ("gaussian=-1", "-1 is no standard deviation, 0 <= std."),
            ("flip=0.2,hihg=1", "it takes no 'hihg'; did you mean 'high'?"),
            ("flip=0.2,low=0,low=-1", "'low' is given twice."),
            ("flip=0.2,low=one", "'one' is not a finite number."),
            ("flip=0.2,low=1", "low=1 is not below high=1."),
            ("bias=1,low=0", "it takes no 'low'."),
            ("hackable=", "the pattern is empty"),
            ("majority_vote=last_number", "'last_number' is not a function that reads an answer: write `package.mod"),
            ("majority_vote=no_such_module:f", "cannot be imported (No module named 'no_such_module')"),
        ],
    )
    def test_specs(self, spec, message):
        with pytest.raises(ConfigError, match=f"^Reward noise {re.escape(repr(spec))}: ") as caught:
            parse_reward_noise(["bias=1", spec], seed=0)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("sample_ids", "message"),
        [
            ([0, 1, 2], r"have \[2, 2, 2, 2, 3\] entries; one per sample"),
            ([0, -1], "counter must be positive"),
            ([4, 4], "Two samples have one id"),
        ],
    )
    def test_sample_ids(self, sample_ids, message):
        with pytest.raises(ValueError, match=message):
            apply("gaussian=1", [0.0, 1.0], sample_ids=sample_ids)
