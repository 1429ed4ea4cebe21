"""Rows from wherever they are."""

import json

import pytest
from datasets import Dataset, DatasetDict

from modeling_dvpo.training.data.reading import read_rows
from modeling_dvpo.training.errors import RewardDataError

ROWS = [{"prompt": "1 + 1?", "reward": 0.5}, {"prompt": "Another?", "reward": 1.0}]


def test_every_file_gives_the_same_rows(tmp_path):
    table = Dataset.from_list(ROWS)
    table.to_json(tmp_path / "a.jsonl")
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    table.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder" / "train.parquet")
    for name in ("a.jsonl", "a.json", "a.parquet", "a.csv", "saved", "splits", "folder"):
        assert [*read_rows(str(tmp_path / name), "train", number_columns=["reward"])] == ROWS, name
    assert [*read_rows(str(tmp_path / "splits"), "test")] == ROWS[:1]
    assert [*read_rows(str(tmp_path / "a.jsonl"), "train[1:]")] == ROWS[1:]


def test_a_csv_file_keeps_its_text(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,reward\n1,007,1\nNA,null,\n,,2\n")
    columns = {"text_columns": ("prompt", "completion", "chosen"), "number_columns": ("reward",)}
    assert [*read_rows(str(tmp_path / "a.csv"), "train", **columns)] == [
        {"prompt": "1", "completion": "007", "reward": 1.0},
        {"prompt": "NA", "completion": "null", "reward": None},
        {"prompt": "", "completion": "", "reward": 2.0},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "There is no file"),
        ("empty.jsonl", "\n", "is empty: a set needs at least one row"),
        ("empty.csv", "prompt,completion,reward\n", "has no rows in 'train': a set needs at least one row"),
        ("rows.txt", "hello", "is not one of .jsonl, .json, .parquet, .csv"),
        ("broken.jsonl", '{"prompt": ', "cannot be read"),
        ("splits", None, "has no split 'train': it has test"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    DatasetDict({"test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RewardDataError, match=message):
        read_rows(str(tmp_path / name), "train")
