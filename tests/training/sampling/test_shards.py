"""Rows on their way: kept line by line, put together in order."""

import json

from modeling_dvpo.training.sampling import shards as module
from modeling_dvpo.training.sampling.shards import Shards


def test_shards_of_several_ranks_become_one_file(tmp_path, monkeypatch):
    for rank, places in ((1, [2, 0]), (0, [1]), (12, [3, 1])):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        shards = Shards(tmp_path / "shards")
        shards.write((place, [{"row": (place, number), "text": "é\n"} for number in range(2)]) for place in places)
    assert shards.recover() == {0, 1, 2, 3}
    merged = list(shards.merge(tmp_path / "set.jsonl"))
    assert [row["row"] for row in merged] == [[place, number] for place in range(4) for number in range(2)]
    assert [json.loads(line) for line in (tmp_path / "set.jsonl").read_text().splitlines()] == merged
    assert [path.name for path in tmp_path.iterdir()] == ["set.jsonl"]


def test_what_was_cut_off_is_not_there_and_not_in_the_way(tmp_path):
    shards = Shards(tmp_path)
    assert shards.recover() == set()
    shards.write([(0, [{"a": 1}]), (1, [{"a": 2}])])
    path = tmp_path / "rank-00000.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert shards.recover() == {0}
    shards.write([(1, [{"a": 3}])])
    assert shards.recover() == {0, 1} and path.read_text().count("\n") == 2
