"""Loading a checkpoint of any mesh or format into a sharded model: each process reads its shards."""

from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ...checkpoint import check_fit, load_weights, open_weights, read_checkpoint
from ...checkpoint.reading import BESIDE, LazyWeights, is_distributed
from ..restore import complete
from .lockstep import Lockstep
from .mesh import make_mesh, start_processes, together
from .parallel import build, spread

SIDE = 16  # patches of the image that a model begins with


def load(model: nn.Module, filename: str | Path, check: Callable[[dict], None]) -> dict:
    """Load the weights of a checkpoint; every process calls this.

    Args:
        model: sharded.
        filename: what `open_weights` takes.
        check: sees the checkpoint before, its tensors on the meta device, and may replace them; on every process.

    Returns:
        What lies beside the weights.

    Raises:
        CheckpointError: it cannot be read; or from ``check``.
    """
    with together():
        stored = open_weights(filename)
        beside = {}
        if is_distributed(filename):
            beside = read_checkpoint(Path(filename, BESIDE))
        elif str(filename).endswith('.pth'):
            beside = read_checkpoint(filename)
    checkpoint = dict(beside, state_dict=stored)
    with together():
        check(checkpoint)
    wanted = {name: info for name, info in checkpoint.pop('state_dict').items() if info.is_meta}
    with together():
        if wanted:
            weights = LazyWeights(stored.path, wanted, stored.read, read_part=stored.read_part)
            load_weights(model, weights, filename, allow_partial=True)
    return checkpoint


def mesh_of(cfg: Config) -> DeviceMesh:
    """The mesh that a config's strategy asks for, of the processes that torchrun has started."""
    start_processes()
    return make_mesh(cfg.strategy.get('data', 1), cfg.strategy.get('tensor', 1))


def load_sharded(cfg: Config, filename: str | Path) -> tuple[nn.Module, DeviceMesh, Lockstep | None]:
    """Build the model of a config with a strategy, and load a checkpoint of it, to predict images.

    Returns:
        The model in evaluation mode, its mesh, and what keeps processes in step that have different images.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    mesh, model = mesh_of(cfg), build(cfg.model)
    lockstep = spread(model, model.backbone, mesh, **_options(cfg), with_weights=False)

    def check(checkpoint: dict) -> None:
        checkpoint['state_dict'] = complete(model, checkpoint, filename)
        check_fit(model, checkpoint['state_dict'], filename)

    load(model, filename, check)
    model.eval()
    side = SIDE * model.backbone.patch_size
    with torch.no_grad():  # the first pass gathers what is not part of a block, on all processes
        model(torch.zeros(1, 3, side, side, device=get_device()), mode='tensor')
    return model, mesh, lockstep


def _options(cfg: Config) -> dict:
    return {name: cfg.strategy.get(name, False) for name in ('sequence_parallel', 'async_tp')}


def shard_backbone(cfg: Config, model: nn.Module, seed: int | None) -> Lockstep:
    """Shard the backbone of a model from `build`, with its weights, to run it alone.

    Args:
        cfg: with a strategy.
        model: whose other parts stay whole.
        seed: of random weights; None for the backbone's own.

    Returns:
        What keeps processes in step that have different images.
    """
    backbone = model.backbone
    if seed is not None:
        backbone.seed = seed
    return spread(backbone, backbone, mesh_of(cfg), **_options(cfg))
