import pytest
import torch
from conftest import tiny_tokenizer
from scripts import write_rows
from tiny_policies import policy_that_ends

from modeling_dvpo.inference.sampling import Written, seeded
from modeling_dvpo.training.data.arguments import PromptArguments
from modeling_dvpo.training.data.prompts import load_prompts
from modeling_dvpo.training.evaluation.arguments import MonteCarloArguments, NamedSet
from modeling_dvpo.training.evaluation.monte_carlo import (
    MonteCarlo,
    prompts_of,
    spread_states,
)
from modeling_dvpo.training.evaluation.parts import Parts
from modeling_dvpo.training.rollouts.samples import Scorer

NAMED = NamedSet("mc", "prompts.jsonl", "monte_carlo", "in")


def lengths(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer._get_wrapped_function()()


@pytest.fixture(scope="module")
def policy(tokenizer):
    return policy_that_ends(tokenizer)


@pytest.fixture(scope="module")
def prompts(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": "What is " + "2 + " * i + "3?", "level": i} for i in range(4)]
    return prompts_in(write_rows(path, rows), tokenizer, 12)


def prompts_in(path, tokenizer, longest, **settings):
    arguments = PromptArguments(dataset=path, **settings)
    return load_prompts(path, "train", arguments, tokenizer, max_completion_length=longest)


def sampler(policy, tokenizer, score=lengths, *, gamma=1.0, seed=0, **settings):
    defaults = {"num_states": 6, "num_continuations": 3, "max_completion_length": 12, "generation_batch_size": 7}
    args = MonteCarloArguments(policy="policy", prompts=["x"], **{**defaults, **settings})
    return MonteCarlo(policy, tokenizer, Scorer({"score": score}, [], ()), args, gamma=gamma, seed=seed)


class Scripted:
    """Stands in for generation: one answer for whole responses, the rest of it shouted for continuations."""

    def __init__(self, tokenizer, answer, new):
        self.end_ids = [tokenizer.eos_token_id]
        self.answer, self.new, self.calls = answer, new, []

    def __call__(self, rows, limits, *, batch_size):
        whole = not self.calls
        self.calls.append((rows, limits))
        return [Written(list(self.answer if whole else self.new), True) for _ in rows]


def test_states_and_returns_by_hand(policy, tokenizer, prompts, tmp_path):
    """Responses of 6 tokens; continuations add 2, so that t tokens before the state make t + 2, the reward, in all."""
    ids = tokenizer("The answer is 5.", add_special_tokens=False)["input_ids"]
    answer, new = [*(ids * 5)[:5], tokenizer.eos_token_id], [ids[0], tokenizer.eos_token_id]
    texts = []

    def reward(prompts, completions, completion_ids, level, **_):
        texts.extend(zip(completions, completion_ids, strict=True))
        return [float(len(ids)) + 100 * own for ids, own in zip(completion_ids, level, strict=True)]

    monte_carlo = sampler(policy, tokenizer, reward, gamma=0.5)
    monte_carlo.sampler = scripted = Scripted(tokenizer, answer, new)
    found = monte_carlo.sample(NAMED, prompts, tmp_path, {}, "level")

    places = found.prompts
    assert sorted(places[:4]) == [0, 1, 2, 3] and places[4:] == places[:2]
    assert found.actions.tolist() == [6] * 6 and found.states.tolist() == [1] * 6
    assert sorted(found.steps.tolist()) == [0, 1, 2, 3, 4, 5]  # one in each sixth
    assert found.rewards.tolist() == [6.0 + 100 * place for place in places]
    assert found.labels["level"] == [str(place) for place in places]
    for place, step, row, returns in zip(places, found.steps.tolist(), found.rows, found.returns, strict=True):
        prompt = prompts[place].input_ids
        # the state before action `step` is read with that action's token as the row's last, which it does not see
        assert row["input_ids"] == [*prompt, *answer[: step + 1]]
        assert row["completion_mask"] == [False] * (len(prompt) + step) + [True]
        # one step is left after the next action
        assert returns.tolist() == [0.5 * (step + 2 + 100 * place)] * 3
    asked = [(row, limit) for rows, limits in scripted.calls[1:] for row, limit in zip(rows, limits, strict=True)]
    assert len(asked) == 18
    for place, step in zip(places, found.steps.tolist(), strict=True):
        assert asked.count(([*prompts[place].input_ids, *answer[:step]], 12 - step)) == 3
    # rewards see whole responses, decoded in one piece and without the end token
    assert all(text == tokenizer.decode(ids[:-1]) for text, ids in texts)


def test_truth_is_the_policy_s_own(policy, tokenizer, prompts, tmp_path):
    """Where the state is the prompt, continuations are responses like any other: the same mean length."""
    monte_carlo = sampler(
        policy, tokenizer, num_states=4, num_continuations=400, generation_batch_size=1600, max_completion_length=12
    )
    found = monte_carlo._continuations(NAMED, list(prompts), [[], [], [], []], Parts(tmp_path, "continuations", {}))
    with seeded(policy.device, 99):
        other = monte_carlo._complete([prompts[0]] * 400, [[]] * 400)
    direct = torch.tensor([reward for _, reward in other])
    error = (found[0].var() / 400 + direct.var() / 400).sqrt()
    assert direct.var() > 1 and (found[0].mean() - direct.mean()).abs() < 3.5 * error


def test_no_response_is_longer_than_the_limit(policy, tokenizer, prompts, tmp_path):
    found = sampler(policy, tokenizer, num_states=12, num_continuations=20, max_completion_length=5).sample(
        NAMED, prompts, tmp_path, {}, None
    )
    assert found.actions.max() == 5 and found.returns.max() == 5.0
    assert (found.steps < found.actions).all()
    assert (found.returns > found.steps[:, None]).all()  # the prefix counts, and at least one token is new


def test_goes_on_where_it_was_and_draws_the_same(policy, tokenizer, prompts, tmp_path):
    state = torch.random.get_rng_state()
    expected = sampler(policy, tokenizer).sample(NAMED, prompts, tmp_path / "whole", {}, None)
    assert torch.equal(torch.random.get_rng_state(), state)
    monte_carlo, calls = sampler(policy, tokenizer), []
    complete = monte_carlo._complete

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return complete(*arguments)

    monte_carlo._complete = stopping
    with pytest.raises(KeyboardInterrupt):
        monte_carlo.sample(NAMED, prompts, tmp_path / "cut", {}, None)
    names = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert names == ["continuations-00000.safetensors", "responses-00000.safetensors"]
    found = monte_carlo.sample(NAMED, prompts, tmp_path / "cut", {}, None)
    assert torch.equal(found.returns, expected.returns)
    assert found.rows == expected.rows and len(calls) == 3 + 2  # responses, two of three parts, and the lost one again
    other = sampler(policy, tokenizer, seed=1).sample(NAMED, prompts, tmp_path / "other", {}, None)
    assert not torch.equal(other.returns, expected.returns)


def test_chats_are_continued_as_messages(policy, tokenizer, prompts, tmp_path):
    seen = []

    def reward(completions, **_):
        seen.extend(completions)
        return [1.0] * len(completions)

    chats = prompts_in(write_rows(tmp_path / "prompts.jsonl", [{"prompt": "hello"}]), tokenizer, 6, chat=True)
    monte_carlo = sampler(policy, tokenizer, reward, num_states=2, max_completion_length=6)
    monte_carlo.sample(NAMED, chats, tmp_path / "parts", {}, None)
    assert len(seen) == 2 + 6
    assert all(len(turns) == 1 and turns[0]["role"] == "assistant" for turns in seen)


def test_prompts_take_turns():
    chosen = prompts_of(3, 8, seed=0)
    assert sorted(chosen[:3]) == [0, 1, 2] and chosen[3:6] == chosen[:3]
    assert len(set(prompts_of(100, 40, seed=1))) == 40


def test_states_are_spread():
    lengths = [10] * 50 + [1000] * 50
    steps = spread_states(lengths, seed=0)
    positions = sorted(step / length for step, length in zip(steps[50:], lengths[50:], strict=True))
    assert all(0 <= step < length for step, length in zip(steps, lengths, strict=True))
    # each of the hundred parts has one of the hundred states: never far from even, for long responses
    assert max(abs(place / 50 - at) for place, at in enumerate(positions)) < 0.2
    every = spread_states([1000] * 20, seed=3)
    assert sorted(step // 50 for step in every) == list(range(20))
    assert spread_states([1] * 5, seed=0) == [0] * 5
