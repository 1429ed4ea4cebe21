"""Rows with the policy's own tokens: these are read, whatever the text would be cut into."""

import pytest
from reward_rows import actions, text
from transformers import Qwen3Config

from modeling_dvpo.training.errors import RewardDataError

CHAT = [{"role": "user", "content": "What is 2 + 3?"}]


def ids_of(tokenizer, row, *, cut=None):
    """A row's tokens as its text gives them, or with the completion cut before some character."""
    prompt, completion = row["prompt"], row["completion"]
    pieces = [completion] if cut is None else [completion[:cut], completion[cut:]]
    if isinstance(prompt, list):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    parts = [tokenizer(piece, add_special_tokens=False).input_ids for piece in (prompt, *pieces)]
    end = [] if row.get("truncated") else [tokenizer.eos_token_id]
    return {"prompt_ids": parts[0], "completion_ids": sum(parts[1:], []) + end}


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("prompt", ["What is 2 + 3?", CHAT], ids=["text", "chat"])
def test_where_the_text_round_trips_both_ways_give_the_same(load, tiny_tokenizer, prompt, truncated):
    row = text(0.5, prompt=prompt, truncated=truncated)
    plain = load(row, text(1.0))[0]
    sampled = load({**row, **ids_of(tiny_tokenizer, row)}, text(1.0))[0]
    assert sampled == plain and any(plain["completion_mask"])


@pytest.mark.parametrize("prompt", ["What is 2 + 3?", CHAT], ids=["text", "chat"])
def test_where_it_does_not_the_sampled_ones_count(load, tiny_tokenizer, prompt):
    """` The` as ` Th` + `e`, which the tokenizer would never write."""
    row = text(0.5, prompt=prompt)
    ids = ids_of(tiny_tokenizer, row, cut=3)
    assert ids["completion_ids"] != ids_of(tiny_tokenizer, row)["completion_ids"]
    assert ids["prompt_ids"] == ids_of(tiny_tokenizer, row)["prompt_ids"]
    found = load({**row, **ids}, text(1.0))[0]
    assert found["input_ids"] == ids["prompt_ids"] + ids["completion_ids"]
    assert found["completion_mask"] == [False] * len(ids["prompt_ids"]) + [True] * len(ids["completion_ids"])
    assert found["rewards"] == [0.0] * (len(found["input_ids"]) - 1) + [0.5]
    assert actions(found, tiny_tokenizer) == [" The answer is 5.<end>"]
    plain = load(row, text(1.0))[0]
    assert found["prompt_id"] == plain["prompt_id"] and found["input_ids"] != plain["input_ids"]


def test_a_policy_that_ended_at_once(load, tiny_tokenizer):
    """A completion without text, which can be no row by its text, has one action: its end."""
    row = text(0.5, completion="")
    found = load({**row, **ids_of(tiny_tokenizer, row)}, text(1.0))[0]
    assert found["completion_mask"][-2:] == [False, True] and found["input_ids"][-1] == tiny_tokenizer.eos_token_id
    message = [{"role": "assistant", "content": ""}]
    chat = text(0.5, prompt=CHAT, completion=message, prompt_ids=[5], completion_ids=[tiny_tokenizer.eos_token_id])
    assert load(chat, text(1.0))[0]["input_ids"] == [5, tiny_tokenizer.eos_token_id]


def test_rewards_of_tokens_are_one_a_sampled_token(load, tiny_tokenizer):
    row = text(None)
    ids = ids_of(tiny_tokenizer, row, cut=3)
    count = len(ids["completion_ids"])
    assert load({**row, **ids, "token_rewards": [1.0] * count}, text(1.0))[0]["rewards"].count(1.0) == count
    with pytest.raises(RewardDataError, match=f"{count - 1} rewards for {count} tokens"):
        load({**row, **ids, "token_rewards": [1.0] * (count - 1)}, text(1.0))


def test_rows_with_and_without_in_one_set(load, tiny_tokenizer):
    row = text(0.5)
    rows = load({**row, **ids_of(tiny_tokenizer, row, cut=3)}, {**row, "prompt_ids": None}, text(1.0))
    assert len(rows[0]["input_ids"]) > len(rows[1]["input_ids"])
    assert rows[1]["input_ids"] == rows[2]["input_ids"]


def test_other_columns_on_request(load, tiny_tokenizer):
    row = text(0.5)
    ids = ids_of(tiny_tokenizer, row, cut=3)
    plain = load(row, text(1.0))[0]
    stale = {**row, "prompt_ids": [999], "completion_ids": [999]}
    none = {"prompt_ids_column": "none", "completion_ids_column": "none"}
    assert load(stale, text(1.0), **none)[0] == plain
    renamed = {**stale, "read": ids["prompt_ids"], "written": ids["completion_ids"]}
    found = load(renamed, text(1.0), prompt_ids_column="read", completion_ids_column="written")[0]
    assert found["input_ids"] == sum(ids.values(), [])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"prompt_ids": None}, "prompt_ids None"),
        ({"completion_ids": None}, "completion_ids None"),
        ({"completion_ids": []}, r"completion_ids \[\]"),
        ({"completion_ids": 5}, "completion_ids 5"),
        ({"prompt_ids": [5, -1]}, "-1 in prompt_ids; ids are whole numbers from 0 to 319"),
        ({"completion_ids": [320]}, "320 in completion_ids"),
        ({"completion_ids": [5.0]}, "5.0 in completion_ids"),
        ({"completion_ids": [True]}, "True in completion_ids"),
    ],
)
def test_what_are_no_tokens_is_refused(load, tiny_tokenizer, change, found):
    row = text(0.5)
    config = Qwen3Config(vocab_size=320)
    with pytest.raises(RewardDataError, match=rf"1 of 2 rows .* no tokens of this model \(row 1; the first: {found}"):
        load(text(1.0), {**row, **ids_of(tiny_tokenizer, row), **change}, model_config=config)


@pytest.mark.parametrize("as_messages", [False, True])
def test_tokens_of_another_text_are_refused(load, tiny_tokenizer, as_messages):
    """Those of another tokenizer are within the vocabulary, and mean something else."""
    row = text(0.5, prompt=CHAT)
    ids = ids_of(tiny_tokenizer, text(0.5, prompt=CHAT, completion="hello"))
    if as_messages:
        row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    with pytest.raises(RewardDataError, match="do not spell their completion .*'hello', and the completion is ' The"):
        load({**row, **ids}, text(1.0))


def test_step_ends_are_of_texts(load, tiny_tokenizer):
    row = text([0.5], step_ends=[17])
    with pytest.raises(RewardDataError, match="completion_ids besides: their rewards are token_rewards"):
        load({**row, **ids_of(tiny_tokenizer, row)}, text([1.0], step_ends=[17]))


def test_reward_functions_get_the_sampled_tokens(load, tiny_tokenizer):
    """And not a second time as a column, which would be refused."""
    row = text(None)
    ids = ids_of(tiny_tokenizer, row, cut=3)
    rows = load({**row, **ids}, row, reward_funcs=["made_up_rewards:number_of_tokens"])
    lengths = [len(found["completion_ids"]) for found in (ids, ids_of(tiny_tokenizer, row))]
    assert [sum(own["rewards"]) for own in rows] == lengths and lengths[0] > lengths[1]
