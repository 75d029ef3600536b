"""Bytes of the parts of a training step, counted on fake tensors: the real modules run without memory or time."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..benchmark.memory import PeakMemory
from ..errors import UserError
from ..models.backbones import folded, vit22b
from ..models.backbones.block import ParallelBlock
from ..models.backbones.contract import DTYPES
from ..models.decoders.depth import DepthHead
from ..models.decoders.linear import LinearHead
from ..models.decoders.upsampled import NUMBERS_OF_PIXEL, strip_numbers

FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Pass:
    """What one pass through a part takes, in bytes.

    Attributes:
        stored: stays for the backward pass, the result included.
        peak: the most at one time in forward and backward pass, with the gradients of the parameters.
        alone: the most at one time where nothing is kept for a backward pass.
    """

    stored: int
    peak: int
    alone: int


@dataclass(frozen=True)
class Rehearsal:
    """A model's parts.

    Attributes:
        blocks: how many. heads: of their attention. block, stem, decoder: numbers of parameters; of one block.
        largest: parameters of the largest tensor.
        levels: maps that the decoder reads.
        token_map: bytes of one map, or of the tokens between two blocks, in float32.
        images: bytes of a batch, in float32.
        run: of one block in float32 or as `amp` has it. low: of one in bfloat16 between float32 tokens.
        norm: of the block's first norm, in bfloat16: the part that tensor parallelism does not divide.
        maps: of making one map. decode: of neck, head and loss.
        folded: bytes of weights that a frozen backbone derives from the stored ones.
    """

    blocks: int
    heads: int
    block: int
    stem: int
    decoder: int
    largest: int
    levels: int
    token_map: int
    images: int
    run: Pass
    low: Pass
    norm: Pass
    maps: Pass
    decode: Pass
    folded: int

    @property
    def backbone(self) -> int:
        """Its parameters."""
        return self.blocks * self.block + self.stem


def rehearse(cfg: Config, batch: int, tokens: int, amp: bool = False) -> Rehearsal:
    """Count the parts of a config's model.

    Args:
        cfg: with the model; its backbone a `ViT22B` or `PlainViT`.
        batch: images of one process.
        tokens: of an image.
        amp: whether what is trained runs in mixed precision.

    Raises:
        UserError: another backbone.
    """
    init_default_scope('mmseg')
    backbone_cfg = dict(cfg.model.backbone)
    if backbone_cfg['type'] not in ('ViT22B', 'PlainViT'):
        raise UserError(f'{backbone_cfg["type"]}: only ViT22B and PlainViT can be planned for')
    with torch.device('meta'):
        # without weights: their file need not be there
        model = MODELS.build(dict(cfg.model, backbone=dict(backbone_cfg, init_cfg=None, dtype='float32')))
    body, frozen, dtype = model.backbone, model.backbone.frozen, DTYPES[backbone_cfg.get('dtype', 'float32')]
    height, width = grid_of(tokens)
    patch, dims = body.patch_size, body.embed_dims
    block_bytes = _size(body.blocks[-1]) * dtype.itemsize
    folds = frozen and isinstance(body, vit22b.ViT22B) and len(body.blocks) * block_bytes <= vit22b.FOLDED_BYTES
    levels = len(body.out_indices)
    decoder = nn.ModuleDict(dict(head=model.decode_head) | (dict(neck=model.neck) if model.with_neck else {}))
    parameters = [p.numel() for p in model.parameters()]
    with FakeTensorMode(allow_non_fake_inputs=True):
        block = _faked(body.blocks[-1], dtype).train(not frozen)
        _faked(body.norm, dtype)
        decoder = _faked(decoder, torch.float32)
        x = torch.empty(batch, tokens + (body.cls_token is not None), dims, dtype=dtype, requires_grad=not frozen)
        run = _count(block, x, amp=amp)
        if folds:
            weights = _folded_weights(block, dims, dtype)
            run = Pass(run.stored, run.peak, _count(lambda x: folded.forward(x, *weights), x).alone)
        maps = _count(lambda x: body.maps(x, (height, width)).float(), x, amp=amp)
        read = [torch.empty(batch, dims, height, width, requires_grad=not frozen) for _ in range(levels)]
        pixels = height * patch, width * patch
        decode = _count(lambda *read: _loss(decoder, read, pixels), *read, amp=amp)
        low = _faked(block, torch.bfloat16)
        between = x.detach().float().requires_grad_(not frozen)
        cast = _count(lambda x: low(x.bfloat16()).float(), between)
        first = low.norm if hasattr(low, 'norm') else low.norm1
        norm = _count(first, between.detach().bfloat16().requires_grad_(not frozen))
    return Rehearsal(
        blocks=len(body.blocks), heads=_heads(body), block=_size(block), decoder=_size(decoder),
        stem=_size(body) - len(body.blocks) * _size(block), largest=max(parameters), levels=levels,
        token_map=math.prod(x.shape) * FLOAT, images=batch * 3 * math.prod(pixels) * FLOAT,
        run=run, low=cast, norm=norm, maps=maps, decode=decode,
        folded=len(body.blocks) * block_bytes if folds else 0,
    )  # fmt: skip


def grid_of(tokens: int) -> tuple[int, int]:
    """Height and width of the grid nearest to a square."""
    height = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    return height, tokens // height


def _heads(body: nn.Module) -> int:
    block = body.blocks[0]
    return len(block.up_bias) if isinstance(block, ParallelBlock) else block.attn.num_heads


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _faked(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with parameters and buffers that are fake tensors on the CPU."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=dtype), p.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module


def _folded_weights(block: nn.Module, dims: int, dtype: torch.dtype) -> list[Tensor]:
    hidden, head = block.up_bias.numel(), block.head_dims
    shapes = (2 * dims, dims), (head,), (dims, dims), (hidden, dims), (hidden,), (dims, dims), (dims, hidden), (dims,)
    return [torch.empty(shape, dtype=dtype) for shape in shapes]


def _count(part: Callable[..., Tensor], *inputs: Tensor, amp: bool = False) -> Pass:
    """Count a part on its inputs, in mixed precision with ``amp``."""

    def precision() -> AbstractContextManager:
        return torch.autocast('cpu', torch.bfloat16) if amp else nullcontext()

    with torch.no_grad(), PeakMemory() as alone, precision():
        part(*inputs)
    with PeakMemory() as memory:
        with precision():
            out = part(*inputs)
        stored = memory.live
        if out.requires_grad:
            out.backward(torch.empty_like(out))
    return Pass(stored, memory.peak, alone.peak)


def _loss(decoder: nn.ModuleDict, maps: list[Tensor], pixels: tuple[int, int]) -> Tensor:
    """Neck, head and a loss that takes the memory of the real one, without looking at numbers."""
    head = decoder['head']
    out = head(decoder['neck'](tuple(maps)) if 'neck' in decoder else tuple(maps))
    if isinstance(head, LinearHead):  # image by image in strips, and the gradient of the logits is made at once
        _, classes, height, _ = out.shape
        wide = torch.empty(2, classes, height, pixels[1])  # logits as wide as the image, and their gradient
        strip = torch.empty(min(strip_numbers(torch.device('cpu')), classes * math.prod(pixels)))
        of_image = torch.empty(NUMBERS_OF_PIXEL, *pixels)
        loss = (out * torch.empty_like(out)).sum()
        del wide, strip, of_image
        return loss
    out = F.interpolate(out.float(), pixels, mode='bilinear', align_corners=False)
    if isinstance(head, DepthHead):
        return out.square().mean()
    return F.cross_entropy(out, torch.empty(len(out), *pixels, dtype=torch.int64))
