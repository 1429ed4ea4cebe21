import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_dvpo.training.tasks.arithmetic import distinct_problems, exact_reward, process_reward
from modeling_dvpo.training.tasks.imitation import build_policy

# The example is run as `python examples/arithmetic/demo.py`: its modules import each other from that directory.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "arithmetic"))

from demo import by_step, sibling_responses  # noqa: E402
from figure import Fan, plot_fans  # noqa: E402
from policy import build_tokenizer, train_policy  # noqa: E402
from rollouts import (  # noqa: E402
    Rollout,
    State,
    every_state,
    held_out_states,
    monte_carlo_truth,
    read_rollouts,
    returns_of,
    sample_completions,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def untrained(tokenizer):
    torch.manual_seed(0)
    return build_policy(tokenizer, hidden_size=16, num_layers=1).eval()


@pytest.fixture(scope="module")
def prompts():
    return [problem.prompt for problem in distinct_problems(24, seed=0)]


def rollout(tokenizer, prompt, completion, truncated=False):
    prompt_ids, completion_ids = tokenizer([prompt, completion])["input_ids"]
    return Rollout(prompt, tuple(prompt_ids), completion, tuple(completion_ids), truncated)


def test_tokenizer_has_a_token_a_character_and_round_trips(tokenizer, tmp_path):
    text = "3*4=12;7-12=-5;answer -5"
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = loaded(text)["input_ids"]
        assert loaded.convert_ids_to_tokens(ids) == [*"3*4=12;7-12=-5;", "answer ", "-", "5"]
        assert loaded.decode(ids) == text
        assert len({loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id}) == 3
        assert loaded.padding_side == "left"


def test_policy_learns_is_saved_and_depends_on_its_seed_alone(tmp_path):
    def train(name, seed):
        before = torch.random.get_rng_state()
        policy, _ = train_policy(tmp_path / name, seed, num_steps=3, batch_size=4)
        assert torch.equal(torch.random.get_rng_state(), before)
        return policy.state_dict()

    first, again, other = train("first", 0), train("again", 0), train("other", 1)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "first").state_dict()
    assert sum(weight.numel() for weight in first.values()) < 5_000_000
    for name, weight in first.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0)
        torch.testing.assert_close(saved[name], weight, rtol=0, atol=0)
    assert any(not torch.equal(other[name], weight) for name, weight in first.items())


def test_sampling_repeats_keeps_order_and_respects_the_limit(untrained, tokenizer, prompts):
    def sample(seed, limit=9):
        return sample_completions(untrained, tokenizer, prompts, max_new_tokens=limit, seed=seed, batch_size=7)

    first = sample(0)
    assert first == sample(0) != sample(1)
    assert [rollout.prompt for rollout in first] == prompts
    for rollout in first:
        assert rollout.prompt_ids == tuple(tokenizer(rollout.prompt)["input_ids"])
        assert rollout.completion_ids == tuple(tokenizer(rollout.completion)["input_ids"])
        assert tokenizer.eos_token_id not in rollout.completion_ids
        assert len(rollout.completion_ids) == 9 if rollout.truncated else len(rollout.completion_ids) < 9
    # An untrained policy ends sometimes: both kinds have been looked at.
    assert {rollout.truncated for rollout in first} == {True, False}


def test_padding_does_not_change_what_is_sampled(tokenizer):
    """At next to no temperature sampling is greedy, and a short prompt in a long batch says what it says alone."""
    torch.manual_seed(0)
    policy = build_policy(tokenizer, hidden_size=16, num_layers=1).eval()
    for weight in policy.parameters():
        if weight.dim() == 2:  # large, so that a token depends on those before it, and the padding's own row not zero
            torch.nn.init.normal_(weight, std=0.5)
    prompts = ["2+3=", "17+19-8*6="]

    def greedy(prompts):
        return sample_completions(policy, tokenizer, prompts, temperature=1e-4, max_new_tokens=12)

    assert greedy(prompts) == [*greedy(prompts[:1]), *greedy(prompts[1:])]


def test_states_are_spread_over_positions_and_stop_short_of_the_end(tokenizer):
    ended = [rollout(tokenizer, f"{n}+3=", "2+3=5;answer 5") for n in range(50)]  # 8 tokens and the end: 9 actions
    states = held_out_states(ended, 45, seed=0)
    # 45 strata over 9 actions: each position comes exactly 5 times.
    assert np.bincount([state.position for state in states]).tolist() == [5] * 9
    assert states == held_out_states(ended, 45, seed=0) != held_out_states(ended, 45, seed=1)

    cut = rollout(tokenizer, "2+3=", "2+3", truncated=True)
    assert [state.position for state in every_state(cut)] == [0, 1, 2]
    assert [tokenizer.decode(list(state.input_ids)) for state in every_state(cut)] == ["2+3=", "2+3=2", "2+3=2+"]
    assert every_state(ended[0])[-1].input_ids == ended[0].prompt_ids + ended[0].completion_ids
    with pytest.raises(ValueError, match="51 states need as many rollouts, got 50"):
        held_out_states(ended, 51)


def test_monte_carlo_continues_each_state_within_what_its_limit_leaves(untrained, tokenizer, prompts):
    limit = 6
    states = held_out_states(sample_completions(untrained, tokenizer, prompts, max_new_tokens=limit), 6)

    def finish(batch_size):
        return monte_carlo_truth(untrained, tokenizer, states, 5, max_new_tokens=limit, batch_size=batch_size)

    finished = finish(10)
    assert finished == finish(10)
    assert [len(continuations) for continuations in finished] == [5] * 6
    for state, continuations in zip(states, finished, strict=True):
        assert len(set(continuations)) > 1
        for continuation in continuations:
            assert continuation.prompt == state.rollout.prompt
            assert (continuation.prompt_ids + continuation.completion_ids)[: len(state.input_ids)] == state.input_ids
            assert tokenizer.decode(list(continuation.completion_ids)) == continuation.completion
            length = len(continuation.completion_ids)
            assert length == limit if continuation.truncated else length < limit
    assert {rollout.truncated for continuations in finished for rollout in continuations} == {True, False}


class Scripted:
    """Stands in for a policy: always writes the same continuation, whatever the state."""

    def __init__(self, ids):
        self.ids = ids

    def generate(self, input_ids, max_new_tokens, **settings):
        written = torch.tensor([self.ids[:max_new_tokens]]).expand(len(input_ids), -1)
        return torch.cat([input_ids, written], dim=1)


def test_returns_are_those_of_prefix_and_continuation_together(tokenizer):
    policy = Scripted([*tokenizer("3=5;answer 5")["input_ids"], tokenizer.eos_token_id])
    right = State(rollout(tokenizer, "2+3=", "2+4=6;answer 6"), 2)  # "2+" | "3=5;answer 5"
    wrong = State(rollout(tokenizer, "2+9=", "2+9=11;answer 11"), 2)  # another problem: true step, wrong answer
    late = State(rollout(tokenizer, "2+3=", "2+3=5;answer 5"), 7)  # an answer too early, then the right one
    finished = monte_carlo_truth(policy, tokenizer, [right, wrong, late], 3)
    assert [continuations[0].completion for continuations in finished] == [
        "2+3=5;answer 5",
        "2+3=5;answer 5",
        "2+3=5;answer 3=5;answer 5",
    ]
    np.testing.assert_array_equal(returns_of(finished, exact_reward), [[1.0] * 3, [0.0] * 3, [1.0] * 3])
    np.testing.assert_array_equal(returns_of(finished, process_reward), [[1.0] * 3, [0.0] * 3, [0.0] * 3])


def test_states_batched_together_keep_their_own_limits(tokenizer):
    policy = Scripted([*tokenizer("3=5;answer 5")["input_ids"], tokenizer.eos_token_id])
    near = State(rollout(tokenizer, "2+3=", "2+3=5;answer 5"), 4)
    far = State(rollout(tokenizer, "12+3=", "12+3=15;answer 15"), 3)
    assert len(near.input_ids) == len(far.input_ids)
    ((first,), (second,)) = monte_carlo_truth(policy, tokenizer, [near, far], 1, max_new_tokens=6)
    assert (first.completion, first.truncated) == ("2+3=3=", True)  # 4 tokens of 6 were spent
    assert (second.completion, second.truncated) == ("12+3=5", True)  # and here 3


def test_rollouts_are_read_from_what_was_sampled(tokenizer, tmp_path):
    ended, cut = rollout(tokenizer, "2+3=", "2+3=5;answer 5"), rollout(tokenizer, "9-4=", "9-4", truncated=True)
    rows = [
        {"prompt": one.prompt, "completion": one.completion, "reward": reward, "truncated": one.truncated,
         "prompt_ids": list(one.prompt_ids),
         "completion_ids": [*one.completion_ids, *([] if one.truncated else [tokenizer.eos_token_id])]}
        for one, reward in ((ended, 1.0), (cut, 0.0))
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rollouts(tmp_path / "rows.jsonl") == [(ended, 1.0), (cut, 0.0)]


def test_siblings_are_a_right_response_and_two_different_wrong_ones(tokenizer):
    written = [("1+2+3=", "1+2=3;3+3=6;answer 6", 1.0), ("9-4=", "9-4=5;answer 5", 1.0)]
    written += [("1+2+3+1=", text, float(text.endswith("7"))) for text in (
        "1+2=4;4+3=7;7+1=8;answer 8", "1+2=3;3+3=6;6+1=7;answer 7", "1+2=4;4+3=7;7+1=8;answer 8",
        "1+2=3;3+3=5;5+1=6;answer 6",
    )]  # fmt: skip
    found = sibling_responses([(rollout(tokenizer, prompt, text), reward) for prompt, text, reward in written])
    assert [(kind, one.completion[-1]) for kind, one in found] == [("right", "7"), ("wrong", "8"), ("wrong", "6")]
    with pytest.raises(RuntimeError, match="No held-out prompt has a right response and two wrong ones"):
        sibling_responses([(rollout(tokenizer, *pair), reward) for *pair, reward in written[:2]])


def test_a_metric_of_two_runs_by_step(tmp_path):
    for name, shift in (("anew", 0.0), ("continued", 0.25)):
        (tmp_path / "second" / name).mkdir(parents=True)
        lines = [{"step": 0, "m": shift}, {"step": 5, "loss": 1.0}, {"step": 10, "m": shift + 0.5}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "second" / name / "metrics.jsonl").write_text(text)
    table = by_step(tmp_path, "second", ("anew", "continued"), "start", "m").splitlines()
    assert table[0] == "| start     |      0 |     10 |" and table[3] == "| continued |  0.250 |  0.750 |"


def test_fans_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    fans = [Fan(f"{n} tokens", ["7"] * n, rng.random((n, 20)), rng.random((n, 8))) for n in (4, 9)]
    path = plot_fans(fans, tmp_path / "figures" / "fans.png", title="Fans")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"got 4 tokens, quantiles \(9, 20\)"):
        Fan("", ["7"] * 4, fans[1].quantiles, fans[0].returns)
