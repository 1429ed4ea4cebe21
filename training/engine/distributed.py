"""One process or many: the process group, FSDP2 sharding, and sums over ranks.

Every script runs as one plain process or under `torchrun --nproc-per-node N`; only this file knows which.
"""

import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from modeling_dvpo.ranks import INIT_TIMEOUT, barrier, is_main, world_size


@contextmanager
def distributed_run(timeout: float = INIT_TIMEOUT):
    """Yield the device of this rank; under torchrun, with a process group around the block.

    Args:
        timeout: seconds that a rank waits for the others, wherever `waiting_at_most` does not say less.
    """
    if "LOCAL_RANK" not in os.environ:
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield device
    dist.destroy_process_group()  # not after an error: it may wait for ranks that will not come


@contextmanager
def waiting_at_most(seconds: float, otherwise: float):
    """Inside, a rank waits this long for the others in a collective, and `otherwise` behind it; all ranks must enter.

    They meet at the door, so that none has the shorter patience while another is still busy with what is before it.
    """
    if world_size() == 1:
        yield
        return
    barrier()
    # private in name only: nothing else sets it for gloo and NCCL alike
    _set_pg_timeout(timedelta(seconds=seconds))
    yield
    _set_pg_timeout(timedelta(seconds=otherwise))


@contextmanager
def main_process_first():
    """Run the block on rank 0, then on the others, which find its caches, or the same error."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Element-wise sum over ranks, on every rank; the tensor itself with one process."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def share_of(items: Sequence, rank: int, world_size: int) -> range:
    """Places of this rank's items: neighbours, in shares that differ by at most one."""
    bounds = [len(items) * part // world_size for part in (rank, rank + 1)]
    return range(*bounds)


def gather_lists(items: list) -> list:
    """Every rank's list, joined in the order of the ranks, on every rank."""
    if world_size() == 1:
        return items
    gathered: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def broadcast(module: torch.nn.Module) -> None:
    """Give all ranks rank 0's parameters, in place; before sharding, for what ranks have drawn each for itself."""
    if world_size() > 1:
        for parameter in module.parameters():
            dist.broadcast(parameter.data, 0)


def shard(model: torch.nn.Module, device: torch.device, *, bf16: bool) -> torch.nn.Module:
    """FSDP2: shard parameters, gradients and optimizer state over all ranks, in place; one process only moves them.

    Each of the family's layers is a unit, a critic's heads are one of their own that computes in float32. Units go to
    the device one by one, so no device holds the whole model. Use `backward`.
    """
    if world_size() == 1:
        return model.to(device)
    mesh = init_device_mesh(device.type, (world_size(),))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = half if bf16 else MixedPrecisionPolicy()
    # the heads' output is a view of one product; nobody writes into it
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    layer_names = set(getattr(model, "_no_split_modules", None) or ())
    for layer in [module for module in model.modules() if type(module).__name__ in layer_names]:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    full = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)
    if isinstance(heads := getattr(model, "quantile_heads", None), torch.nn.Module):
        fully_shard(heads, mesh=mesh, mp_policy=full)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


@contextmanager
def whole_weights(model: torch.nn.Module):
    """Inside, every rank holds the model's whole weights, so that ranks may run as many forward passes as each needs.

    For sampling: without it FSDP2 would gather every layer for every token, and wait for all ranks each time.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)  # FSDP2's default
            unit.reshard()


def backward(loss: torch.Tensor) -> None:
    """Backward pass of this rank's share of the loss, such that the ranks' gradients are summed.

    FSDP2 averages them, and not every backend can be told otherwise: the factor cancels that.
    """
    (loss * world_size()).backward()


def compute_dtype(device: torch.device, *, bf16: bool):
    """Context of the forward pass: in one process bf16 autocast over float32 weights, in many FSDP2's own policy."""
    if bf16 and world_size() == 1:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def full_value(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor, or the tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
