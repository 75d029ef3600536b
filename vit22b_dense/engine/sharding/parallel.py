"""A model spread over processes: built, its blocks and then the rest sharded, and given weights."""

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmseg.registry import MODELS
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from ..model import unwrapped
from .async_tp import overlap
from .lockstep import Lockstep
from .mesh import DATA, TENSOR, together
from .tensor_parallel import parallelize
from .weights import BUILDER, can_be_without_memory, draws_in_parts, fill, skeleton_of, take_memory


def build(model: dict) -> nn.Module:
    """Build a model from its config, a backbone of ours without memory."""
    model = ConfigDict(model)  # a copy
    inner = model.module if 'module' in model else model
    if can_be_without_memory(inner.backbone):
        inner.backbone = dict(type=BUILDER, backbone=inner.backbone)
    return MODELS.build(model)


def spread(
    model: nn.Module,
    backbone: nn.Module,
    mesh: DeviceMesh,
    sequence_parallel: bool = False,
    dtype: torch.dtype | None = None,
    with_weights: bool = True,
    async_tp: bool = False,
) -> Lockstep | None:
    """Shard a model in place, and give its backbone weights where it was built without memory.

    Args:
        model: whose forward pass runs on all processes.
        backbone: its backbone, or the model itself.
        mesh: see `make_mesh`.
        sequence_parallel: with tensor parallelism, shard the tokens between the products too.
        dtype: in which the blocks compute, from and to float32 outside; gradients are summed in float32. None: that
            of the weights.
        with_weights: False where a checkpoint brings them.
        async_tp: see `overlap`.

    Returns:
        What keeps the processes in step while they test; None for a backbone without weights.
    """
    skeleton = skeleton_of(backbone)
    if async_tp:
        overlap(backbone, mesh[TENSOR], sequence_parallel)
    if mesh[TENSOR].size() > 1:
        parallelize(backbone, mesh[TENSOR], sequence_parallel)
    mixed = MixedPrecisionPolicy(dtype, torch.float32, torch.float32) if dtype else MixedPrecisionPolicy()
    for block in getattr(backbone, 'blocks', ()):
        fully_shard(block, mesh=mesh[DATA], mp_policy=mixed)
    fully_shard(model, mesh=mesh[DATA])
    if isinstance(model, BaseTTAModel):  # it has no forward pass of its own
        register_fsdp_forward_method(model, 'test_step')
    take_memory(model)
    if skeleton is not None:
        draws_in_parts(backbone, skeleton)
        if with_weights:
            with together():
                fill(backbone)
    return Lockstep(backbone) if any(True for _ in backbone.parameters()) else None


def without_backbone(model: nn.Module) -> nn.Module | None:
    """Take a backbone without memory out of a model, so that the rest can be initialised; None where it has memory."""
    inner = unwrapped(model)
    backbone = inner.backbone
    if skeleton_of(backbone) is None:
        return None
    inner.backbone = nn.Identity()
    return backbone
