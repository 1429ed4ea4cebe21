"""Reward sets in every form they may come in, and every error by its message."""

import json
import math
import sys
import types
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import HfArgumentParser, Qwen3Config

from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.packing import RewardBatchSampler, RewardCollator, require_pad_token
from modeling_dvpo.training.data.reward_sets import PROBLEMS, RewardDataError, load_reward_data

GENERATION_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<end>{% endgeneration %}{% else %}{{ message.content }}<end>{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
TURNS = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello world"},
    {"role": "tool", "content": "5"},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "The answer is 5."},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read by path and time; tests must not meet each other's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def load(tiny_tokenizer, tmp_path):
    """Write rows to a JSONL file and load them, with two rewards so that no warning is due."""

    def load(*rows, tokenizer=tiny_tokenizer, model_config=None, seed=0, **arguments):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return load_reward_data(
                RewardDataArguments(dataset=str(path), **arguments), tokenizer, model_config=model_config, seed=seed
            )

    return load


def text(reward=1.0, **more):
    return {"prompt": "What is 2 + 3?", "completion": " The answer is 5.", "reward": reward, **more}


def actions(row, tokenizer):
    """The text of each run of action tokens."""
    runs, before = [], False
    for token, action in zip(row["input_ids"], row["completion_mask"], strict=True):
        if action:
            runs[len(runs) - 1 :] = [runs[-1] + [token]] if before else [*runs[-1:], [token]]
        before = action
    return [tokenizer.decode(run) for run in runs]


class TestText:
    def test_layout(self, load, tiny_tokenizer):
        rows, held_out = load(text(0.5), text(1.0))
        prompt = tiny_tokenizer("What is 2 + 3?", add_special_tokens=False).input_ids
        completion = tiny_tokenizer(" The answer is 5.", add_special_tokens=False).input_ids
        row = rows[0]
        assert row["input_ids"] == prompt + completion + [tiny_tokenizer.eos_token_id]
        assert row["completion_mask"] == [False] * len(prompt) + [True] * (len(completion) + 1)
        assert row["rewards"] == [0.0] * (len(row["input_ids"]) - 1) + [0.5]
        assert row["length"] == len(row["input_ids"])
        assert (row["row_id"], row["truncated"]) == (0, False)
        assert held_out is None

    def test_the_boundary_is_where_the_policy_had_it(self, load, tiny_tokenizer):
        """Tokenised together, the space and `The` would merge over the boundary."""
        rows, _ = load(text(0.5, prompt="2 + 3? ", completion="The answer"), text())
        together = tiny_tokenizer("2 + 3? The answer").input_ids
        assert rows[0]["input_ids"][:-1] != together
        assert actions(rows[0], tiny_tokenizer) == ["The answer<end>"]

    def test_end_token_only_where_the_completion_ended(self, load, tiny_tokenizer):
        end = tiny_tokenizer.eos_token_id
        rows, _ = load(
            text(0.0), text(1.0, truncated=True), text(completion=" The answer is 5.<end>"), text(truncated=False)
        )
        assert [row["input_ids"][-1] == end for row in rows] == [True, False, True, True]
        assert rows["truncated"][:] == [False, True, False, False]
        assert rows[2]["input_ids"] == rows[0]["input_ids"]  # not a second end token
        without, _ = load(text(0.0), text(), append_eos=False)
        assert without[0]["input_ids"] == rows[0]["input_ids"][:-1]

    def test_begin_token_by_the_tokenizers_habit(self, load, tiny_tokenizer):
        from tokenizers.processors import TemplateProcessing

        begin = tiny_tokenizer.bos_token_id
        plain, _ = load(text(0.0), text())
        tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A <end>", special_tokens=[("<s>", begin), ("<end>", tiny_tokenizer.eos_token_id)]
        )
        rows, _ = load(text(0.0), text(prompt="<s>What is 2 + 3?"))
        # One begin token, none doubled, and no end token between prompt and completion.
        assert rows[0]["input_ids"] == rows[1]["input_ids"] == [begin] + plain[0]["input_ids"]

    def test_an_empty_prompt_becomes_the_begin_token(self, load, tiny_tokenizer):
        rows, _ = load(text(0.0, prompt=""), text(1.0, prompt=None))
        assert rows[0]["input_ids"][0] == tiny_tokenizer.bos_token_id
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        tiny_tokenizer.bos_token = None
        with pytest.raises(RewardDataError, match=r"2 of 2 rows of .* start with an action token .*BOS"):
            load(text(0.0, prompt=""), text(prompt=None))

    def test_a_boolean_counts_as_a_number(self, load):
        rows, _ = load(text(True), text(False), text(0.5))
        assert [row["rewards"][-1] for row in rows] == [1.0, 0.0, 0.5]

    def test_mapped_columns_and_subset(self, load):
        row = {"question": "What?", "answer": " 5", "score": 1, "cut": True, "domain": "sums", "reward": "of no use"}
        rows, _ = load(
            row,
            {**row, "score": 0, "domain": None},
            prompt_column="question",
            completion_column="answer",
            reward_column="score",
            truncated_column="cut",
            subset_column="domain",
        )
        assert rows["subset"][:] == ["sums", None]
        assert rows["truncated"][:] == [True, True]
        assert [row["rewards"][-1] for row in rows] == [1.0, 0.0]


class TestChat:
    def test_only_the_completions_answers_are_actions(self, load, tiny_tokenizer):
        chat = {"prompt": TURNS[:4], "completion": TURNS[4:], "reward": 1.0}
        as_text = {**chat, "completion": TURNS[4]["content"], "reward": 0.0}
        rows, _ = load(chat, as_text)
        assert actions(rows[0], tiny_tokenizer) == ["The answer is 5.<end>"]
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        assert rows[0]["rewards"][-1] == 1.0 and rows[0]["completion_mask"][-1]

    @pytest.mark.parametrize("marked", [False, True])
    def test_every_answer_of_a_conversation_is_an_action(self, load, tiny_tokenizer, marked):
        if marked:
            tiny_tokenizer.chat_template = GENERATION_TEMPLATE
        rows, _ = load({"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0})
        assert actions(rows[0], tiny_tokenizer) == ["hello world<end>", "The answer is 5.<end>"]
        assert actions(rows[1], tiny_tokenizer) == ["hello world<end>"]
        assert sum(map(bool, rows[0]["rewards"])) == 1 and rows[0]["rewards"][-1] == 1.0
        # What the template writes after the last end token is dropped.
        rendered = tiny_tokenizer.apply_chat_template(TURNS, tokenize=False)
        assert tiny_tokenizer.decode(rows[0]["input_ids"]) == rendered.rstrip("\n")

    def test_marked_and_found_turns_agree(self, load, tiny_tokenizer):
        conversations = [{"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0}]
        found, _ = load(*conversations)
        tiny_tokenizer.chat_template = GENERATION_TEMPLATE
        marked, _ = load(*conversations)
        assert found[:] == marked[:]

    @pytest.mark.parametrize("marked", [False, True])
    def test_a_truncated_answer_has_no_end_token(self, load, tiny_tokenizer, marked):
        if marked:
            tiny_tokenizer.chat_template = GENERATION_TEMPLATE
        row = {"prompt": TURNS[:1], "completion": "hello", "reward": 1.0, "truncated": True}
        rows, _ = load(row, {**row, "reward": 0.0, "truncated": False})
        assert actions(rows[0], tiny_tokenizer) == ["hello"]
        assert actions(rows[1], tiny_tokenizer) == ["hello<end>"]

    def test_a_template_that_rewrites_history_is_refused(self, load, tiny_tokenizer):
        tiny_tokenizer.chat_template = (
            "{% for message in messages %}<s>{{ message.role }}: "
            "{% if message.role != 'assistant' or loop.last %}{{ message.content }}{% endif %}<end>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
        with pytest.raises(
            RewardDataError, match=r"1 of 2 rows .* chat template from turn to turn, .* message 1 is rendered diff"
        ):
            load({"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0})

    def test_chats_need_a_template(self, load, tiny_tokenizer):
        tiny_tokenizer.chat_template = None
        with pytest.raises(DataError, match="The rows are chats, and the tokenizer has no chat template"):
            load({"messages": TURNS, "reward": 1.0})

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"messages": TURNS[:1]}, "no assistant turn to learn from .* roles user"),
            ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "have an empty completion"),
            ({"messages": "hello"}, "wrong kind .* 'hello' is not a list of messages"),
            ({"messages": [{"content": "hello"}]}, "wrong kind"),
            ({"prompt": TURNS[:1], "completion": ""}, "have an empty completion"),
            ({"prompt": "hello", "completion": TURNS[1:2]}, "wrong kind .* a text prompt with a list as completion"),
        ],
    )
    def test_refusals(self, load, row, message):
        with pytest.raises(RewardDataError, match=message):
            load({**row, "reward": 1.0})


class TestStepsAndTokens:
    completion = " First add. The answer is 5."

    def steps(self, rewards, ends, **more):
        return text(rewards, completion=self.completion, step_ends=ends, **more)

    def test_each_reward_on_the_token_that_ends_its_step(self, load, tiny_tokenizer):
        rows, _ = load(self.steps([0.25, 2.0], [11, len(self.completion)]), self.steps([1.0, 1.0], [11, 28]))
        row = rows[0]
        placed = [place for place, reward in enumerate(row["rewards"]) if reward]
        assert tiny_tokenizer.decode(row["input_ids"][: placed[0] + 1]).endswith("First add.")
        assert [row["rewards"][place] for place in placed] == [0.25, 2.0]
        assert placed[1] == len(row["input_ids"]) - 1  # on the end token, as a single reward would be

    def test_one_step_is_a_single_reward(self, load):
        rows, _ = load(
            self.steps([0.5], [len(self.completion)]), text(1.0, completion=self.completion, step_ends=None)
        )
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        assert [reward * 2 for reward in rows[0]["rewards"]] == rows[1]["rewards"]

    def test_steps_inside_one_token_add_up(self, load, tiny_tokenizer):
        places = [start for start, _ in tiny_tokenizer(" answer", return_offsets_mapping=True).offset_mapping]
        assert places == [0]  # one token
        rows, _ = load(
            text([0.25, 0.5, 1.0], completion=" answer is", step_ends=[3, 5, 10]),
            text([1.0], completion=" answer is", step_ends=[10]),
        )
        assert [reward for reward in rows[0]["rewards"] if reward] == [0.75, 1.0]

    def test_characters_of_several_tokens_count_once(self, load, tiny_tokenizer):
        """A byte-level tokenizer cuts "→" in three; offsets are in characters."""
        rows, _ = load(
            text([0.25, 1.0], completion="a→b", step_ends=[2, 3]), text([1.0], completion="a", step_ends=[1])
        )
        row = rows[0]
        first = next(place for place, reward in enumerate(row["rewards"]) if reward)
        assert tiny_tokenizer.decode(row["input_ids"][first - 3 : first + 1]) == "a→"

    def test_chat_steps_count_from_the_answers_content(self, load, tiny_tokenizer):
        chat = {"prompt": TURNS[:1], "completion": self.completion.strip(), "step_ends": [10, 27]}
        rows, _ = load({**chat, "reward": [0.25, 2.0]}, {**chat, "reward": [1, 1]})
        row = rows[0]
        placed = [place for place, reward in enumerate(row["rewards"]) if reward]
        assert tiny_tokenizer.decode(row["input_ids"][: placed[0] + 1]).endswith("assistant: First add.")
        assert placed[1] == len(row["input_ids"]) - 1

    @pytest.mark.parametrize(
        ("reward", "ends", "message"),
        [
            ([1.0, 2.0], [28], "2 rewards and 1 step ends"),
            ([1.0, 2.0], [11, 27], "the last is 27, the completion has 28 characters"),
            ([1.0, 2.0], [28, 28], "is not increasing"),
            ([1.0, 2.0], [0, 28], "is not increasing from above 0"),
            ([1.0], None, "a list of rewards without step ends"),
            (1.0, [28], "step ends with a single reward, 1.0"),
            ([], [], "0 rewards and 0 step ends"),
        ],
    )
    def test_step_ends_that_do_not_match(self, load, reward, ends, message):
        with pytest.raises(RewardDataError, match=rf"1 of 1 rows .* step ends that do not match \(row 0; .*{message}"):
            load(self.steps(reward, ends))

    def test_steps_of_a_conversation_with_two_answers_are_refused(self, load):
        with pytest.raises(RewardDataError, match="exactly one assistant turn"):
            load({"messages": TURNS, "reward": [1.0], "step_ends": [16]})

    def test_token_rewards(self, load, tiny_tokenizer):
        count = len(tiny_tokenizer(" The answer is 5.").input_ids)
        rewards = [float(place) for place in range(count)]
        rows, _ = load(text(token_rewards=rewards), text(token_rewards=[*rewards, 9.0]))
        before = rows[0]["length"] - count - 1
        assert rows[0]["rewards"] == [0.0] * before + rewards + [0.0]
        assert rows[1]["rewards"] == [0.0] * before + rewards + [9.0]
        with pytest.raises(
            RewardDataError, match=rf"token rewards that do not match .* 1 rewards for {count + 1} tok"
        ):
            load(text(token_rewards=[1.0]))


class TestPreferencePairs:
    pair = {"prompt": "2 + 3?", "chosen": " 5", "rejected": " 6", "chosen_score": 1.0, "rejected_score": -1.0}

    def test_two_rows_a_pair(self, load, tiny_tokenizer):
        rows, _ = load(self.pair, self.pair)
        assert rows["row_id"][:] == [0, 0, 1, 1]
        assert [actions(row, tiny_tokenizer) for row in rows][:2] == [[" 5<end>"], [" 6<end>"]]
        assert [row["rewards"][-1] for row in rows] == [1.0, -1.0, 1.0, -1.0]
        assert len(set(rows["prompt_id"])) == 1

    def test_whole_conversations(self, load, tiny_tokenizer):
        """Some sets give the prompt as text and, once more, inside `chosen` and `rejected`."""
        other = [TURNS[0], {"role": "assistant", "content": "world"}]
        rows, _ = load({**self.pair, "prompt": "hello", "chosen": TURNS[:2], "rejected": other})
        assert [actions(row, tiny_tokenizer) for row in rows] == [["hello world<end>"], ["world<end>"]]

    def test_a_side_without_a_score(self, load):
        with pytest.raises(RewardDataError, match="No column 'chosen_score' .*set `chosen_score_column=score_chosen`"):
            load({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 0})
        with pytest.raises(RewardDataError, match=r"1 of 4 rows .* have no reward \(row 1; "):
            load(self.pair, {**self.pair, "rejected_score": None})

    def test_texts_that_hold_their_prompt_are_refused(self, load):
        """With no prompt column every token of both texts, question included, would count as an action."""
        pair = {name: value for name, value in self.pair.items() if name != "prompt"}
        with pytest.raises(RewardDataError, match="No column 'prompt' .what both sides answer"):
            load(pair)


class TestRewardFunctions:
    @pytest.fixture(autouse=True)
    def module(self, monkeypatch):
        module = types.ModuleType("some_rewards")
        module.length = lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids]
        module.right = lambda completions, answer, **_: [
            float(a in c) for c, a in zip(completions, answer, strict=True)
        ]
        module.nothing = lambda prompts, **_: [None] * len(prompts)
        module.sentinel = lambda prompts, **_: [-100.0] * len(prompts)
        monkeypatch.setitem(sys.modules, "some_rewards", module)

    def test_score_rows_without_rewards(self, load):
        row = {"prompt": "2 + 3?", "completion": " 5"}
        rows, _ = load(
            {**row, "answer": "5"},
            {**row, "answer": "6"},
            {**row, "completion": " 6 no", "answer": "6"},
            reward_funcs=["some_rewards:right", "some_rewards:length"],
            reward_weights=[10.0, 1.0],
            reward_batch_size=2,
        )
        counts = [sum(row["completion_mask"]) for row in rows]
        assert [row["rewards"][-1] for row in rows] == [10.0 + counts[0], counts[1], 10.0 + counts[2]]
        assert all(not any(row["rewards"][:-1]) for row in rows)

    def test_dropped_rows_and_pairs_stay_aligned(self, load, tiny_tokenizer):
        pairs = [
            {"prompt": "2?", "chosen": " hello" * 40, "rejected": " 6"},
            {"prompt": "2?", "chosen": " 7 7", "rejected": " 8 8 8"},
        ]
        rows, _ = load(*pairs, reward_funcs=["some_rewards:length"], max_length=20, drop_long_rows=True)
        assert [actions(row, tiny_tokenizer)[0] for row in rows] == [" 6<end>", " 7 7<end>", " 8 8 8<end>"]
        assert [row["rewards"][-1] for row in rows] == [sum(row["completion_mask"]) for row in rows]

    def test_rows_nobody_scored(self, load):
        with pytest.raises(RewardDataError, match=r"1 of 1 rows .* were scored by no reward function \(row 0; "):
            load({"prompt": "a", "completion": "b"}, reward_funcs=["some_rewards:nothing"])

    def test_a_score_of_minus_100(self, load):
        with pytest.raises(RewardDataError, match="2 of 2 rows .* a return of exactly -100"):
            load(*[{"prompt": "a", "completion": "b"}] * 2, reward_funcs=["some_rewards:sentinel"])


class TestSources:
    rows = [text(0.0), text(1.0), text(0.5, prompt="Another?")]

    def load(self, name, tokenizer, **arguments):
        return load_reward_data(RewardDataArguments(dataset=str(name), **arguments), tokenizer)

    def test_every_file_gives_the_same_rows(self, tiny_tokenizer, tmp_path):
        table = Dataset.from_list(self.rows)
        table.to_json(tmp_path / "a.jsonl")
        table.to_parquet(tmp_path / "a.parquet")
        table.to_csv(tmp_path / "a.csv")
        (tmp_path / "a.json").write_text(json.dumps(self.rows))
        table.save_to_disk(tmp_path / "saved")
        DatasetDict({"train": table, "test": table.select([0, 2])}).save_to_disk(tmp_path / "splits")
        (tmp_path / "folder").mkdir()
        table.to_parquet(tmp_path / "folder" / "train.parquet")
        expected = self.load(tmp_path / "a.jsonl", tiny_tokenizer)[0][:]
        for name in ("a.json", "a.parquet", "a.csv", "saved", "splits", "folder"):
            assert self.load(tmp_path / name, tiny_tokenizer)[0][:] == expected, name

    def test_a_csv_file_keeps_its_text(self, tiny_tokenizer, tmp_path):
        (tmp_path / "a.csv").write_text("prompt,completion,reward\n1,007,1\nNA,null,0\n")
        rows, _ = self.load(tmp_path / "a.csv", tiny_tokenizer)
        assert [actions(row, tiny_tokenizer) for row in rows] == [["007<end>"], ["null<end>"]]
        (tmp_path / "b.csv").write_text("prompt,completion,reward\na,b,\n")
        with pytest.raises(RewardDataError, match="1 of 1 rows .* have no reward"):
            self.load(tmp_path / "b.csv", tiny_tokenizer)

    def test_a_second_split_is_held_out(self, tiny_tokenizer, tmp_path, caplog):
        table = Dataset.from_list(self.rows)
        DatasetDict({"train": table.select([0, 1]), "test": table.select([1, 2])}).save_to_disk(tmp_path / "splits")
        train, held_out = self.load(tmp_path / "splits", tiny_tokenizer, eval_split="test")
        assert (len(train), len(held_out)) == (2, 2)
        assert "1 of 2 held-out rows have a prompt that is also trained on" in caplog.text

    def test_another_file_is_held_out(self, tiny_tokenizer, tmp_path):
        Dataset.from_list(self.rows).to_json(tmp_path / "a.jsonl")
        Dataset.from_list([text(0.0, prompt="New?"), text(prompt="New?")]).to_json(tmp_path / "b.jsonl")
        train, held_out = self.load(tmp_path / "a.jsonl", tiny_tokenizer, eval_dataset=str(tmp_path / "b.jsonl"))
        assert (len(train), len(held_out)) == (3, 2)

    def test_a_prompt_is_never_on_both_sides(self, load):
        rows = [text(i % 2, prompt=f"Prompt {i // 4}") for i in range(40)]
        train, held_out = load(*rows, eval_fraction=0.25, seed=1)
        assert not set(train["prompt_id"]) & set(held_out["prompt_id"])
        assert len(held_out) == 12 and len(train) == 28  # whole prompts of 4 rows, until 10 are reached
        again = load(*rows, eval_fraction=0.25, seed=1)[1]
        other = load(*rows, eval_fraction=0.25, seed=2)[1]
        assert again["row_id"][:] == held_out["row_id"][:] != other["row_id"][:]

    def test_one_prompt_cannot_be_split(self, load):
        with pytest.raises(RewardDataError, match="All 2 rows have the same prompt"):
            load(text(0.0), text(), eval_fraction=0.5)

    def test_refusals(self, tiny_tokenizer, tmp_path):
        def refused(name, message, content=None, **arguments):
            if content is not None:
                (tmp_path / name).write_text(content)
            with pytest.raises(RewardDataError, match=message):
                self.load(tmp_path / name, tiny_tokenizer, **arguments)

        refused("none.jsonl", "There is no file")
        refused("empty.jsonl", "is empty: a set needs at least one row", "\n")
        refused("empty.csv", "has no rows", "prompt,completion,reward\n")
        refused("rows.txt", "is not one of .jsonl, .json, .parquet, .csv", "hello")
        refused("broken.jsonl", "cannot be read", '{"prompt": ')
        DatasetDict({"test": Dataset.from_list(self.rows)}).save_to_disk(tmp_path / "splits")
        refused("splits", "has no split 'train': it has test")


class TestRefusals:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"promt": "a", "completion": "b", "reward": 1}, "No column 'prompt' .*set `prompt_column=promt` if"),
            (
                {"prompt": "a", "completions": "b", "reward": 1},
                "No column 'completion'.*`completion_column=completion",
            ),
            ({"prompt": "a", "completion": "b", "score": 1}, "No column 'reward' .*name yours with `reward_column`"),
        ],
    )
    def test_missing_columns(self, load, row, message):
        with pytest.raises(RewardDataError, match=message):
            load(row)

    def test_missing_subset(self, load):
        with pytest.raises(RewardDataError, match="No column 'domian' .*set `subset_column=domain`"):
            load(text(domain="sums"), subset_column="domian")

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"completion": ""}, "have an empty completion"),
            ({"completion": None}, "have an empty completion"),
            ({"reward": None}, "have no reward"),
            ({"reward": math.nan}, "have a reward that is NaN or infinite"),
            ({"reward": math.inf}, "have a reward that is NaN or infinite"),
            ({"reward": "good"}, "have a reward that is not a number .*'good', a str"),
            ({"reward": -100}, "have a return of exactly -100"),
        ],
    )
    def test_bad_rows_are_counted_and_named(self, load, bad, message):
        with pytest.raises(RewardDataError, match=rf"2 of 5 rows of .*rows.jsonl' .*{message}.*") as error:
            load(text(0.0), text(**bad), text(), text(), text(**bad))
        assert "(rows 1, 4; the first: " in str(error.value)

    def test_a_return_of_minus_100_may_be_a_sum(self, load, tiny_tokenizer):
        with pytest.raises(RewardDataError, match="exactly -100"):
            load(text([-40.0, -60.0], step_ends=[4, 17]))

    def test_other_problems_are_mentioned(self, load):
        with pytest.raises(RewardDataError, match="1 of 3 rows .* empty completion .* beside these: 1"):
            load(text(0.0), text(completion=""), text(None))

    def test_long_rows_are_counted_and_can_be_dropped(self, load, caplog):
        rows = [text(0.0), text(completion=" hello" * 50), text(1.0), text(completion=" hello" * 60)]
        with pytest.raises(
            RewardDataError, match=r"2 of 4 rows .* longer than the context of 30 .*\(rows 1, 3; .*drop"
        ):
            load(*rows, max_length=30)
        kept, _ = load(*rows, max_length=30, drop_long_rows=True)
        assert kept["row_id"][:] == [0, 2]
        assert "Dropped 2 of 4 rows" in caplog.text
        with pytest.raises(RewardDataError, match="4 of 4 rows"):
            load(*rows, max_length=3, drop_long_rows=True)

    def test_the_models_context_is_the_limit(self, load):
        config = Qwen3Config(max_position_embeddings=16, vocab_size=320)
        with pytest.raises(RewardDataError, match="1 of 2 rows .* context of 16 tokens"):
            load(text(0.0), text(completion=" hello" * 50), model_config=config)

    def test_a_tokenizer_of_another_model(self, load):
        config = Qwen3Config(vocab_size=100)
        with pytest.raises(RewardDataError, match="does not fit the model: row 0 has token id .* ends at 99"):
            load(text(0.0), text(), model_config=config)
        load(text(0.0), text(), model_config=Qwen3Config(vocab_size=330))

    def test_truncated_as_text(self, load):
        """`bool("false")` is true: every row would lose its end token."""
        with pytest.raises(RewardDataError, match="Column 'truncated' holds text .'false'"):
            load(text(0.0, truncated="false"), text())

    def test_no_end_token(self, load, tiny_tokenizer):
        tiny_tokenizer.eos_token = None
        with pytest.raises(DataError, match="no end token to append"):
            load(text(0.0), text())
        load(text(0.0), text(), append_eos=False)

    def test_no_pad_token(self, tiny_tokenizer):
        assert require_pad_token(tiny_tokenizer) == tiny_tokenizer.pad_token_id
        tiny_tokenizer.pad_token = None
        with pytest.raises(RewardDataError, match="no pad token"):
            require_pad_token(tiny_tokenizer)

    def test_equal_rewards_are_a_warning(self, load):
        with pytest.raises(UserWarning, match="All 3 rows of .* have the same total reward, 0.5"):
            load(text(0.5), text(0.5), text(0.5))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"eval_fraction": 1.0}, "eval_fraction is 1.0"),
            ({"eval_fraction": 0.1, "eval_split": "test"}, "not both"),
            ({"reward_funcs": ["a:b"], "reward_weights": [1.0, 2.0]}, "2 reward_weights for 1 reward_funcs"),
            ({"max_length": 1}, "max_length is 1"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(RewardDataError, match=message):
            RewardDataArguments(dataset="x", **arguments)


def test_arguments_parse_from_the_command_line():
    (arguments,) = HfArgumentParser(RewardDataArguments).parse_args_into_dataclasses(
        [
            "--dataset",
            "rows.jsonl",
            "--reward_funcs",
            "a:b",
            "c:d",
            "--reward_weights",
            "1",
            "0.5",
            "--append_eos",
            "false",
        ]
    )
    assert arguments.reward_funcs == ["a:b", "c:d"] and arguments.reward_weights == [1.0, 0.5]
    assert arguments.append_eos is False and arguments.eval_dataset is None


def test_several_workers_give_the_same_rows(load):
    rows = [text(i % 2, prompt=f"Prompt {i}") for i in range(8)]
    assert load(*rows)[0][:] == load(*rows, num_workers=2)[0][:]


def test_rows_go_through_sampler_and_collator(load, tiny_tokenizer):
    rows, _ = load(*[text(i % 2, prompt=f"Prompt {i}" * (1 + i % 3)) for i in range(7)])
    sampler = RewardBatchSampler(rows["length"][:], rows_per_step=4, max_tokens=60)
    total = 0.0
    for plan in sampler.steps():
        for batch in plan:
            tensors = RewardCollator(packing=True)([rows[place] for place in batch.rows], filler=batch.filler)
            assert tensors["input_ids"].shape[1] <= 60
            assert not (tensors["completion_mask"] & (tensors["position_ids"] == 0)).any()
            assert torch.all(tensors["completion_mask"] | (tensors["rewards"] == 0))
            total += tensors["rewards"].sum().item()
    assert total == 3.0


def test_the_page_names_every_setting_and_every_problem():
    page = (Path(__file__).parents[3] / "docs" / "reward_sets.md").read_text()
    for setting in fields(RewardDataArguments):
        assert f"`{setting.name}" in page or f"{setting.name}:" in page, setting.name
    for what, _ in PROBLEMS.values():
        assert what.split(",")[0] in page, what
