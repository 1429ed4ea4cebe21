"""Rows without rewards: what reward functions are given, and where their scores go."""

import pytest
from reward_rows import actions

from modeling_dvpo.training.data.row_scores import score_rows
from modeling_dvpo.training.data.rows import Row
from modeling_dvpo.training.errors import RewardDataError


def length(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


def right(completions, answer, **_):
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


def nothing(prompts, **_):
    return [None] * len(prompts)


def sentinel(prompts, **_):
    return [-100.0] * len(prompts)


def huge(prompts, **_):
    return [1e39] * len(prompts)


@pytest.fixture(autouse=True)
def functions(monkeypatch):
    functions = {"length": length, "right": right, "nothing": nothing, "sentinel": sentinel, "huge": huge}
    monkeypatch.setattr("modeling_dvpo.training.data.row_scores.load_reward_function", functions.get)


def test_a_row_gets_the_weighted_sum_on_its_last_token(load):
    row = {"prompt": "2 + 3?", "completion": " 5"}
    rows = load(
        {**row, "answer": "5"},
        {**row, "answer": "6"},
        {**row, "completion": " 6 no", "answer": "6"},
        reward_funcs=["right", "length"],
        reward_weights=[10.0, 1.0],
        reward_batch_size=2,
    )
    counts = [sum(row["completion_mask"]) for row in rows]
    assert [row["rewards"][-1] for row in rows] == [10.0 + counts[0], counts[1], 10.0 + counts[2]]
    assert all(not any(row["rewards"][:-1]) for row in rows)


def test_dropped_rows_and_pairs_stay_aligned(load, tiny_tokenizer):
    pairs = [
        {"prompt": "2?", "chosen": " hello" * 40, "rejected": " 6", "answer": "?"},
        {"prompt": "2?", "chosen": " 7 7", "rejected": " 8 8 8", "answer": "8"},
    ]
    rows = load(*pairs, reward_funcs=["right", "length"], max_length=20, drop_long_rows=True)
    assert [actions(row, tiny_tokenizer)[0] for row in rows] == [" 6<end>", " 7 7<end>", " 8 8 8<end>"]
    # `right` saw the row's own text: only " 8 8 8" has its answer in it
    assert [row["rewards"][-1] - sum(row["completion_mask"]) for row in rows] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", r"2 of 2 rows .* were scored by no reward function \(rows 0, 1; "),
        ("sentinel", "2 of 2 rows .* have a return of exactly -100"),
        ("huge", r"rewards of row 0 is 1e\+39"),
    ],
)
def test_scores_that_are_no_reward(load, function, message):
    with pytest.raises(RewardDataError, match=message):
        load(*[{"prompt": "a", "completion": "b"}] * 2, reward_funcs=[function])


def test_chats_arrive_as_messages():
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
    rows = [Row(prompt=[{**user, "name": None}], completion="yo"), Row(messages=[user, assistant, user, assistant])]
    seen = {}

    def look(prompts, completions, **_):
        seen.update(prompts=prompts, completions=completions)
        return [0.0, None]

    assert score_rows(rows, [[7], [8, 9]], [look], weights=[], row_ids=[0, 1]) == [0.0, None]
    # Arrow's empty keys are gone, a text completion is a message, a conversation splits at its first answer.
    assert seen["prompts"] == [[user], [user]]
    assert seen["completions"] == [[assistant], [assistant, user, assistant]]
