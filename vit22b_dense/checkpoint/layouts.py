"""Layouts: under which names and in which shapes one and the same weights are stored.

A layout lists its stored tensors. Each is joined from *parts*, the smallest pieces that any layout stores on its own
(the weight of q, of k, …), and splits into them again. Two layouts of the same parts form a family; between them a
tensor of the one is joined from the parts of the other, so that a conversion needs only a few tensors at a time.

Families: ``parallel`` blocks (`ViT22B`) and ``sequential`` blocks (`PlainViT`). They compute different functions:
no conversion leads from one to the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The sizes that the shapes of a model follow from.

    Attributes:
        embed_dims: D. mlp_dims: M. num_heads: H; 0 in the sequential family, where no shape involves it.
        grid: rows and columns of the position embedding. patch: input channels and patch size in pixels.
    """

    embed_dims: int
    mlp_dims: int
    num_heads: int
    grid: tuple[int, int]
    patch: tuple[int, int, int]


def part_shape(part: str, s: Sizes) -> tuple[int, ...]:
    """The shape of a part. Matrices are as `torch.nn.Linear` stores them, ``(out, in)``, all heads together."""
    d, m = s.embed_dims, s.mlp_dims
    shapes = {
        'patch.weight': (d, *s.patch),
        'cls': (1, 1, d),
        'cls_pos': (1, 1, d),
        'pos': (1, *s.grid, d),
        **dict.fromkeys(('q', 'k', 'v', 'attn'), (d, d)),
        'up': (m, d),
        'up.bias': (m,),
        'down': (d, m),
        **{part: (d // s.num_heads,) for part in ('q_norm', 'k_norm') if s.num_heads},
    }
    return shapes.get(part, (d,))


Join = Callable[[Sequence[Tensor], Sizes], Tensor]
Split = Callable[[Tensor, Sizes], Sequence[Tensor]]


@dataclass(frozen=True)
class Stored:
    """One stored tensor of a layout.

    Attributes:
        name: within the model or, for those of a block, within the block.
        parts: what it is joined from.
        join: the parts to the tensor. split: back.
        optional: whether a model may be without it.
    """

    name: str
    parts: tuple[str, ...]
    join: Join = lambda parts, sizes: parts[0]
    split: Split = lambda tensor, sizes: (tensor,)
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """A way to store a model.

    Attributes:
        name: as the tool takes it.
        family: the layouts that it can be converted to and from share it.
        stem: tensors outside of the blocks. block: those of a block.
        block_name: their prefix, with ``{}`` for the number of the block.
        signature: names that tell this layout from the others, together.
        ignored: names, or beginnings of names that end in a dot, which no other layout knows and none needs.
    """

    name: str
    family: str
    stem: tuple[Stored, ...]
    block: tuple[Stored, ...]
    block_name: str
    signature: tuple[str, ...]
    ignored: tuple[str, ...] = ()


# --- joining and splitting -------------------------------------------------------------------------------------------


def _rows(parts: tuple[str, ...]) -> tuple[Join, Split]:
    """Parts below each other."""

    def split(tensor: Tensor, sizes: Sizes) -> Sequence[Tensor]:
        return tensor.split([part_shape(part, sizes)[0] for part in parts])

    return lambda tensors, sizes: torch.cat(list(tensors)), split


def _by_heads(parts: tuple[str, ...], dim: int) -> tuple[Join, Split]:
    """For each head, its share of every part: rows (``dim`` 0) or columns (1), as `ParallelBlock` has them."""

    def join(tensors: Sequence[Tensor], sizes: Sizes) -> Tensor:
        shares = [t.unflatten(dim, (sizes.num_heads, -1)) for t in tensors]
        return torch.cat(shares, dim + 1).flatten(dim, dim + 1)

    def split(tensor: Tensor, sizes: Sizes) -> Sequence[Tensor]:
        heads = tensor.unflatten(dim, (sizes.num_heads, -1))
        shares = [part_shape(part, sizes)[dim] // sizes.num_heads for part in parts]
        return [t.flatten(dim, dim + 1) for t in heads.split(shares, dim + 1)]

    return join, split


def _sum(tensors: Sequence[Tensor], sizes: Sizes) -> Tensor:
    first, second = tensors
    if first.is_meta or not second.any():  # adding zeros would turn -0 into 0
        return first
    return (first.double() + second.double()).to(first.dtype) if first.any() else second


def _flat_grid(tensors: Sequence[Tensor], sizes: Sizes) -> Tensor:
    return torch.cat([t.flatten(1, -2) for t in tensors], 1)


def _grid(tensor: Tensor, sizes: Sizes) -> Sequence[Tensor]:
    return (tensor.unflatten(1, sizes.grid),)


def _class_and_grid(tensor: Tensor, sizes: Sizes) -> Sequence[Tensor]:
    return tensor[:, :1], tensor[:, 1:].unflatten(1, sizes.grid)


def _joined(name: str, parts: tuple[str, ...], joining: tuple[Join, Split], optional: bool = False) -> Stored:
    return Stored(name, parts, joining[0], joining[1], optional)


def _plain(names: dict[str, str]) -> tuple[Stored, ...]:
    """Tensors that are a part each; a name that ends in ``?`` is optional."""
    return tuple(Stored(name.rstrip('?'), (part,), optional=name.endswith('?')) for name, part in names.items())


# The two biases of the output products have one place in ours. Back, the attention's takes it all.
_OUT_BIASES = ('attn.bias', 'down.bias')
_OUT_BIAS = (_sum, lambda tensor, sizes: (tensor, torch.zeros_like(tensor)))
_UP_BIAS = (lambda t, s: t[0].unflatten(0, (s.num_heads, -1)), lambda t, s: (t.flatten(),))
_QKV, _IN, _OUT = ('q', 'k', 'v'), ('q', 'k', 'v', 'up'), ('attn', 'down')
_QKV_BIAS = ('q.bias', 'k.bias', 'v.bias')
_OWN_STEM = _plain({
    'patch_embed.weight': 'patch.weight', 'patch_embed.bias': 'patch.bias', 'pos_embed': 'pos', 'norm.weight': 'norm',
})  # fmt: skip
_HEAD_NORMS = _plain({'q_norm.weight': 'q_norm', 'k_norm.weight': 'k_norm'})

# --- parallel blocks -------------------------------------------------------------------------------------------------

VIT22B = Layout(
    name='vit22b',
    family='parallel',
    stem=_OWN_STEM,
    block=(
        *_plain({'norm.weight': 'norm'}),
        _joined('in_proj.weight', _IN, _by_heads(_IN, 0)),
        _joined('up_bias', ('up.bias',), _UP_BIAS),
        *_HEAD_NORMS,
        _joined('out_proj.weight', _OUT, _by_heads(_OUT, 1)),
        _joined('out_bias', _OUT_BIASES, _OUT_BIAS),
    ),
    block_name='blocks.{}.',
    signature=('patch_embed.weight', 'blocks.0.in_proj.weight', 'blocks.0.out_proj.weight', 'blocks.0.up_bias'),
)

# timm's VisionTransformer with ParallelScalingBlock (qkv_bias=False, qk_norm=True, RMS norms, no class token).
# timm splits the input product as [mlp | q | k | v]. Until it was mended in January 2026 (its issue 2653) it added
# cat(zeros for q, k, v; mlp_bias) to that product, so that the bias's last entries fell on q, k and v. Here mlp_bias
# is the MLP's, as its name, the paper and the mended block have it. At zero, timm's initial value, both are the same.
_TIMM_IN = ('up', 'q', 'k', 'v')
PARALLEL = Layout(
    name='parallel',
    family='parallel',
    stem=(
        *_plain({'patch_embed.proj.weight': 'patch.weight', 'patch_embed.proj.bias': 'patch.bias'}),
        _joined('pos_embed', ('pos',), (_flat_grid, _grid)),
        *_plain({'norm.weight': 'norm'}),
    ),
    block=(
        *_plain({'in_norm.weight': 'norm'}),
        _joined('in_proj.weight', _TIMM_IN, _rows(_TIMM_IN)),
        *_plain({'mlp_bias': 'up.bias'}),
        *_HEAD_NORMS,
        *_plain({
            'attn_out_proj.weight': 'attn', 'attn_out_proj.bias': 'attn.bias',
            'mlp_out_proj.weight': 'down', 'mlp_out_proj.bias': 'down.bias',
        }),
    ),
    block_name='blocks.{}.',
    signature=('patch_embed.proj.weight', 'blocks.0.in_proj.weight', 'blocks.0.attn_out_proj.weight'),
    ignored=('head.',),
)  # fmt: skip

SEPARATE = Layout(
    name='separate',
    family='parallel',
    stem=_OWN_STEM,
    block=(
        *_plain({
            'norm.weight': 'norm', 'q_proj.weight': 'q', 'k_proj.weight': 'k', 'v_proj.weight': 'v',
            'up_proj.weight': 'up', 'up_proj.bias': 'up.bias',
        }),
        *_HEAD_NORMS,
        *_plain({'attn_proj.weight': 'attn', 'down_proj.weight': 'down'}),
        _joined('down_proj.bias', _OUT_BIASES, _OUT_BIAS),
    ),
    block_name='blocks.{}.',
    signature=('patch_embed.weight', 'blocks.0.q_proj.weight', 'blocks.0.down_proj.weight'),
)  # fmt: skip

# --- sequential blocks -----------------------------------------------------------------------------------------------

_MLP = {'mlp.fc1.weight': 'up', 'mlp.fc1.bias': 'up.bias', 'mlp.fc2.weight': 'down', 'mlp.fc2.bias': 'down.bias'}
_FUSED_BLOCK = (
    *_plain({'norm1.weight': 'norm1', 'norm1.bias?': 'norm1.bias'}),
    _joined('attn.qkv.weight', _QKV, _rows(_QKV)),
    _joined('attn.qkv.bias', _QKV_BIAS, _rows(_QKV_BIAS), optional=True),
    *_plain({
        'attn.q_norm.weight?': 'q_norm', 'attn.k_norm.weight?': 'k_norm',
        'attn.proj.weight': 'attn', 'attn.proj.bias': 'attn.bias', 'ls1?': 'ls1',
        'norm2.weight': 'norm2', 'norm2.bias?': 'norm2.bias', **_MLP, 'ls2?': 'ls2',
    }),
)  # fmt: skip

PLAIN = Layout(
    name='plain',
    family='sequential',
    stem=_plain({
        'cls_token?': 'cls', 'cls_pos_embed?': 'cls_pos', 'pos_embed': 'pos', 'patch_embed.weight': 'patch.weight',
        'patch_embed.bias': 'patch.bias', 'norm.weight?': 'norm', 'norm.bias?': 'norm.bias',
    }),
    block=_FUSED_BLOCK,
    block_name='blocks.{}.',
    signature=('patch_embed.weight', 'blocks.0.attn.qkv.weight', 'blocks.0.mlp.fc1.weight'),
)  # fmt: skip

# The published InternViT safetensors, also inside of an InternVL model (prefix `vision_model.`).
INTERNVIT = Layout(
    name='internvit',
    family='sequential',
    stem=(
        *_plain({
            'embeddings.class_embedding': 'cls', 'embeddings.patch_embedding.weight': 'patch.weight',
            'embeddings.patch_embedding.bias': 'patch.bias',
        }),
        _joined('embeddings.position_embedding', ('cls_pos', 'pos'), (_flat_grid, _class_and_grid)),
    ),
    block=_FUSED_BLOCK,
    block_name='encoder.layers.{}.',
    signature=('embeddings.class_embedding', 'encoder.layers.0.attn.qkv.weight'),
)  # fmt: skip

# transformers' InternVLVisionModel, also inside of its InternVL models (prefix `vision_tower.` or with `model.`).
INTERNVL_HF = Layout(
    name='internvl_hf',
    family='sequential',
    stem=(
        *_plain({
            'embeddings.cls_token': 'cls', 'embeddings.patch_embeddings.projection.weight': 'patch.weight',
            'embeddings.patch_embeddings.projection.bias': 'patch.bias',
            'layernorm.weight?': 'norm', 'layernorm.bias?': 'norm.bias',
        }),
        _joined('embeddings.position_embeddings', ('cls_pos', 'pos'), (_flat_grid, _class_and_grid)),
    ),
    block=_plain({
        'layernorm_before.weight': 'norm1', 'layernorm_before.bias?': 'norm1.bias',
        **{f'attention.{p}_proj.weight': p for p in _QKV}, **{f'attention.{p}_proj.bias?': f'{p}.bias' for p in _QKV},
        'attention.q_norm.weight?': 'q_norm', 'attention.k_norm.weight?': 'k_norm',
        'attention.projection_layer.weight': 'attn', 'attention.projection_layer.bias': 'attn.bias',
        'lambda_1?': 'ls1', 'layernorm_after.weight': 'norm2', 'layernorm_after.bias?': 'norm2.bias',
        **_MLP, 'lambda_2?': 'ls2',
    }),
    block_name='encoder.layer.{}.',
    signature=('embeddings.cls_token', 'encoder.layer.0.attention.q_proj.weight'),
    ignored=('embeddings.mask_token',),  # for masked pre-training only
)  # fmt: skip

LAYOUTS = {layout.name: layout for layout in (VIT22B, PARALLEL, SEPARATE, PLAIN, INTERNVIT, INTERNVL_HF)}
OURS = {'parallel': VIT22B, 'sequential': PLAIN}
