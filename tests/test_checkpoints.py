import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from modeling_dvpo.training import checkpoints
from modeling_dvpo.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint


def model_and_optimizer(seed=0, frozen=()):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(trained, lr=0.1)


def update(model, optimizer):
    loss = model(torch.ones(5, 3)).square().sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def save(folder, step, model, optimizer, keep=1, **progress):
    save_checkpoint(folder, step, model, optimizer, progress, keep=keep)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_training_goes_on_bit_for_bit(tmp_path):
    """Weights, both moments, step count and the random state (dropout) come back."""
    model, optimizer = model_and_optimizer()
    for _ in range(3):
        update(model, optimizer)
    save(tmp_path, 3, model, optimizer)
    expected = [update(model, optimizer) for _ in range(3)]

    model, optimizer = model_and_optimizer(seed=1)
    torch.rand(7)
    load_checkpoint(list_checkpoints(tmp_path)[-1], model, optimizer)
    assert [update(model, optimizer) for _ in range(3)] == expected


def test_progress_comes_back(tmp_path):
    model, optimizer = model_and_optimizer()
    save(tmp_path, 3, model, optimizer, best={"crps": 0.1}, schedule={"last_epoch": 3})
    progress = load_checkpoint(tmp_path / "checkpoints" / "step-3", model, optimizer)
    assert progress == {"step": 3, "world_size": 1, "best": {"crps": 0.1}, "schedule": {"last_epoch": 3}}


def test_frozen_weights_are_not_stored_and_not_touched(tmp_path):
    frozen = ("0.weight", "0.bias")
    model, optimizer = model_and_optimizer(frozen=frozen)
    update(model, optimizer)
    save(tmp_path, 1, model, optimizer)
    other, other_optimizer = model_and_optimizer(seed=1, frozen=frozen)
    body = other[0].weight.clone()
    load_checkpoint(tmp_path / "checkpoints" / "step-1", other, other_optimizer)
    assert torch.equal(other[2].weight, model[2].weight)
    assert torch.equal(other[0].weight, body) and not torch.equal(body, model[0].weight)


def test_a_checkpoint_that_lacks_trained_weights_is_refused(tmp_path):
    save(tmp_path, 1, *model_and_optimizer(frozen=("0.weight", "0.bias")))
    with pytest.raises(CheckpointException, match="0.weight"):
        load_checkpoint(tmp_path / "checkpoints" / "step-1", *model_and_optimizer())


def test_the_newest_are_kept_in_the_order_of_their_numbers(tmp_path):
    model, optimizer = model_and_optimizer()
    for step in (9, 10, 100):
        save(tmp_path, step, model, optimizer, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-10", "step-100"]
    assert names(tmp_path) == ["step-10", "step-100"]


@pytest.mark.parametrize("where", ["write_weights", "write_random_state", "before_renaming"])
def test_a_crash_leaves_the_old_checkpoint(tmp_path, monkeypatch, where):
    """Whatever fails, the newest whole checkpoint is the old one, and the next save clears what was left."""
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer)
    expected = update(model, optimizer)

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
            save(tmp_path, 2, model, optimizer)
    assert names(tmp_path) == ["step-1", "step-2.partial"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1"]

    again, again_optimizer = model_and_optimizer(seed=1)
    load_checkpoint(list_checkpoints(tmp_path)[-1], again, again_optimizer)
    assert update(again, again_optimizer) == expected
    save(tmp_path, 3, again, again_optimizer)
    assert names(tmp_path) == ["step-3"]


def test_another_number_of_ranks_keeps_its_own_random_state(tmp_path, monkeypatch):
    model, optimizer = model_and_optimizer()
    save(tmp_path, 1, model, optimizer)
    monkeypatch.setattr(checkpoints, "world_size", lambda: 2)
    monkeypatch.setattr(checkpoints.dcp, "load", lambda *args, **kwargs: None)
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    load_checkpoint(tmp_path / "checkpoints" / "step-1", model, optimizer)
    assert torch.equal(torch.get_rng_state(), expected)


def test_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path) == []
    (tmp_path / "checkpoints" / "step-4.partial").mkdir(parents=True)
    assert list_checkpoints(tmp_path) == []
