"""Layouts: under which names and in which shapes one and the same weights are stored.

A layout lists its stored tensors. Each is joined from *parts*, the smallest pieces that any layout stores separately
(the weight of q, of k, …), and splits into them again. Layouts of the same parts form a family; a conversion joins
each tensor of one from parts of the other, so that it needs only a few tensors at a time.

Families: ``parallel`` blocks (`ViT22B`) and ``sequential`` blocks (`PlainViT`). They compute different functions: no
conversion leads from one to the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Shapes of the parts, matrices ``(out, in)`` with all heads together; of all others: D. The sizes: D embed_dims, M
# mlp_dims, N the query norm's length, h and w the grid of positions, c, i and j the patch's channels and pixels.
PARTS = {
    'patch.weight': 'Dcij', 'cls': '11D', 'cls_pos': '11D', 'pos': '1hwD', 'q': 'DD', 'k': 'DD', 'v': 'DD',
    'q_norm': 'N', 'k_norm': 'N', 'attn': 'DD', 'up': 'MD', 'up.bias': 'M', 'down': 'DM',
}  # fmt: skip
Sizes = Mapping[str, int]  # the letters above, '1', and H: the number of heads
_AXES = {'rows': 0, 'head_rows': 0, 'head_columns': 1}


def size_letters(part: str) -> str:
    """The shape of a part, such as ``up`` or ``blocks.3.up``, a letter for each axis."""
    return PARTS.get(part.split('.', 2)[2] if part.startswith('blocks.') else part, 'D')


def part_shape(part: str, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a part in a model of these sizes."""
    return tuple(sizes[letter] for letter in size_letters(part))


@dataclass(frozen=True)
class Stored:
    """A stored tensor, and how it is joined from its parts.

    Attributes:
        name: within the model. parts: their names, as `size_letters` takes them.
        how: ``''``: it is its one part. ``rows``: parts below each other. ``head_rows``, ``head_columns``: for each
            head its share of every part, as `ParallelBlock` has them. ``per_head``: a vector as ``(H, n)``. ``flat``:
            positions in a row. ``sum``: two biases added up; on the way back the first takes it all.
        optional: whether a model may be without it.
    """

    name: str
    parts: tuple[str, ...]
    how: str
    optional: bool

    def join(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """The parts to the tensor."""
        if self.how in _AXES:
            dim, heads = _AXES[self.how], 1 if self.how == 'rows' else sizes['H']
            return torch.cat([part.unflatten(dim, (heads, -1)) for part in parts], dim + 1).flatten(dim, dim + 1)
        if self.how == 'per_head':
            return parts[0].unflatten(0, (sizes['H'], -1))
        if self.how == 'flat':
            return torch.cat([part.flatten(1, -2) for part in parts], 1)
        if self.how == 'sum' and not parts[0].is_meta and parts[1].any():  # adding zeros would turn -0 into 0
            return (parts[0].double() + parts[1].double()).to(parts[0].dtype) if parts[0].any() else parts[1]
        return parts[0]

    def split(self, tensor: Tensor, sizes: Sizes) -> Sequence[Tensor]:
        """The tensor to its parts."""
        if self.how in _AXES:
            dim, heads = _AXES[self.how], 1 if self.how == 'rows' else sizes['H']
            shares = [part_shape(part, sizes)[dim] // heads for part in self.parts]
            return [t.flatten(dim, dim + 1) for t in tensor.unflatten(dim, (heads, -1)).split(shares, dim + 1)]
        if self.how == 'per_head':
            return [tensor.flatten()]
        if self.how == 'flat':
            tokens = len(self.parts) - 1  # ahead of the patches
            patches = tensor[:, tokens:].unflatten(1, (sizes['h'], sizes['w']))
            return [*(tensor[:, i : i + 1] for i in range(tokens)), patches]
        return [tensor, torch.zeros_like(tensor)] if self.how == 'sum' else [tensor]


@dataclass(frozen=True)
class Layout:
    """A way to store a model.

    Attributes:
        name: as the tool takes it. family: the layouts that it can be converted to and from share it.
        block_name: prefix of the tensors of a block, with ``{}`` for its number.
        signature: names that together tell this layout from the others.
        stem: tensors outside of the blocks. block: those of a block. From a name, with ``?`` if it is optional, to a
            part, or to parts and how they are joined (see `Stored`).
        ignored: beginnings of names which no other layout knows and none needs.
    """

    name: str
    family: str
    block_name: str
    signature: tuple[str, ...]
    stem: Mapping[str, str]
    block: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    def tensors(self, num_layers: int) -> Iterator[Stored]:
        """Every tensor of a model of so many blocks, the optional ones too."""
        blocks = ((self.block_name.format(i), f'blocks.{i}.', self.block) for i in range(num_layers))
        for prefix, block, entries in (('', '', self.stem), *blocks):
            for name, made in entries.items():
                how, _, parts = made.rpartition(': ')
                parts = tuple(block + part for part in parts.split())
                yield Stored(prefix + name.rstrip('?'), parts, how, name.endswith('?'))


# --- parallel blocks -------------------------------------------------------------------------------------------------

_HEAD_NORMS = {'q_norm.weight': 'q_norm', 'k_norm.weight': 'k_norm'}
VIT22B = Layout(
    'vit22b', 'parallel', 'blocks.{}.',
    signature=('patch_embed.weight', 'blocks.0.in_proj.weight', 'blocks.0.out_proj.weight', 'blocks.0.up_bias'),
    stem={
        'patch_embed.weight': 'patch.weight', 'patch_embed.bias': 'patch.bias', 'pos_embed': 'pos',
        'norm.weight': 'norm',
    },
    block={
        'norm.weight': 'norm', 'in_proj.weight': 'head_rows: q k v up', 'up_bias': 'per_head: up.bias', **_HEAD_NORMS,
        'out_proj.weight': 'head_columns: attn down', 'out_bias': 'sum: attn.bias down.bias',
    },
)  # fmt: skip

# timm's VisionTransformer with ParallelScalingBlock (qkv_bias=False, qk_norm=True, RMS norms, no class token).
# timm splits the input product as [mlp | q | k | v]. Until it was mended in January 2026 (its issue 2653) it added
# cat(zeros for q, k, v; mlp_bias) to that product, so that the bias's last entries fell on q, k and v. Here mlp_bias
# is the MLP's, as its name, the paper and the mended block have it. At zero, timm's initial value, both are the same.
PARALLEL = Layout(
    'parallel', 'parallel', 'blocks.{}.',
    signature=('patch_embed.proj.weight', 'blocks.0.in_proj.weight', 'blocks.0.attn_out_proj.weight'),
    stem={
        'patch_embed.proj.weight': 'patch.weight', 'patch_embed.proj.bias': 'patch.bias', 'pos_embed': 'flat: pos',
        'norm.weight': 'norm',
    },
    block={
        'in_norm.weight': 'norm', 'in_proj.weight': 'rows: up q k v', 'mlp_bias': 'up.bias', **_HEAD_NORMS,
        'attn_out_proj.weight': 'attn', 'attn_out_proj.bias': 'attn.bias',
        'mlp_out_proj.weight': 'down', 'mlp_out_proj.bias': 'down.bias',
    },
    ignored=('head.',),
)  # fmt: skip

# --- sequential blocks -----------------------------------------------------------------------------------------------

_MLP = {'mlp.fc1.weight': 'up', 'mlp.fc1.bias': 'up.bias', 'mlp.fc2.weight': 'down', 'mlp.fc2.bias': 'down.bias'}
_FUSED_BLOCK = {
    'norm1.weight': 'norm1', 'norm1.bias?': 'norm1.bias',
    'attn.qkv.weight': 'rows: q k v', 'attn.qkv.bias?': 'rows: q.bias k.bias v.bias',
    'attn.q_norm.weight?': 'q_norm', 'attn.k_norm.weight?': 'k_norm',
    'attn.proj.weight': 'attn', 'attn.proj.bias': 'attn.bias', 'ls1?': 'ls1',
    'norm2.weight': 'norm2', 'norm2.bias?': 'norm2.bias', **_MLP, 'ls2?': 'ls2',
}  # fmt: skip
PLAIN = Layout(
    'plain', 'sequential', 'blocks.{}.',
    signature=('patch_embed.weight', 'blocks.0.attn.qkv.weight', 'blocks.0.mlp.fc1.weight'),
    stem={
        'cls_token?': 'cls', 'cls_pos_embed?': 'cls_pos', 'pos_embed': 'pos', 'patch_embed.weight': 'patch.weight',
        'patch_embed.bias': 'patch.bias', 'norm.weight?': 'norm', 'norm.bias?': 'norm.bias',
    },
    block=_FUSED_BLOCK,
)  # fmt: skip

# The published InternViT safetensors, also inside of an InternVL model (prefix `vision_model.`).
INTERNVIT = Layout(
    'internvit', 'sequential', 'encoder.layers.{}.',
    signature=('embeddings.class_embedding', 'encoder.layers.0.attn.qkv.weight'),
    stem={
        'embeddings.class_embedding': 'cls', 'embeddings.position_embedding': 'flat: cls_pos pos',
        'embeddings.patch_embedding.weight': 'patch.weight', 'embeddings.patch_embedding.bias': 'patch.bias',
    },
    block=_FUSED_BLOCK,
)  # fmt: skip

# transformers' InternVLVisionModel, also inside of its InternVL models (prefix `vision_tower.` or with `model.`).
INTERNVL_HF = Layout(
    'internvl_hf', 'sequential', 'encoder.layer.{}.',
    signature=('embeddings.cls_token', 'encoder.layer.0.attention.q_proj.weight'),
    stem={
        'embeddings.cls_token': 'cls', 'embeddings.position_embeddings': 'flat: cls_pos pos',
        'embeddings.patch_embeddings.projection.weight': 'patch.weight',
        'embeddings.patch_embeddings.projection.bias': 'patch.bias',
        'layernorm.weight?': 'norm', 'layernorm.bias?': 'norm.bias',
    },
    block={
        'layernorm_before.weight': 'norm1', 'layernorm_before.bias?': 'norm1.bias',
        **{f'attention.{p}_proj.weight': p for p in 'qkv'},
        **{f'attention.{p}_proj.bias?': f'{p}.bias' for p in 'qkv'},
        'attention.q_norm.weight?': 'q_norm', 'attention.k_norm.weight?': 'k_norm',
        'attention.projection_layer.weight': 'attn', 'attention.projection_layer.bias': 'attn.bias',
        'lambda_1?': 'ls1', 'layernorm_after.weight': 'norm2', 'layernorm_after.bias?': 'norm2.bias',
        **_MLP, 'lambda_2?': 'ls2',
    },
    ignored=('embeddings.mask_token',),  # for masked pre-training only
)  # fmt: skip

LAYOUTS = {layout.name: layout for layout in (VIT22B, PARALLEL, PLAIN, INTERNVIT, INTERNVL_HF)}
OURS = {'parallel': 'vit22b', 'sequential': 'plain'}
