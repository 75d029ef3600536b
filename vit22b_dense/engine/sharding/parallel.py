"""Sharding a model: its blocks, then the rest, over the processes that have data of their own."""

import torch
from mmengine.model import BaseTTAModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from .mesh import DATA


def shard(model: nn.Module, backbone: nn.Module | None, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard each block of the backbone, then what is left of the model, in place.

    Args:
        model: whose forward pass runs on all processes.
        backbone: its backbone, with ``blocks``; None where it has none.
        mesh: see `make_mesh`.
        dtype: in which the blocks compute, from and to float32 outside; gradients are summed in float32. None: that
            of the weights.
    """
    mixed = MixedPrecisionPolicy(dtype, torch.float32, torch.float32) if dtype else MixedPrecisionPolicy()
    for block in getattr(backbone, 'blocks', ()):
        fully_shard(block, mesh=mesh[DATA], mp_policy=mixed)
    fully_shard(model, mesh=mesh[DATA])
    if isinstance(model, BaseTTAModel):  # it has no forward pass of its own
        register_fsdp_forward_method(model, 'test_step')
