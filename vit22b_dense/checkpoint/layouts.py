"""Layouts: under which names and in which shapes one and the same weights are stored.

Each layout is described by how its tensors become ours: those of `ViT22B` where the blocks are parallel, those of
`PlainViT` where they are sequential. The two compute different functions: no conversion leads from one to the other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Our tensors, outside of the blocks and of a block, and their shapes; with ? a model may be without it. The sizes:
# D embed_dims, M mlp_dims, H heads, m = M / H, N of the query norm, h and w the grid of positions, c, i and j the
# patch's channels and pixels; Q = 3 D, I = 3 D + M and O = D + M are those of fused products.
SHAPES = {
    'vit22b': (
        {'patch_embed.weight': 'Dcij', 'patch_embed.bias': 'D', 'pos_embed': '1hwD', 'norm.weight': 'D'},
        {
            'norm.weight': 'D', 'in_proj.weight': 'ID', 'up_bias': 'Hm', 'q_norm.weight': 'N', 'k_norm.weight': 'N',
            'out_proj.weight': 'DO', 'out_bias': 'D',
        },
    ),
    'plain': (
        {
            'patch_embed.weight': 'Dcij', 'patch_embed.bias': 'D', 'pos_embed': '1hwD', 'cls_token': '11D?',
            'cls_pos_embed': '11D?', 'norm.weight': 'D?', 'norm.bias': 'D?',
        },
        {
            'norm1.weight': 'D', 'norm1.bias': 'D?', 'attn.qkv.weight': 'QD', 'attn.qkv.bias': 'Q?',
            'attn.q_norm.weight': 'N?', 'attn.k_norm.weight': 'N?', 'attn.proj.weight': 'DD', 'attn.proj.bias': 'D',
            'ls1': 'D?', 'norm2.weight': 'D', 'norm2.bias': 'D?', 'mlp.fc1.weight': 'MD', 'mlp.fc1.bias': 'M',
            'mlp.fc2.weight': 'DM', 'mlp.fc2.bias': 'D', 'ls2': 'D?',
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A way to store a model.

    Attributes:
        name: as the tool takes it. ours: the layout of ours with the same weights.
        block_name: prefix of the tensors of a block, with ``{}`` for its number.
        signature: the name that tells this layout from the others.
        stem, block: of our tensors outside of the blocks, and of a block: the tensors that they are stored in, and how
            (see `to_ours`). What is not named here has no place in this layout.
        ignored: beginnings of names which no other layout knows and none needs.
    """

    name: str
    ours: str
    block_name: str
    signature: str
    stem: Mapping[str, str]
    block: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def groups(self, num_layers: int) -> Iterator[tuple[list[str], list[str], str, str]]:
        """Of each group of tensors: our names, its names here, how, and what all blocks call it if it is optional."""
        blocks = ((f'blocks.{i}.', self.block_name.format(i), self.block, 1) for i in range(num_layers))
        for mine, its, table, in_block in (('', '', self.stem, 0), *blocks):
            for names, stored in table.items():
                how, _, stored = stored.rpartition(': ')
                ours, shapes = names.split(), SHAPES[self.ours][in_block]
                optional = mine[:6] + names if all(shapes[name].endswith('?') for name in ours) else ''
                yield [mine + name for name in ours], [its + name for name in stored.split()], how, optional


def to_ours(how: str, tensors: Sequence[Tensor], heads: int) -> list[Tensor]:
    """The tensors of a group as ours.

    ``rows``: three of one shape below each other. ``grid``: positions in a row, also with the class token's ahead.
    ``in``, ``up``, ``out``: with the heads' shares interleaved as `ParallelBlock` has them. ``sum``: two biases added
    up; on the way back the first takes it all.
    """
    first = tensors[0]
    if how == 'rows':
        return [torch.stack(list(tensors)).flatten(0, 1)]
    if how.endswith('grid'):
        tokens = 1 if how == 'class grid' else 0  # ahead of the patches
        side = math.isqrt(max(first.shape[1] - tokens, 1))
        return [first[:, :tokens], first[:, tokens:].unflatten(1, (side, side))][1 - tokens :]
    if how == 'in':
        up, *qkv = first.split([len(first) - 3 * first.shape[1], *[first.shape[1]] * 3])
        return [torch.cat([t.unflatten(0, (heads, -1)) for t in (*qkv, up)], 1).flatten(0, 1)]
    if how == 'out':
        return [torch.cat([t.unflatten(1, (heads, -1)) for t in tensors], 2).flatten(1, 2)]
    if how == 'sum' and not first.is_meta and tensors[1].any():  # adding zeros would turn -0 into 0
        return [(first.double() + tensors[1].double()).to(first.dtype) if first.any() else tensors[1]]
    return [first.unflatten(0, (heads, -1))] if how == 'up' else [first]


def from_ours(how: str, tensors: Sequence[Tensor], heads: int) -> list[Tensor]:
    """Our tensors of a group as they are stored; the inverse of `to_ours`."""
    first = tensors[0]
    if how == 'rows':
        return list(first.unflatten(0, (3, -1)))
    if how.endswith('grid'):
        return [torch.cat([t.flatten(1, -2) for t in tensors], 1)]
    if how == 'in':
        rows, share = first.unflatten(0, (heads, -1)), first.shape[1] // heads
        *qkv, up = rows.split([*[share] * 3, rows.shape[1] - 3 * share], 1)
        return [torch.cat([t.flatten(0, 1) for t in (up, *qkv)])]
    if how == 'out':
        columns, share = first.unflatten(1, (heads, -1)), len(first) // heads
        return [t.flatten(1, 2) for t in columns.split([share, columns.shape[2] - share], 2)]
    if how == 'sum':
        return [first, torch.zeros_like(first)]
    return [first.flatten()] if how == 'up' else [first]


_SAME = {ours: [{name: name for name in table} for table in tables] for ours, tables in SHAPES.items()}
VIT22B = Layout('vit22b', 'vit22b', 'blocks.{}.', 'blocks.0.up_bias', *_SAME['vit22b'])
PLAIN = Layout('plain', 'plain', 'blocks.{}.', 'blocks.0.attn.qkv.weight', *_SAME['plain'])

# timm's VisionTransformer with ParallelScalingBlock (qkv_bias=False, qk_norm=True, RMS norms, no class token).
# timm splits the input product as [mlp | q | k | v]. Until it was mended in January 2026 (its issue 2653) it added
# cat(zeros for q, k, v; mlp_bias) to that product, so that the bias's last entries fell on q, k and v. Here mlp_bias
# is the MLP's, as its name, the paper and the mended block have it. At zero, timm's initial value, both are the same.
PARALLEL = Layout(
    'parallel', 'vit22b', 'blocks.{}.', 'blocks.0.attn_out_proj.weight',
    stem={
        'patch_embed.weight': 'patch_embed.proj.weight', 'patch_embed.bias': 'patch_embed.proj.bias',
        'pos_embed': 'grid: pos_embed', 'norm.weight': 'norm.weight',
    },
    block={
        'norm.weight': 'in_norm.weight', 'in_proj.weight': 'in: in_proj.weight', 'up_bias': 'up: mlp_bias',
        'q_norm.weight': 'q_norm.weight', 'k_norm.weight': 'k_norm.weight',
        'out_proj.weight': 'out: attn_out_proj.weight mlp_out_proj.weight',
        'out_bias': 'sum: attn_out_proj.bias mlp_out_proj.bias',
    },
    ignored=('head.',),
)  # fmt: skip

# The published InternViT safetensors, also inside of an InternVL model (prefix `vision_model.`).
INTERNVIT = Layout(
    'internvit', 'plain', 'encoder.layers.{}.', 'encoder.layers.0.attn.qkv.weight',
    stem={
        'cls_token': 'embeddings.class_embedding',
        'cls_pos_embed pos_embed': 'class grid: embeddings.position_embedding',
        **{f'patch_embed.{end}': f'embeddings.patch_embedding.{end}' for end in ('weight', 'bias')},
    },
    block=PLAIN.block,
)  # fmt: skip

# transformers' InternVLVisionModel, also inside of its InternVL models (prefix `vision_tower.` or with `model.`). Its
# DINOv2 has the names of q, k and v, too, but not that of the projection.
_RENAMED = {
    'norm1.': 'layernorm_before.', 'norm2.': 'layernorm_after.', 'attn.proj.': 'attention.projection_layer.',
    'attn.': 'attention.', 'ls': 'lambda_', 'mlp.': 'mlp.',
}  # fmt: skip
INTERNVL_HF = Layout(
    'internvl_hf', 'plain', 'encoder.layer.{}.', 'encoder.layer.0.attention.projection_layer.weight',
    stem={
        'cls_token': 'embeddings.cls_token',
        'cls_pos_embed pos_embed': 'class grid: embeddings.position_embeddings',
        **{f'patch_embed.{end}': f'embeddings.patch_embeddings.projection.{end}' for end in ('weight', 'bias')},
        **{f'norm.{end}': f'layernorm.{end}' for end in ('weight', 'bias')},
    },
    block={
        **{name: next(new + name.removeprefix(old) for old, new in _RENAMED.items() if name.startswith(old))
           for name in PLAIN.block},
        **{f'attn.qkv.{end}': 'rows: ' + ' '.join(f'attention.{p}_proj.{end}' for p in 'qkv')
           for end in ('weight', 'bias')},
    },
    ignored=('embeddings.mask_token',),  # for masked pre-training only
)  # fmt: skip

LAYOUTS = {layout.name: layout for layout in (VIT22B, PARALLEL, PLAIN, INTERNVIT, INTERNVL_HF)}
