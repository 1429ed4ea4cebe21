"""What rows hand on is what their author wrote: no dates, numbers or nulls that a file format put there."""

import datetime
import json
import random

import pytest
from datasets import Dataset
from reward_rows import actions

from modeling_dvpo.training.data.arguments import PromptArguments, RewardDataArguments
from modeling_dvpo.training.data.prompts import load_prompts
from modeling_dvpo.training.data.reading import read_rows
from modeling_dvpo.training.data.reward_sets import load_reward_data
from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.rollouts.environments import next_turns

# Writes tools and tool calls as they are, as the templates of Qwen, Llama and others do.
TOOL_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<s>{{ m.role }}: {{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<end>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
USER = {"role": "user", "content": "hello"}


def calling(**arguments):
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def tool(**properties):
    schema = {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}
    return {"type": "function", "function": {"name": "look", "parameters": schema}}


def in_every_form(rows, folder, name="rows"):
    """The same rows as a JSONL file, a JSON file, a parquet file, a saved set and a folder."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1))
    Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    Dataset.from_list(rows).save_to_disk(folder / f"{name}-saved")
    (folder / f"{name}-folder").mkdir()
    (folder / f"{name}-folder" / "train.jsonl").write_bytes((folder / f"{name}.jsonl").read_bytes())
    return [str(folder / f"{name}{form}") for form in (".jsonl", ".json", ".parquet", "-saved", "-folder")]


class TestAddedNulls:
    """Arrow gives every tool call the arguments of all of them: the call `{"city": "Oslo"}` was trained on, as action
    tokens, as `{"city": "Oslo", "a": null}`, and functions and environments saw the same."""

    rows = [
        {"prompt": [USER], "completion": [calling(city="Oslo")], "tools": [tool(city="string")], "reward": 1.0},
        {"prompt": [USER], "completion": [calling(a=1)], "tools": [tool(a="number")], "reward": 0.0},
    ]

    def test_a_tool_call_has_its_own_arguments_only(self, tmp_path, tiny_tokenizer):
        tiny_tokenizer.chat_template = TOOL_TEMPLATE
        for name in in_every_form(self.rows, tmp_path):
            rows, _ = load_reward_data(RewardDataArguments(dataset=name), tiny_tokenizer)
            assert "null" not in tiny_tokenizer.decode(rows[0]["input_ids"]), name
            (call,) = actions(rows[0], tiny_tokenizer)
            assert '"arguments": {"city": "Oslo"}' in call, name

    def test_whoever_gets_the_rows_gets_them_as_they_were(self, tmp_path, tiny_tokenizer, monkeypatch):
        seen = []

        def look(prompts, completions, tools, **_):
            seen.append((completions, tools))
            return [0.0, 1.0][: len(prompts)]

        monkeypatch.setattr("modeling_dvpo.training.data.row_scores.load_reward_function", lambda name: look)
        tiny_tokenizer.chat_template = TOOL_TEMPLATE
        expected = ([row["completion"] for row in self.rows], [row["tools"] for row in self.rows])
        for name in in_every_form(self.rows, tmp_path):
            load_reward_data(RewardDataArguments(dataset=name, reward_funcs=["look"]), tiny_tokenizer)
            prompts = load_prompts(
                name, "train", PromptArguments(dataset=name), tiny_tokenizer, max_completion_length=8
            )
            assert [prompt.columns["tools"] for prompt in prompts] == expected[1], name

            def environment(prompts, completions, tools, **_):
                seen.append((completions, tools))
                return [None, None]

            next_turns(environment, list(prompts), expected[0])
        assert seen == [expected] * 10

    @pytest.mark.parametrize("seed", range(4))
    def test_every_form_of_a_set_has_the_same_tokens(self, tmp_path, tiny_tokenizer, seed):
        """Rows of random calls, each with some of the arguments, nested ones among them."""
        draw = random.Random(seed)
        # one type an argument, and no nulls: in a parquet file there cannot be two, or those look like Arrow's
        values = {"city": "Oslo", "n": 7, "x": 0.1, "on": True, "many": ["a", "b"], "in": {"deep": "y", "er": 1}}

        def some(known):
            chosen = draw.sample(sorted(known), draw.randrange(1, len(known) + 1))
            return {k: some(known[k]) if isinstance(known[k], dict) else known[k] for k in chosen}

        rows = [
            {
                "messages": [
                    USER,
                    calling(**some(values)),
                    {"role": "tool", "content": "5", "name": "look"},
                    calling(),
                ],
                "reward": float(place % 2),
                "tools": [tool(**{name: "string" for name in draw.sample(sorted(values), 2)})],
            }
            for place in range(12)
        ]
        tiny_tokenizer.chat_template = TOOL_TEMPLATE.replace(
            "tojson", "tojson(sort_keys=true)"
        )  # parquet has one order
        columns = ["input_ids", "completion_mask", "rewards", "prompt_id"]
        found = [
            load_reward_data(RewardDataArguments(dataset=name), tiny_tokenizer)[0].select_columns(columns)[:]
            for name in in_every_form(rows, tmp_path)
        ]
        assert len(found[0]["input_ids"]) == 12 and all(other == found[0] for other in found[1:])


class TestTextStaysText:
    """Answers that look like dates reached reward functions as `datetime`, digits of a CSV file as `int`: a function
    that compares texts gave 0 to every row."""

    rows = [
        {"prompt": "When?", "completion": "2024-05-01", "answer": "2024-05-01", "reward": 1.0, "many": ["2024-05-01"]},
        {"prompt": "When?", "completion": "2024-05-02", "answer": "2024-05-01T10:00:00", "reward": 0.5, "many": []},
    ]

    def test_what_looks_like_a_date(self, tmp_path):
        for name in in_every_form(self.rows, tmp_path):
            assert [*read_rows(name, "train")] == self.rows, name

    def test_a_date_that_comes_late_in_a_long_file(self, tmp_path):
        """Types are those of the whole file: a part of it that has dates alone is text like the rest."""
        rows = [{"answer": "no date"}] * 1500 + [{"answer": "2024-05-01", "late": 0.1234567890123}] * 1500
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = read_rows(str(tmp_path / "a.jsonl"), "train")
        assert read[1499] == {"answer": "no date", "late": None}
        assert read[2999] == {"answer": "2024-05-01", "late": 0.1234567890123}

    def test_a_csv_file_has_numbers_where_numbers_are_asked_for(self, tmp_path):
        lines = "answer,reward,truncated\n007,1,True\n2024-05-01,,false\nNA,0.5,\n,x,1\n"
        for name in ("a.csv", "folder/train.csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(lines)
            name = name.split("/")[0]
            rows = read_rows(str(tmp_path / name), "train", number_columns=("reward", "truncated"))
            assert rows["answer"][:] == ["007", "2024-05-01", "NA", None], name
            assert rows["reward"][:] == [1, None, 0.5, "x"]  # for whoever reads it to refuse
            assert rows["truncated"][:] == [True, False, None, 1]

    def test_values_of_several_types(self, tmp_path):
        """Where another row had an object, the text "7" was read as a number, and numbers were rounded."""
        values = ["7", {"x": 0.1234567890123}, 2**70, None, [1, "a"], "null", True]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": 1, "v": value}) + "\n" for value in values))
        assert read_rows(str(tmp_path / "a.jsonl"), "train")["v"][:] == values

    def test_a_typed_date_is_its_authors(self, tmp_path):
        day = datetime.date(2024, 5, 1)
        Dataset.from_list([{"prompt": "a", "day": day}]).to_parquet(tmp_path / "a.parquet")
        assert read_rows(str(tmp_path / "a.parquet"), "train")[0]["day"] == day

    def test_lines_that_are_no_objects_are_named(self, tmp_path):
        for content, message in (
            ('{"a": 1}\n{"a": \n', "Line 2 of .*cannot be read"),
            ("1\n", "Line 1 of .* is 1; it"),
        ):
            (tmp_path / "a.jsonl").write_text(content)
            with pytest.raises(RewardDataError, match=message):
                read_rows(str(tmp_path / "a.jsonl"), "train")
        (tmp_path / "a.csv").write_text("a,b\n1,2,3\n")
        with pytest.raises(RewardDataError, match="Row 0 of a CSV file has more cells"):
            read_rows(str(tmp_path / "a.csv"), "train")
