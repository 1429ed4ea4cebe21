"""Rows of prompts in memory: what they have, where their numbers come from, and what is refused."""

import pytest
import torch
from scripts import write_rows
from tiny_policies import tiny_policy

from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.reward_sets import load_reward_data
from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.rollouts.generation import RolloutArguments
from modeling_dvpo.training.sampling import sample_reward_set
from modeling_dvpo.training.sampling.reward_rows import seed_of

ARGS = RolloutArguments(num_generations=3, max_completion_length=8, generation_batch_size=6)
CHAT = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(end_bias=4.0)


def length(completion_ids, log_extra, **_):
    log_extra("first", [ids[0] for ids in completion_ids])
    return [len(ids) / 10 for ids in completion_ids]


def never(completions, **_):
    return [None] * len(completions)


def test_forms_of_prompts(policy, tiny_tokenizer):
    """Text, chats and rows; the same prompt gives the same tokens whatever the form, its columns are kept."""
    given = ["hello", CHAT, {"prompt": "hello", "level": 3}]
    rows = sample_reward_set(policy, tiny_tokenizer, given, ARGS, fingerprint="f")
    assert [row["prompt"] for row in rows[::3]] == ["hello", CHAT, "hello"]
    assert rows[0]["prompt_ids"] == rows[6]["prompt_ids"] == tiny_tokenizer("hello").input_ids
    text = tiny_tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert rows[3]["prompt_ids"] == tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert [row.get("level") for row in rows] == [None] * 6 + [3] * 3
    assert {row["policy"] for row in rows} == {"f"} and not any("reward" in row for row in rows)
    assert isinstance(rows[0]["completion"], str) and rows[3]["completion"][0]["role"] == "assistant"


def test_log_probabilities_and_ends(policy, tiny_tokenizer):
    rows = sample_reward_set(policy, tiny_tokenizer, ["hello", "What is 2 + 3?"], ARGS)
    end = tiny_tokenizer.eos_token_id
    for row in rows:
        ids, start = row["completion_ids"], len(row["prompt_ids"])
        assert row["truncated"] == (ids[-1] != end) and end not in ids[:-1] and len(ids) <= 8
        with torch.no_grad():
            logits = policy(torch.tensor([row["prompt_ids"] + ids])).logits[0, start - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
        assert row["logprobs"] == pytest.approx(expected, abs=1e-4)
    assert {row["truncated"] for row in rows} == {True, False}


def test_a_row_hangs_on_its_prompts_place_and_its_number(policy, tiny_tokenizer):
    prompts = ["hello", "What is 2 + 3?", "hello world"]
    rows = sample_reward_set(policy, tiny_tokenizer, prompts, ARGS, seed=5)
    more = sample_reward_set(
        policy, tiny_tokenizer, [*prompts, "a"], RolloutArguments(num_generations=4, max_completion_length=8), seed=5
    )
    kept = [row for i, row in enumerate(more) if i % 4 < 3][:9]
    assert [row["completion_ids"] for row in rows] == [row["completion_ids"] for row in kept]
    assert [row["seed"] for row in rows] == [seed_of(5, i // 3, i % 3) for i in range(9)]
    other = sample_reward_set(policy, tiny_tokenizer, prompts, ARGS, seed=6)
    assert not {row["seed"] for row in rows} & {row["seed"] for row in other}


def test_rewards(policy, tiny_tokenizer):
    """Weighted; each function's own beside the sum, and what it logged."""
    options = {"reward_funcs": [length, never], "reward_weights": [2.0, 1.0]}
    rows = sample_reward_set(policy, tiny_tokenizer, ["hello", "a"], ARGS, **options)
    for row in rows:
        size = len(row["completion_ids"])
        assert (row["reward/length"], row["reward/never"]) == (size / 10, None)
        assert row["reward"] == pytest.approx(size / 5) and row["first"] == row["completion_ids"][0]


def test_columns_that_rows_have_themselves(policy, tiny_tokenizer):
    """Of a reward set that is sampled anew, say: its token rewards would be read instead of the reward."""
    prompt = {"prompt": "hello", "completion": "old", "seed": 1, "token_rewards": [1.0], "step_ends": [3]}
    rows = sample_reward_set(policy, tiny_tokenizer, [prompt], ARGS, reward_funcs=[length])
    assert all(row["completion"] != "old" and row["seed"] != 1 for row in rows)
    assert not rows[0].keys() & {"token_rewards", "step_ends"}

    def logs(completions, log_extra, **_):
        log_extra("group", [0] * len(completions))
        return [0.0] * len(completions)

    with pytest.raises(RewardDataError, match="rows have a column 'group' of their own"):
        sample_reward_set(policy, tiny_tokenizer, ["hello"], ARGS, reward_funcs=[logs])


def test_what_is_no_prompt(policy, tiny_tokenizer):
    with pytest.raises(RewardDataError, match=r"1 of 3 prompts are neither text nor chat messages \(row 1;"):
        sample_reward_set(policy, tiny_tokenizer, ["hello", {"prompt": 5}, "a"], ARGS)
    with pytest.raises(RewardDataError, match=r"1 of 2 prompts are empty \(row 0; the first: ''\)"):
        sample_reward_set(policy, tiny_tokenizer, ["", "a"], ARGS)
    with pytest.raises(RewardDataError, match="end with an assistant message"):
        sample_reward_set(policy, tiny_tokenizer, [[*CHAT, {"role": "assistant", "content": "5"}]], ARGS)


@pytest.mark.parametrize("prompt", ["What is 2 + 3?", CHAT], ids=["text", "chat"])
def test_the_set_is_read_as_it_was_sampled(policy, tiny_tokenizer, tmp_path, prompt):
    """Where its text round-trips, the same tokens come out of the text; where it does not, the sampled ones count."""
    args = RolloutArguments(num_generations=40, max_completion_length=4)
    rows = sample_reward_set(policy, tiny_tokenizer, [prompt], args, reward_funcs=[length])
    sampled = [row["prompt_ids"] + row["completion_ids"] for row in rows]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found, _ = load_reward_data(RewardDataArguments(dataset=path), tiny_tokenizer, model_config=policy.config)
    assert found["input_ids"][:] == sampled
    assert found["completion_mask"][:] == [
        [False] * len(row["prompt_ids"]) + [True] * len(row["completion_ids"]) for row in rows
    ]
    filled = [place for place, row in enumerate(rows) if len(row["completion_ids"]) > 1]
    names = ("prompt", "completion", "reward", "truncated")
    texts = [{name: rows[place][name] for name in names} for place in filled]
    path = write_rows(tmp_path / "texts.jsonl", texts)
    again, _ = load_reward_data(RewardDataArguments(dataset=path), tiny_tokenizer)
    same = [ids == sampled[place] for ids, place in zip(again["input_ids"][:], filled, strict=True)]
    for ids, place, is_same in zip(again["input_ids"][:], filled, same, strict=True):
        text = tiny_tokenizer.decode(sampled[place])
        assert is_same or tiny_tokenizer.decode(ids) == text or "\ufffd" in text or "<" in text
    assert {True, False} == set(same)
