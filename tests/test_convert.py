"""Conversion of checkpoints: bit-exact round trips, and layouts against written-out formulas."""

import json
import math
import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from made_weights import DTYPES, FORMATS, assert_same_bits, internvit_state, random_like, read, vit22b_state, write
from memory import PeakMemory
from safetensors.torch import load_file, save_file
from test_block import D, H, M, N, PlainBlock, random_block
from torch import nn

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import CheckpointError, convert_checkpoint
from vit22b_dense.checkpoint.layouts import LAYOUTS

# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('first', FORMATS)
@pytest.mark.parametrize('second', FORMATS)
def test_formats_keep_every_bit_of_a_whole_model(tmp_path, first, second, dtype):
    state = {f'backbone.{n}': t for n, t in vit22b_state(dtype).items()}
    state |= {'decode_head.weight': torch.randn(3, 5), 'decode_head.count': torch.tensor(7)}
    (tmp_path / 'b').mkdir()
    source = write(tmp_path / first, state)
    done = convert_checkpoint(source, tmp_path / 'b' / second, max_shard_bytes=2000)
    assert (done.source_layout, done.target_layout, done.left_out) == ('vit22b', 'vit22b', [])
    assert_same_bits(read(tmp_path / 'b' / second), state)
    assert_same_bits(read(source), state)


def test_what_is_written_is_what_the_libraries_read(tmp_path):
    state = vit22b_state(torch.bfloat16) | dict(flags=torch.tensor([True, False, True]), empty=torch.zeros(0, 3))
    source = write(tmp_path / 'w.pth', state)
    for name in ('one.safetensors', 'shards', 'again.pth'):
        convert_checkpoint(source, tmp_path / name, max_shard_bytes=4000)
    assert_same_bits(load_file(tmp_path / 'one.safetensors'), state)
    data = (tmp_path / 'one.safetensors').read_bytes()
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    assert header.pop('__metadata__') == dict(format='pt')  # transformers asks for it
    assert all((8 + length + e['data_offsets'][0]) % state[n].itemsize == 0 for n, e in header.items())
    again = torch.load(tmp_path / 'again.pth', weights_only=True)
    assert again['meta'] == dict(dataset_meta=dict(classes=['a']))
    assert_same_bits(again['state_dict'], state)
    index = json.loads((tmp_path / 'shards/model.safetensors.index.json').read_text())
    count = len(set(index['weight_map'].values()))
    assert count > 3
    assert index['metadata']['total_size'] == sum(t.nbytes for t in state.values())
    merged = {}
    for i in range(1, count + 1):
        shard = load_file(tmp_path / f'shards/model-{i:05d}-of-{count:05d}.safetensors')
        assert len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 4000
        merged |= shard
    assert_same_bits(merged, state)


def test_transformers_reads_our_shards_and_we_read_its(tmp_path):
    transformers = pytest.importorskip('transformers')
    model = internvl_model(transformers)
    model.save_pretrained(tmp_path / 'hf', max_shard_size='20KB')
    assert (tmp_path / 'hf/model.safetensors.index.json').exists()
    assert_same_bits(read(tmp_path / 'hf'), model.state_dict())
    convert_checkpoint(tmp_path / 'hf', tmp_path / 'ours', target_layout='same', max_shard_bytes=20_000)
    shutil.copy(tmp_path / 'hf/config.json', tmp_path / 'ours')
    loaded = transformers.InternVLVisionModel.from_pretrained(tmp_path / 'ours')
    assert_same_bits(loaded.state_dict(), model.state_dict())


def test_a_pth_does_not_hold_more_than_its_tensors(tmp_path):
    source = write(tmp_path / 'w.safetensors', internvit_state())
    convert_checkpoint(source, tmp_path / 'out.pth', target_layout='internvl_hf')  # rows of one tensor as three
    state = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in state.values())


def test_dtype_and_its_overflow(tmp_path):
    state = vit22b_state() | dict(steps=torch.tensor([3]))
    source = write(tmp_path / 'w.safetensors', state)
    convert_checkpoint(source, tmp_path / 'half.safetensors', dtype=torch.bfloat16)
    assert_same_bits(
        load_file(tmp_path / 'half.safetensors'),
        {n: t.to(torch.bfloat16) if n != 'steps' else t for n, t in state.items()},
    )
    state['norm.weight'][3] = 1e6
    source = write(tmp_path / 'big.safetensors', state)
    for target in ('half', 'other.pth'):
        with pytest.raises(CheckpointError, match=r'norm\.weight.*too large for float16; choose bfloat16'):
            convert_checkpoint(source, tmp_path / target, dtype=torch.float16)
        assert not (tmp_path / target).exists()
    del state['steps']
    with pytest.raises(CheckpointError, match=r'norm\.weight.*float16'):
        convert_checkpoint(write(tmp_path / 'big.pth', state), tmp_path / 'x', 'vit22b', 'parallel', dtype=torch.half)


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('kind', FORMATS)
def test_round_trips_of_parallel_blocks(tmp_path, dtype, kind):
    round_trip(tmp_path, vit22b_state(dtype), 'vit22b', ('parallel',), kind)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('path', [('plain',), ('internvl_hf',), ('plain', 'internvl_hf', 'plain')])
@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('options', [{}, dict(norm_bias=True, qk_norm=False)], ids=['6b', '300m'])
def test_round_trips_of_sequential_blocks(tmp_path, path, dtype, kind, options):
    round_trip(tmp_path, internvit_state(dtype, **options), 'internvit', path, kind)


def round_trip(tmp_path, state, layout, path, kind):
    (tmp_path / '0').mkdir()
    before = write(tmp_path / '0' / kind, state)
    for i, target in enumerate((*path, layout), 1):
        after = tmp_path / str(i) / kind
        done = convert_checkpoint(before, after, target_layout=target, max_shard_bytes=3000)
        assert done.target_layout == target
        assert LAYOUTS[target].signature in read(after)
        before = after
    assert_same_bits(read(before), state)


def timm_weights(block: PlainBlock) -> dict:
    """The written-out formula's weights in timm's storage."""
    heads = [w.reshape(D, D) for w in (block.wq, block.wk, block.wv)]
    return {
        'in_norm.weight': block.g, 'in_proj.weight': torch.cat([block.w1, *heads]), 'mlp_bias': block.b1,
        'q_norm.weight': block.qk[0], 'k_norm.weight': block.qk[1], 'attn_out_proj.weight': block.wo.reshape(D, D),
        'attn_out_proj.bias': block.b2 / 4, 'mlp_out_proj.weight': block.w2, 'mlp_out_proj.bias': block.b2 * 3 / 4,
    }  # fmt: skip


def converted_block(tmp_path, block, stem, layout):
    save_file({n: t.detach().contiguous() for n, t in (stem | block).items()}, tmp_path / 'in.safetensors')
    done = convert_checkpoint(tmp_path / 'in.safetensors', tmp_path / 'out.safetensors')
    assert (done.source_layout, done.target_layout) == (layout, 'vit22b')
    sizes = dict(embed_dims=D, num_layers=1, num_heads=H, mlp_dims=M)
    path = str(tmp_path / 'out.safetensors')
    model = ViT22B(sizes, img_size=28, init_cfg=dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    return model.blocks[0]


def stem_of(patch, pos):
    shapes = {patch + '.weight': (D, 3, 14, 14), patch + '.bias': (D,), 'norm.weight': (D,), 'pos_embed': pos}
    return random_like(shapes)


def test_weights_of_each_head_go_where_the_written_out_formula_has_them(tmp_path):
    plain = PlainBlock(random_block())
    weights = {f'blocks.0.{n}': t for n, t in timm_weights(plain).items()}
    block = converted_block(tmp_path, weights, stem_of('patch_embed.proj', (1, 4, D)), 'parallel')
    x = torch.randn(2, N, D)
    torch.testing.assert_close(block(x), plain(x), rtol=1e-5, atol=1e-5)


class TimmBlock(nn.Module):
    """What timm's `ParallelScalingBlock` computes (since January 2026), in its own storage, written out."""

    def __init__(self):
        super().__init__()
        self.in_norm = nn.RMSNorm(D, eps=1e-6)
        self.in_proj = nn.Linear(D, M + 3 * D, bias=False)
        self.mlp_bias = nn.Parameter(torch.empty(M))
        self.q_norm, self.k_norm = nn.RMSNorm(D // H, eps=1e-6), nn.RMSNorm(D // H, eps=1e-6)
        self.attn_out_proj, self.mlp_out_proj = nn.Linear(D, D), nn.Linear(M, D)
        for param in self.parameters():
            nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.4)

    def forward(self, x):
        up, q, k, v = self.in_proj(self.in_norm(x)).split([M, D, D, D], dim=-1)
        q, k, v = (t.unflatten(-1, (H, D // H)).transpose(1, 2) for t in (q, k, v))
        weights = (self.q_norm(q) @ self.k_norm(k).mT / math.sqrt(D // H)).softmax(-1)
        attention = self.attn_out_proj((weights @ v).transpose(1, 2).flatten(2))
        return x + attention + self.mlp_out_proj(F.gelu(up + self.mlp_bias))


def test_timms_storage_gives_the_written_out_formula(tmp_path):
    torch.manual_seed(0)
    timm = TimmBlock()
    weights = {f'blocks.0.{n}': t for n, t in timm.state_dict().items()}
    stem = stem_of('patch_embed.proj', (1, 4, D)) | {'head.weight': torch.zeros(5, D)}
    block = converted_block(tmp_path, weights, stem, 'parallel')
    x = torch.randn(2, N, D)
    torch.testing.assert_close(block(x), timm(x), rtol=1e-5, atol=1e-5)
    done = convert_checkpoint(tmp_path / 'in.safetensors', tmp_path / 'again.safetensors')
    assert done.left_out == ['head.weight']


def test_timms_own_block(tmp_path):
    layers = pytest.importorskip('timm.layers', reason='timm (which needs torchvision) is not installed')
    from timm.models.vision_transformer import ParallelScalingBlock

    torch.manual_seed(0)
    timm = ParallelScalingBlock(D, H, mlp_ratio=M / D, qk_norm=True, norm_layer=layers.RmsNorm)
    for name, param in timm.named_parameters():
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.4)
        if name == 'mlp_bias':  # the one value at which all versions agree
            nn.init.zeros_(param)
    weights = {f'blocks.0.{n}': t for n, t in timm.state_dict().items()}
    block = converted_block(tmp_path, weights, stem_of('patch_embed.proj', (1, 4, D)), 'parallel')
    x = torch.randn(2, N, D)
    torch.testing.assert_close(block(x), timm(x), rtol=1e-5, atol=1e-5)


def internvl_model(transformers, **options):
    torch.manual_seed(0)
    config = transformers.InternVLVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, image_size=42,
        patch_size=14, norm_type='rms_norm', use_qk_norm=True, layer_scale_init_value=0.5, **options,
    )  # fmt: skip
    model = transformers.InternVLVisionModel(config).eval()
    for param in model.parameters():
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.3)
    return model


def plain_forward(state, image, heads):
    """InternViT's formula with our names of its weights: the patches' features after the last block."""

    def norm(x, weight):
        return F.rms_norm(x, weight.shape, weight, 1e-6)

    x = F.conv2d(image, state['patch_embed.weight'], state['patch_embed.bias'], stride=14).flatten(2).mT
    first = (state['cls_token'] + state['cls_pos_embed']).expand(len(x), -1, -1)
    x = torch.cat([first, x + state['pos_embed'].flatten(1, 2)], 1)
    for i in range(2):
        w = {n.removeprefix(f'blocks.{i}.'): t for n, t in state.items() if n.startswith(f'blocks.{i}.')}
        q, k, v = F.linear(norm(x, w['norm1.weight']), w['attn.qkv.weight'], w.get('attn.qkv.bias')).chunk(3, -1)
        q, k = norm(q, w['attn.q_norm.weight']), norm(k, w['attn.k_norm.weight'])
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + w['ls1'] * F.linear(y, w['attn.proj.weight'], w['attn.proj.bias'])
        y = F.gelu(F.linear(norm(x, w['norm2.weight']), w['mlp.fc1.weight'], w['mlp.fc1.bias']))
        x = x + w['ls2'] * F.linear(y, w['mlp.fc2.weight'], w['mlp.fc2.bias'])
    return x


@pytest.mark.parametrize('bias', [False, True])
def test_transformers_internvit_gives_its_own_formula_in_our_names(tmp_path, bias):
    model = internvl_model(pytest.importorskip('transformers'), attention_bias=bias)
    whole = {f'model.vision_tower.{n}': t for n, t in model.state_dict().items()}
    save_file(whole | {'model.projector.weight': torch.ones(2)}, tmp_path / 'hf.safetensors')
    done = convert_checkpoint(tmp_path / 'hf.safetensors', tmp_path / 'plain.pth')
    assert (done.source_layout, done.target_layout) == ('internvl_hf', 'plain')
    assert done.left_out == ['model.projector.weight']
    image = torch.randn(2, 3, 42, 42)
    ours = plain_forward(read(tmp_path / 'plain.pth'), image, heads=4)
    torch.testing.assert_close(ours, model(image).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_published_and_transformers_names_hold_the_same(tmp_path):
    model = internvl_model(pytest.importorskip('transformers'))
    save_file(model.state_dict(), tmp_path / 'hf.safetensors')
    convert_checkpoint(tmp_path / 'hf.safetensors', tmp_path / 'published', target_layout='internvit')
    there, here = read(tmp_path / 'published'), model.state_dict()
    assert there.keys() == internvit_state().keys()
    qkv = [here[f'encoder.layer.1.attention.{p}_proj.weight'] for p in 'qkv']
    assert torch.equal(there['encoder.layers.1.attn.qkv.weight'], torch.cat(qkv))
    assert torch.equal(there['embeddings.position_embedding'], here['embeddings.position_embeddings'])


def test_a_whole_internvl_model_by_its_prefix(tmp_path):
    state = internvit_state(prefix='vision_model.')
    write(tmp_path / 'chat', state | {'language_model.lm_head.weight': torch.ones(4)})
    convert_checkpoint(tmp_path / 'chat', tmp_path / 'plain.safetensors')
    plain = load_file(tmp_path / 'plain.safetensors')
    position = state['vision_model.embeddings.position_embedding']
    assert torch.equal(plain['cls_pos_embed'], position[:, :1])
    assert torch.equal(plain['pos_embed'], position[:, 1:].reshape(1, 3, 3, 24))
    assert torch.equal(plain['blocks.1.attn.qkv.weight'], state['vision_model.encoder.layers.1.attn.qkv.weight'])


def test_both_output_biases_add_up(tmp_path):
    write(tmp_path / 'a.pth', vit22b_state())
    convert_checkpoint(tmp_path / 'a.pth', tmp_path / 'b.safetensors', target_layout='parallel')
    state = load_file(tmp_path / 'b.safetensors')
    assert not state['blocks.0.mlp_out_proj.bias'].any()
    state['blocks.0.mlp_out_proj.bias'] = torch.arange(24.0)
    save_file(state, tmp_path / 'c.safetensors')
    convert_checkpoint(tmp_path / 'c.safetensors', tmp_path / 'd.safetensors')
    out_bias = load_file(tmp_path / 'd.safetensors')['blocks.0.out_bias']
    torch.testing.assert_close(out_bias, state['blocks.0.attn_out_proj.bias'] + torch.arange(24.0))


def test_a_flat_grid_that_is_not_square_is_named(tmp_path):
    source = write(
        tmp_path / 'w.safetensors', internvit_state() | {'embeddings.position_embedding': torch.randn(1, 7, 24)}
    )
    with pytest.raises(
        CheckpointError, match=r'position_embedding \(1, 7, 24\) float32: cannot be made cls_pos_embed'
    ):
        convert_checkpoint(source, tmp_path / 'out.pth')


def test_converting_holds_a_few_tensors_at_a_time(tmp_path):
    """Peak of all tensors that conversion makes, against the largest one and the whole model."""
    with torch.device('meta'):
        model = ViT22B(dict(embed_dims=96, num_layers=24, num_heads=4, mlp_dims=384), img_size=42)
    state = random_like({n: t.shape for n, t in model.state_dict().items()})
    largest, total = max(t.nbytes for t in state.values()), sum(t.nbytes for t in state.values())
    write(tmp_path / 'a.safetensors', state)
    write(tmp_path / 'b.pth', state)
    for source, target in (('a.safetensors', 'c'), ('c', 'd.safetensors'), ('b.pth', 'e.safetensors')):
        layout = 'vit22b' if source == 'c' else 'parallel'
        with PeakMemory() as memory:
            convert_checkpoint(tmp_path / source, tmp_path / target, target_layout=layout, max_shard_bytes=10**6)
        mapped = os.path.getsize(tmp_path / source) if source.endswith('.pth') else 0
        assert memory.peak - mapped <= 3.1 * largest < total / 8, source
