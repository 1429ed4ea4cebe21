import pytest
import torch

from modeling_dvpo.ranks import barrier, is_main, rank, world_size
from modeling_dvpo.training.engine.distributed import (
    backward,
    compute_dtype,
    distributed_run,
    full_value,
    main_process_first,
    shard,
    sum_over_ranks,
)

# What several ranks do is tested by whole runs, in train_critic/ and train_dvpo/test_curves.py.


def test_one_process_is_rank_zero_of_one(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with distributed_run() as device:
        assert (rank(), world_size(), is_main()) == (0, 1, True)
        assert device.type in ("cpu", "cuda")
        barrier()


def test_torchrun_s_variables_make_a_process_group(monkeypatch, tmp_path):
    variables = {"LOCAL_RANK": 0, "RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with distributed_run():
        assert torch.distributed.is_initialized() and world_size() == 1
    assert not torch.distributed.is_initialized()


def test_one_process_has_nothing_to_share():
    tensor, model = torch.tensor([1.5, -2.0], requires_grad=True), torch.nn.Linear(2, 1)
    assert torch.equal(sum_over_ranks(tensor), tensor) and full_value(tensor) is tensor
    assert shard(model, torch.device("cpu"), bf16=True) is model
    assert type(model) is torch.nn.Linear and model.weight.dtype == torch.float32
    backward((tensor**2).sum())
    assert tensor.grad.tolist() == [3.0, -4.0]


def test_compute_dtype():
    x = torch.ones(2, 2)
    with compute_dtype(torch.device("cpu"), bf16=True):
        assert (x @ x).dtype == torch.bfloat16
    with compute_dtype(torch.device("cpu"), bf16=False):
        assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("this_rank", [0, 1])
def test_main_process_first_meets_the_others_even_where_it_fails(monkeypatch, this_rank):
    """A failure on rank 0 used to skip the meeting point, and left the other ranks waiting."""
    met = []
    monkeypatch.setattr("modeling_dvpo.ranks.rank", lambda: this_rank)
    monkeypatch.setattr("modeling_dvpo.training.engine.distributed.barrier", lambda: met.append("barrier"))
    with pytest.raises(ValueError, match="bad data"):
        with main_process_first():
            met.append("block")
            raise ValueError("bad data")
    assert met == (["block", "barrier"] if this_rank == 0 else ["barrier", "block"])
