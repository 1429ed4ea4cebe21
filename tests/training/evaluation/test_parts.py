import pytest
import torch

from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.evaluation import parts as module
from modeling_dvpo.training.evaluation.parts import Parts, cut


def maker(made):
    def make(number):
        made.append(number)
        return {"x": torch.tensor([number, 10 * number])}

    return make


def test_makes_what_is_missing_and_nothing_twice(tmp_path, capsys):
    made = []
    parts = Parts(tmp_path / "deep" / "er", "critic", {"weights": "a"})
    parts.fill(2, maker(made), "first")
    parts.fill(4, maker(made), "more")
    assert made == [0, 1, 2, 3]
    assert "more: 2 of 4 parts are there from before" in capsys.readouterr().out
    assert parts.load(3)["x"].tolist() == [3, 30]
    assert sorted(path.name for path in parts.folder.iterdir()) == [f"critic-0000{n}.safetensors" for n in range(4)]


def test_a_part_that_failed_is_not_there(tmp_path):
    def make(number):
        if number == 1:
            raise RuntimeError("lost")
        return {"x": torch.zeros(1)}

    parts = Parts(tmp_path, "critic", {})
    with pytest.raises(RuntimeError, match="lost"):
        parts.fill(3, make, "work")
    assert [path.name for path in tmp_path.iterdir()] == ["critic-00000.safetensors"]


def test_other_facts_are_named(tmp_path):
    Parts(tmp_path, "critic", {"weights": "a", "rows": "r"}).fill(1, maker([]), "work")
    with pytest.raises(ConfigError, match=r"critic-00000.safetensors was made from something else: weights changed"):
        Parts(tmp_path, "critic", {"weights": "b", "rows": "r"}).fill(1, maker([]), "work")
    made = []
    Parts(tmp_path, "scalar", {"weights": "b"}).fill(1, maker(made), "work")  # another kind has files of its own
    assert made == [0]


def test_a_damaged_part_is_named(tmp_path):
    parts = Parts(tmp_path, "critic", {})
    parts.fill(1, maker([]), "work")
    parts.path(0).write_bytes(parts.path(0).read_bytes()[:20])
    with pytest.raises(ConfigError, match="critic-00000.safetensors cannot be read .*: delete it, and --resume"):
        parts.fill(1, maker([]), "work")


@pytest.mark.parametrize(("this_rank", "expected"), [(0, [0, 3]), (1, [2])])
def test_ranks_share_what_is_missing(tmp_path, monkeypatch, this_rank, expected):
    """Of 0, 2 and 3, part 1 being there; rank 1 goes by the list that rank 0 saw."""
    made = []
    Parts(tmp_path, "critic", {})._save(1, {"x": torch.zeros(1)})
    monkeypatch.setattr(module, "rank", lambda: this_rank)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(module, "is_main", lambda: this_rank == 0)
    monkeypatch.setattr(module, "gather_lists", lambda items: [0, 2, 3] if this_rank else items)
    monkeypatch.setattr(module, "barrier", lambda: None)
    Parts(tmp_path, "critic", {}).fill(4, maker(made), "work")
    assert made == expected


def test_cut():
    assert cut([3, 4, 2, 9, 1, 1], 7) == [range(0, 2), range(2, 3), range(3, 4), range(4, 6)]
    assert cut([5], 1) == [range(0, 1)]
    assert cut([], 7) == []
