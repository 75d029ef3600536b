"""A backbone without memory: built on the meta device, sharded, and only then given its weights."""

import copy
from functools import partial

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...checkpoint.distributed import part_of
from ...checkpoint.fitting import is_sharded
from ...models.backbones.body import PlainBody, seed_of_part

BUILDER = 'WithoutMemory'


@MODELS.register_module(name=BUILDER)
def without_memory(backbone: dict) -> nn.Module:
    """Build a backbone on the meta device; in a config: ``dict(type='WithoutMemory', backbone=…)``."""
    with torch.device('meta'):
        return MODELS.build(backbone)


def can_be_without_memory(backbone: dict) -> bool:
    """Whether a backbone is one of ours, which are drawn and loaded in parts, and not loaded from a partial file."""
    kind = MODELS.get(backbone['type'])
    partial_file = (backbone.get('init_cfg') or {}).get('allow_partial', False)
    return isinstance(kind, type) and issubclass(kind, PlainBody) and not partial_file


def skeleton_of(backbone: nn.Module) -> PlainBody | None:
    """A copy without memory of a backbone that has none itself; None for others."""
    return copy.deepcopy(backbone) if isinstance(backbone, PlainBody) and backbone.pos_embed.is_meta else None


def take_memory(model: nn.Module) -> None:
    """Give memory to what has none: to each process that of its own shards. The rest goes to the same device."""
    device = get_device()
    model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    for module in model.modules():
        if isinstance(module, BaseDataPreprocessor):  # it has a device of its own, where it brings the images
            module.to(device)


def draw_in_parts(backbone: PlainBody, skeleton: PlainBody, seed: int, device: object = None) -> None:
    """Draw random weights, as `PlainBody.draw_weights` does, into a sharded backbone.

    Each process draws other parts, of which one is in memory at a time, and all take their shards of them.

    Args:
        backbone: sharded, with memory.
        skeleton: of it, see `skeleton_of`.
        seed: the weights' own.
        device: as the backbone's own method takes it; the shards stay where they are.
    """
    backbone.seed = seed
    own, count = backbone.state_dict(), backbone.num_layers + 1
    world, rank = dist.get_world_size(), dist.get_rank()
    for start in range(0, count, world):
        drawn = _drawn(skeleton, seed, start + rank) if start + rank < count else {}
        for owner in range(min(world, count - start)):
            for name, info in _part(skeleton, start + owner)[1].items():
                _hand_out(own[name], drawn.get(name), info, owner)


def _part(skeleton: PlainBody, i: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A part of the skeleton, block ``i`` or behind the last all else, and its tensors by their names in the whole."""
    if i < skeleton.num_layers:
        block = skeleton.blocks[i]
        return block, {f'blocks.{i}.{name}': tensor for name, tensor in block.state_dict().items()}
    return skeleton, {n: tensor for n, tensor in skeleton.state_dict().items() if not n.startswith('blocks.')}


def _drawn(skeleton: PlainBody, seed: int, i: int) -> dict[str, Tensor]:
    module, infos = _part(skeleton, i)
    module = copy.deepcopy(module)
    if i == skeleton.num_layers:
        module.blocks = nn.ModuleList()
    module.to_empty(device='cpu')
    with seed_of_part(seed, f'blocks.{i}' if i < skeleton.num_layers else 'stem'):
        (module.reset_parameters if i < skeleton.num_layers else module.reset_stem)()
    return dict(zip(infos, module.state_dict().values(), strict=True))


def _hand_out(target: Tensor, full: Tensor | None, info: Tensor, owner: int) -> None:
    """Copy into each process's shard its part of a tensor that one of them has."""
    local = target.to_local() if is_sharded(target) else target
    full = torch.empty_like(info, device=local.device) if full is None else full.to(local.device)
    dist.broadcast(full, owner)
    local.copy_(full[part_of(target)] if is_sharded(target) else full)


def fill(backbone: nn.Module) -> None:
    """Draw or load the weights of a sharded backbone that was built without memory."""
    if backbone.init_cfg is None:
        backbone.warn_if_frozen_and_random()
        backbone.draw_weights(backbone.seed)
    else:
        backbone.init_weights()
    backbone._is_init = True


def draws_in_parts(backbone: nn.Module, skeleton: PlainBody) -> None:
    """Let a sharded backbone draw its weights in parts, whoever asks for them."""
    backbone.draw_weights = partial(draw_in_parts, backbone, skeleton)
