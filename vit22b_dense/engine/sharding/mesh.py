"""The mesh of a run's processes, data x tensor parallel, and what all of them have to agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.device import get_device
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...errors import UserError

DATA, TENSOR = 'data', 'tensor'  # dimensions of the mesh
TIMEOUT = 600.0  # seconds


class MeshError(UserError):
    """Processes that do not form the mesh that was asked for."""


class OtherRankError(UserError):
    """Something is wrong on another process, and this one stops too."""


def start_processes(seconds: float = TIMEOUT) -> None:
    """Join the processes that torchrun has started: NCCL for accelerators, gloo for the CPU.

    Args:
        seconds: after which a process that waits for another one gives up.
    """
    if dist.is_initialized():
        return
    backend = 'gloo'
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        backend = 'cuda:nccl,cpu:gloo'
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


def make_mesh(data: int, tensor: int) -> DeviceMesh:
    """The mesh of all processes; neighbours share a copy of the data.

    Args:
        data: processes with data of their own. tensor: processes that share each block's products.

    Raises:
        MeshError: there are not that many processes.
    """
    world = dist.get_world_size()
    if data * tensor != world:
        raise MeshError(
            f'a mesh of {data} x {tensor} (data x tensor parallel) needs {data * tensor} processes, and there are '
            f'{world}: start that many with torchrun, or change --tp'
        )
    return init_device_mesh(get_device().split(':')[0], (data, tensor), mesh_dim_names=(DATA, TENSOR))


def data_rank_of(mesh: DeviceMesh) -> tuple[int, int]:
    """Which part of the data is this process's, of how many."""
    return mesh[DATA].get_local_rank(), mesh[DATA].size()


def repeats_another(mesh: DeviceMesh) -> bool:
    """Whether another process has the same data as this one, and counts for both."""
    return mesh[TENSOR].get_local_rank() > 0


@contextmanager
def together() -> Iterator[None]:
    """Run a block on every process; if one fails, all do, instead of waiting for it for ever.

    The errors have the attribute ``first_says`` of `ranks.first_says`.

    Raises:
        OtherRankError: on the processes where the block itself went well.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    errors = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error and (type(error).__name__, str(error)))
    rank, first = dist.get_rank(), errors[0]
    if error is not None:
        error.first_says = rank > 0 and errors[rank] == first
        raise error
    for number, other in enumerate(errors):
        if other is not None:
            error = OtherRankError(f'process {number}: {other[0]}: {other[1]}')
            error.first_says = rank > 0
            raise error


def from_first(value: object) -> object:
    """What the first process has."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
