"""Asynchronous tensor parallelism: products of a block run in pieces, each sent or awaited while the next computes.

PyTorch's compiler does this: it fuses an all-gather into the product behind it, and a reduce-scatter into the product
in front of it. Without a word it leaves apart what it does not recognise, such as a product with a bias, so a test
looks at the compiled graph.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from .mesh import MeshError


def overlap(backbone: nn.Module, mesh: DeviceMesh, sequence_parallel: bool) -> None:
    """Let the compiled blocks of a backbone communicate while they compute.

    Args:
        backbone: whose blocks have not been compiled so far.
        mesh: of one dimension, the processes that share the products.
        sequence_parallel: whether they share the tokens, too.

    Raises:
        MeshError: something is missing for it.
    """
    has = {
        '--tp 2 or more': mesh.size() > 1,
        '--sequence-parallel': sequence_parallel,
        'compiled blocks (--cfg-options model.backbone.compile_blocks=True)': getattr(
            backbone, 'compile_blocks', False
        ),
        'GPUs with CUDA': torch.cuda.is_available(),
        'a PyTorch with NCCL': dist.is_nccl_available(),
    }
    if lacking := [what for what, there in has.items() if not there]:
        raise MeshError(f'--async-tp: lacks {", ".join(lacking)}; add this, or leave --async-tp out')
    from torch._inductor import config  # takes seconds
    from torch.distributed._symmetric_memory import enable_symm_mem_for_group

    config._micro_pipeline_tp = True
    enable_symm_mem_for_group(mesh.get_group().group_name)
