"""Tensor parallelism of the parallel block: each process has some of the heads, with their part of the MLP.

The stored layout is interleaved by heads, so the input product's weight is cut into rows and the output product's into
columns. A block then takes one all-reduce of its output, and in the backward pass one of its input's gradient; with
sequence parallelism, where the tokens are sharded between the products too, an all-gather and a reduce-scatter in
their place. Beside these, the backward pass sums the gradients of what the heads share: two vectors of a head's width.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ...models.backbones.block import ParallelBlock
from .mesh import MeshError

HEADS, TOKENS = 2, 1  # dimensions of (B, N, H, D/H) and of (B, N, D)


class TensorParallelBlock(ParallelBlock):
    """A `ParallelBlock` whose parameters are parts of larger ones; a block becomes one in `parallelize`."""

    def biases(self) -> tuple[Tensor, Tensor]:
        """The bias of this process's heads, and that of the output, in the form of what it is added to."""
        return self.up_bias.to_local(), self.out_bias


class _Parameters(ParallelStyle):
    """Distributes parameters that a module owns itself."""

    def __init__(self, **placements: Any) -> None:
        super().__init__()
        self.placements = placements

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        for name, placement in self.placements.items():
            param = getattr(module, name)
            part = nn.Parameter(distribute_tensor(param.data, mesh, [placement]), requires_grad=param.requires_grad)
            module.register_parameter(name, part)
        return module


def parallelize(backbone: nn.Module, mesh: DeviceMesh, sequence_parallel: bool = False) -> None:
    """Make each block tensor parallel, in place, before the model is sharded.

    Args:
        backbone: with blocks of the kind `ParallelBlock`.
        mesh: of one dimension, the processes that share the products.
        sequence_parallel: shard the tokens between the products over the same processes.

    Raises:
        MeshError: blocks of another kind, or a number of heads that the processes do not divide.
    """
    blocks = list(getattr(backbone, 'blocks', ()))
    if not blocks or any(type(block) is not ParallelBlock for block in blocks):
        raise MeshError(
            f'--tp {mesh.size()}: {type(backbone).__name__} is not made of the parallel blocks of ViT22B, whose heads '
            'can be shared; leave --tp out'
        )
    heads = len(blocks[0].up_bias)
    if heads % mesh.size():
        raise MeshError(
            f'--tp {mesh.size()}: does not divide the {heads} heads of the blocks; choose one of '
            f'{", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)}'
        )
    for block in blocks:
        block.__class__ = TensorParallelBlock
        parallelize_module(block, mesh, plan_of(sequence_parallel))
        own = dict(up_bias=Shard(0), **(dict(out_bias=Replicate()) if sequence_parallel else {}))
        parallelize_module(block, mesh, _Parameters(**own))
        if sequence_parallel:
            _alone(block.in_proj)
            _alone(block.out_proj)
        if backbone.compile_blocks:  # again, for each size: PyTorch 2.13 fails where sizes of shards are to vary
            block.compile(dynamic=False)
    if sequence_parallel:
        _run_on_shards(backbone, mesh)


def _run_on_shards(backbone: nn.Module, mesh: DeviceMesh) -> None:
    """Let the blocks of a backbone, and nothing else in it, see shards of the tokens.

    Compiled, PyTorch 2.13 takes shards of unequal sizes for equal ones, with wrong results and no error: such tokens
    run uncompiled, and cannot be trained on.
    """
    run, maps, compiled = backbone.run_blocks, backbone.maps, backbone.compile_blocks

    def run_blocks(tokens: Tensor, *rest: Any, **more: Any) -> Iterator[tuple[int, Tensor]]:
        uneven = compiled and tokens.shape[TOKENS] % mesh.size() > 0
        if uneven and torch.is_grad_enabled():
            raise MeshError(
                f'--sequence-parallel with compile_blocks=True: --tp {mesh.size()} does not divide the '
                f'{tokens.shape[TOKENS]} tokens of an image; choose another crop_size, or leave one of the two out'
            )
        with torch.compiler.set_stance('force_eager') if uneven else nullcontext():
            yield from run(shard_tokens(tokens, mesh), *rest, **more)

    backbone.run_blocks = run_blocks
    backbone.maps = lambda tokens, size: maps(gather_tokens(tokens), size)


def _alone(product: nn.Module) -> None:
    """Run a product on a single image without the dimension of the batch.

    Its tokens, and their gradients, are then gathered along the first dimension, as `async_tp` recognises it.
    """
    product.register_forward_pre_hook(lambda _, x: (x[0].squeeze(0),), prepend=True)
    product.register_forward_hook(lambda _, __, y: y if y.dim() == 3 else y.unsqueeze(0))


def plan_of(sequence_parallel: bool) -> dict[str, ParallelStyle]:
    """PyTorch's styles for the parts of a block."""
    heads = SequenceParallel(sequence_dim=HEADS, use_local_output=True)  # each process has its own: sums the gradients
    plan = dict(q_norm=heads, k_norm=heads)
    if not sequence_parallel:
        return dict(plan, in_proj=ColwiseParallel(), out_proj=RowwiseParallel())
    tokens = Shard(TOKENS)
    return dict(
        plan,
        norm=SequenceParallel(sequence_dim=TOKENS),
        in_proj=ColwiseParallel(input_layouts=tokens),
        out_proj=RowwiseParallel(output_layouts=Shard(-2), use_local_output=False),
        drop_path=_Local(),
    )


class _Local(ParallelStyle):
    """Runs a module on the part of the tokens that is here; what it draws is the same on all processes."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        run = module.forward

        def forward(x: DTensor) -> DTensor:
            local = run(x.to_local())
            return DTensor.from_local(local, mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())

        module.forward = forward
        return module


def shard_tokens(tokens: Tensor, mesh: DeviceMesh) -> DTensor:
    """Tokens ``(B, N, D)``, the same on all processes, as shards of them; shards are left alone."""
    if isinstance(tokens, DTensor):
        return tokens
    whole = DTensor.from_local(tokens.contiguous(), mesh, [Replicate()], run_check=False)
    return whole.redistribute(placements=[Shard(TOKENS)])


def gather_tokens(tokens: Tensor) -> Tensor:
    """Tokens ``(B, N, D)`` of all shards, on all processes."""
    return tokens.redistribute(placements=[Replicate()]).to_local() if isinstance(tokens, DTensor) else tokens
