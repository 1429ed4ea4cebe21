from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from modeling_dvpo.training.engine import checkpoints
from modeling_dvpo.training.engine.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint


def make_learner(seed=0, frozen=()):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    skipped = {"total": 0, "in_a_row": 0}
    return SimpleNamespace(model=model, optimizer=optimizer, schedule=schedule, skipped=skipped)


def update(learner):
    loss = learner.model(torch.ones(5, 3)).square().sum()
    loss.backward()
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.schedule.step()
    return loss.item()


def save(folder, step, learner, keep=1, **progress):
    save_checkpoint(folder, step, {"critic": learner}, progress, keep=keep)


def load(folder, learner):
    return load_checkpoint(list_checkpoints(folder)[-1], {"critic": learner})


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_training_goes_on_bit_for_bit(tmp_path):
    """Weights, both moments, step count and the random state (dropout) come back."""
    learner = make_learner()
    for _ in range(3):
        update(learner)
    save(tmp_path, 3, learner)
    expected = [update(learner) for _ in range(3)]

    learner = make_learner(seed=1)
    torch.rand(7)
    load(tmp_path, learner)
    assert [update(learner) for _ in range(3)] == expected


def test_progress_comes_back(tmp_path):
    """And how many updates were skipped: a resumed run has no more patience than one that was not cut off."""
    learner = make_learner()
    learner.skipped = {"total": 5, "in_a_row": 2}
    save(tmp_path, 3, learner, best={"crps": 0.1})
    other = make_learner()
    assert load(tmp_path, other) == {"best": {"crps": 0.1}}
    assert other.skipped == {"total": 5, "in_a_row": 2}


def test_frozen_weights_are_not_stored_and_not_touched(tmp_path):
    frozen = ("0.weight", "0.bias")
    learner = make_learner(frozen=frozen)
    update(learner)
    save(tmp_path, 1, learner)
    other = make_learner(seed=1, frozen=frozen)
    body = other.model[0].weight.clone()
    load(tmp_path, other)
    assert torch.equal(other.model[2].weight, learner.model[2].weight)
    assert torch.equal(other.model[0].weight, body) and not torch.equal(body, learner.model[0].weight)


def test_a_checkpoint_that_lacks_trained_weights_is_refused(tmp_path):
    save(tmp_path, 1, make_learner(frozen=("0.weight", "0.bias")))
    with pytest.raises(CheckpointException, match="0.weight"):
        load(tmp_path, make_learner())


def test_the_newest_are_kept_in_the_order_of_their_numbers(tmp_path):
    learner = make_learner()
    for step in (9, 10, 100):
        save(tmp_path, step, learner, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-10", "step-100"]
    assert names(tmp_path) == ["step-10", "step-100"]


@pytest.mark.parametrize("where", ["write_weights", "write_random_state", "before_renaming"])
def test_a_crash_leaves_the_old_checkpoint(tmp_path, monkeypatch, where):
    """Whatever fails, the newest whole checkpoint is the old one, and the next save clears what was left."""
    learner = make_learner()
    save(tmp_path, 1, learner)
    expected = update(learner)

    def crash(*args, **kwargs):
        raise OSError("disk full")

    owner, name = {
        "write_weights": (checkpoints.dcp, "save"),
        "write_random_state": (checkpoints, "save_file"),
        "before_renaming": (checkpoints.shutil, "rmtree"),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(OSError, match="disk full"):
            save(tmp_path, 2, learner)
    assert names(tmp_path) == ["step-1", "step-2.partial"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1"]

    again = make_learner(seed=1)
    load(tmp_path, again)
    assert update(again) == expected
    save(tmp_path, 3, again)
    assert names(tmp_path) == ["step-3"]


def test_another_number_of_ranks_keeps_its_own_random_state(tmp_path, monkeypatch):
    learner = make_learner()
    save(tmp_path, 1, learner)
    monkeypatch.setattr(checkpoints, "world_size", lambda: 2)
    monkeypatch.setattr(checkpoints.dcp, "load", lambda *args, **kwargs: None)
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    load(tmp_path, learner)
    assert torch.equal(torch.get_rng_state(), expected)


def test_several_learners_stay_apart(tmp_path):
    """Each its own weights, moments and rate, which test by one learner alone cannot tell."""
    learners = {"policy": make_learner(), "critic": make_learner(seed=1)}
    for learner in learners.values():
        update(learner)
    update(learners["critic"])
    save_checkpoint(tmp_path, 2, learners, {}, keep=1)
    others = {"policy": make_learner(seed=2), "critic": make_learner(seed=3)}
    load_checkpoint(list_checkpoints(tmp_path)[-1], others)
    for name, learner in learners.items():
        assert torch.equal(others[name].model[0].weight, learner.model[0].weight)
    assert others["policy"].schedule.get_last_lr() == [0.05]
    assert others["critic"].schedule.get_last_lr() == [pytest.approx(0.1 / 3)]


def test_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path) == []
    (tmp_path / "checkpoints" / "step-4.partial").mkdir(parents=True)
    assert list_checkpoints(tmp_path) == []
