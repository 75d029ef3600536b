"""Conversion of checkpoints: bit-exact round trips, layouts against written-out formulas, and every refusal."""

import builtins
import errno
import json
import math
import os
import resource
import shutil
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from memory import PeakMemory
from safetensors.torch import load_file, save_file
from test_block import D, H, M, N, PlainBlock, random_block
from torch import nn

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import CheckpointError, convert_checkpoint, open_weights
from vit22b_dense.checkpoint.layouts import LAYOUTS

SMALL = dict(embed_dims=24, num_layers=2, num_heads=4, mlp_dims=40)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = ['w.pth', 'w.safetensors', 'w']


def random_like(shapes, dtype=torch.float32, seed=0):
    """Every bit pattern that is a number, -0 among them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator).to(dtype)
        tensor.view(-1)[::7] = -0.0
        state[name] = tensor
    return state


def vit22b_state(dtype=torch.float32, **options):
    with torch.device('meta'):
        model = ViT22B(SMALL, img_size=(42, 42), **options)
    return random_like({n: t.shape for n, t in model.state_dict().items()}, dtype)


def sequential_shapes(stem, block, blocks=2):
    return stem | {block_name: shape for i in range(blocks) for block_name, shape in block(i).items()}


def internvit_state(dtype=torch.float32, prefix='', norm_bias=False, qk_norm=True):
    """The names of the published InternViT-6B files."""

    def block(i):
        p = f'{prefix}encoder.layers.{i}.'
        shapes = {
            f'{p}norm1.weight': (24,), f'{p}attn.qkv.weight': (72, 24), f'{p}attn.proj.weight': (24, 24),
            f'{p}attn.proj.bias': (24,), f'{p}ls1': (24,), f'{p}norm2.weight': (24,), f'{p}mlp.fc1.weight': (40, 24),
            f'{p}mlp.fc1.bias': (40,), f'{p}mlp.fc2.weight': (24, 40), f'{p}mlp.fc2.bias': (24,), f'{p}ls2': (24,),
        }  # fmt: skip
        if qk_norm:
            shapes |= {f'{p}attn.q_norm.weight': (24,), f'{p}attn.k_norm.weight': (24,)}
        if norm_bias:
            shapes |= {f'{p}norm1.bias': (24,), f'{p}norm2.bias': (24,), f'{p}attn.qkv.bias': (72,)}
        return shapes

    e = f'{prefix}embeddings.'
    stem = {
        f'{e}class_embedding': (1, 1, 24), f'{e}patch_embedding.weight': (24, 3, 14, 14),
        f'{e}patch_embedding.bias': (24,), f'{e}position_embedding': (1, 10, 24),
    }  # fmt: skip
    return random_like(sequential_shapes(stem, block), dtype)


def write(path, state):
    if path.suffix == '.pth':
        torch.save(dict(meta=dict(dataset_meta=dict(classes=['a'])), state_dict=state), path)
    elif path.suffix == '.safetensors':
        save_file(state, path)
    else:
        save_file(state, path.with_name('whole.safetensors'))
        convert_checkpoint(path.with_name('whole.safetensors'), path, target_layout='same', max_shard_bytes=3000)
    return path


def read(path):
    source = open_weights(path)
    return {name: source.read(name) for name in source.infos}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape), name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)), name


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
    assert (done.source_layout, done.target_layout, done.notes) == ('vit22b', 'vit22b', ())
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
        convert_checkpoint(write(tmp_path / 'big.pth', state), tmp_path / 'x', 'vit22b', 'separate', dtype=torch.half)


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('path', [('parallel',), ('separate',), ('parallel', 'separate'), ('separate', 'parallel')])
@pytest.mark.parametrize('kind', FORMATS)
def test_round_trips_of_parallel_blocks(tmp_path, path, dtype, kind):
    round_trip(tmp_path, vit22b_state(dtype), 'vit22b', path, kind)


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
        names = set(read(after))
        assert all(name in names for name in LAYOUTS[target].signature)
        before = after
    assert_same_bits(read(before), state)


def separate_of(block: PlainBlock) -> dict:
    """The written-out formula's weights, all heads of a kind together."""
    return {
        'norm.weight': block.g, 'q_proj.weight': block.wq.reshape(D, D), 'k_proj.weight': block.wk.reshape(D, D),
        'v_proj.weight': block.wv.reshape(D, D), 'up_proj.weight': block.w1, 'up_proj.bias': block.b1,
        'q_norm.weight': block.gq, 'k_norm.weight': block.gk, 'attn_proj.weight': block.wo.reshape(D, D),
        'down_proj.weight': block.w2, 'down_proj.bias': block.b2,
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


def test_separate_weights_give_the_written_out_formula(tmp_path):
    plain = PlainBlock(random_block())
    weights = {f'blocks.0.{n}': t for n, t in separate_of(plain).items()}
    block = converted_block(tmp_path, weights, stem_of('patch_embed', (1, 2, 2, D)), 'separate')
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
    assert 'left out 1 tensors that are not of the backbone: head.weight' in done.notes[0]
    assert 'mlp_bias' in done.notes[1]
    assert 'issue 2653' in done.notes[1]


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
    assert 'left out 1 tensors' in done.notes[0]
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
    state = internvit_state()
    state['embeddings.position_embedding'] = torch.randn(1, 7, 24)
    source = write(tmp_path / 'w.safetensors', state)
    with pytest.raises(CheckpointError, match=r'position_embedding \(1, 7, 24\) holds 6 positions.*--grid'):
        convert_checkpoint(source, tmp_path / 'out.pth')
    convert_checkpoint(source, tmp_path / 'out.pth', grid=(2, 3))
    assert read(tmp_path / 'out.pth')['pos_embed'].shape == (1, 2, 3, 24)
    convert_checkpoint(tmp_path / 'out.pth', tmp_path / 'back.pth', target_layout='internvit')
    assert_same_bits(read(tmp_path / 'back.pth'), state)


def test_converting_holds_a_few_tensors_at_a_time(tmp_path):
    """Peak of all tensors that conversion makes, against the largest one and the whole model."""
    with torch.device('meta'):
        model = ViT22B(dict(embed_dims=96, num_layers=24, num_heads=4, mlp_dims=384), img_size=42)
    state = random_like({n: t.shape for n, t in model.state_dict().items()})
    largest, total = max(t.nbytes for t in state.values()), sum(t.nbytes for t in state.values())
    write(tmp_path / 'a.safetensors', state)
    write(tmp_path / 'b.pth', state)
    for source, target in (('a.safetensors', 'c'), ('c', 'd.safetensors'), ('b.pth', 'e.safetensors')):
        layout = 'vit22b' if source == 'c' else 'separate'
        with PeakMemory() as memory:
            convert_checkpoint(tmp_path / source, tmp_path / target, target_layout=layout, max_shard_bytes=10**6)
        mapped = os.path.getsize(tmp_path / source) if source.endswith('.pth') else 0
        assert memory.peak - mapped <= 3.1 * largest < total / 8, source


# --- refusals --------------------------------------------------------------------------------------------------------


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def refused(tmp_path, source, match, target='out.safetensors', **options):
    """The error names file and cause; nothing anywhere has changed."""
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=match) as error:
        convert_checkpoint(source, tmp_path / target, **options)
    assert contents(tmp_path) == before
    return str(error.value)


@pytest.mark.parametrize('kind', ['w.pth', 'w.safetensors'])
@pytest.mark.parametrize('end', [-1, -500, 20])
def test_a_truncated_file(tmp_path, kind, end):
    path = write(tmp_path / kind, vit22b_state())
    path.write_bytes(path.read_bytes()[:end])
    refused(tmp_path, path, rf'{kind}: .*(copy it again|is the copy complete)')


def shards(tmp_path):
    folder = write(tmp_path / 'w', vit22b_state())
    index = folder / 'model.safetensors.index.json'
    return folder, index, json.loads(index.read_text()), sorted(folder.glob('*.safetensors'))


def test_a_truncated_or_missing_shard(tmp_path):
    folder, index, _, files = shards(tmp_path)
    data = files[1].read_bytes()
    files[1].write_bytes(data[:-3])
    refused(tmp_path, folder, f'{files[1].name}: not a complete safetensors file')
    files[1].unlink()
    message = refused(tmp_path, index, r'1 of its \d+ shards are missing')
    assert files[1].name in message


def test_index_and_shards_that_do_not_belong_together(tmp_path):
    folder, index, content, files = shards(tmp_path)
    first = files[0].name
    index.write_text(json.dumps(dict(weight_map=content['weight_map'] | {'ghost.weight': first})))
    refused(tmp_path, folder, rf'names tensors that {first} does not hold: ghost\.weight')
    less = dict(content['weight_map'])
    del less['norm.weight']
    index.write_text(json.dumps(dict(weight_map=less)))
    refused(tmp_path, folder, r'holds tensors that model\.safetensors\.index\.json does not name there: norm\.weight')
    index.write_text(json.dumps(dict(weight_map=content['weight_map'] | {'x': '../../other.safetensors'})))
    refused(tmp_path, folder, 'outside of its folder')
    index.write_text('{"weight_map": [')
    refused(tmp_path, folder, 'not an index of shards')
    index.unlink()
    refused(tmp_path, folder, r'\d+ \.safetensors files without an index')
    (tmp_path / 'empty').mkdir()
    refused(tmp_path, tmp_path / 'empty', r'no \.safetensors file')
    refused(tmp_path, tmp_path / 'absent', 'absent: no such checkpoint')


def test_tensors_that_do_not_fit_the_layout(tmp_path):
    def refuse(match, layout='separate', **changes):
        state = vit22b_state()
        for name, tensor in changes.items():
            name = name.replace('__', '.')
            state.pop(name, None)
            if tensor is not None:
                state[name] = tensor
        path = write(tmp_path / 'w.safetensors', state)
        refused(tmp_path, path, match, target_layout=layout)

    refuse(r"'vit22b': blocks\.1\.out_bias \(23,\), expected \(24,\)", blocks__1__out_bias=torch.zeros(23))
    refuse(
        r'blocks\.1\.out_bias \(24,\) int8, expected floating point',
        blocks__1__out_bias=torch.zeros(24, dtype=torch.int8),
    )
    refuse(r'1 tensors are missing: blocks\.1\.q_norm\.weight', blocks__1__q_norm__weight=None)
    refuse(r'1 tensors have no place in it: cls_token \(1, 1, 24\)', cls_token=torch.zeros(1, 1, 24))
    refuse(r'in_proj\.weight \(112, 23\), expected \(112, 24\)', blocks__0__in_proj__weight=torch.zeros(112, 23))
    refuse("'vit22b' has parallel blocks, 'plain' has sequential", 'plain')


def test_parts_of_different_types_need_a_choice(tmp_path):
    convert_checkpoint(write(tmp_path / 'a.pth', vit22b_state()), tmp_path / 'b.pth', target_layout='separate')
    state = read(tmp_path / 'b.pth')
    state['blocks.0.k_proj.weight'] = state['blocks.0.k_proj.weight'].half()
    path = write(tmp_path / 'w.safetensors', state)
    refused(tmp_path, path, r'in_proj\.weight would be joined from different types.*k_proj.*float16.*--dtype')
    convert_checkpoint(path, tmp_path / 'out.safetensors', dtype=torch.bfloat16)
    assert {t.dtype for t in read(tmp_path / 'out.safetensors').values()} == {torch.bfloat16}


def test_a_block_with_fewer_tensors_than_the_others(tmp_path):
    state = internvit_state()
    del state['encoder.layers.1.ls1']
    refused(tmp_path, write(tmp_path / 'w.safetensors', state), r'1 tensors are missing: encoder\.layers\.1\.ls1')


def test_a_target_that_cannot_hold_or_lacks_a_tensor(tmp_path):
    convert_checkpoint(write(tmp_path / 'a.pth', internvit_state()), tmp_path / 'b.pth')
    state = read(tmp_path / 'b.pth')
    with_norm = write(tmp_path / 'norm.pth', state | {'norm.weight': torch.ones(24)})
    refused(tmp_path, with_norm, r"'internvit' has no place for norm\.weight", target_layout='internvit')
    del state['cls_token']
    refused(
        tmp_path, write(tmp_path / 'c.pth', state), r'has no cls, which embeddings\.class_', target_layout='internvit'
    )


def test_unknown_names_and_ambiguous_prefixes(tmp_path):
    path = write(tmp_path / 'r.safetensors', {'layer1.conv.weight': torch.zeros(2)})
    message = refused(tmp_path, path, 'recognised layouts: none')
    assert 'vit22b, parallel, separate, plain, internvit, internvl_hf' in message
    assert 'layer1.conv.weight' in message
    refused(tmp_path, path, r"'vit22b': \d+ tensors are missing", source_layout='vit22b')
    convert_checkpoint(path, tmp_path / 'same.pth', target_layout='same')
    refused(tmp_path, path, 'no tensor begins with', prefix='x', target_layout='same')
    state = vit22b_state()
    twice = {p + n: t.clone() for p in ('backbone.', 'ema.backbone.') for n, t in state.items()}
    path = write(tmp_path / 'twice.safetensors', twice)
    refused(tmp_path, path, r"vit22b \(prefix 'backbone\.'\), vit22b \(prefix 'ema\.backbone\.'\); choose")
    convert_checkpoint(path, tmp_path / 'ema.safetensors', prefix='ema.backbone')
    assert_same_bits(load_file(tmp_path / 'ema.safetensors'), state)


def test_heads_that_contradict(tmp_path):
    path = write(tmp_path / 'w.pth', vit22b_state())
    refused(tmp_path, path, r'means 4 heads.*--num-heads says 3', target_layout='separate', num_heads=3)
    convert_checkpoint(path, tmp_path / 's.pth', target_layout='separate', num_heads=4)
    state = read(tmp_path / 's.pth')
    for i in range(2):
        state |= {f'blocks.{i}.{n}_norm.weight': torch.ones(24) for n in 'qk'}
    path = write(tmp_path / 'wide.pth', state)
    refused(tmp_path, path, r'spans the whole width.*--num-heads 1')
    convert_checkpoint(path, tmp_path / 'one.pth', num_heads=1)
    assert read(tmp_path / 'one.pth')['blocks.0.up_bias'].shape == (1, 40)


def test_destinations_that_exist(tmp_path):
    path = write(tmp_path / 'w.pth', vit22b_state())
    (tmp_path / 'out.safetensors').write_text('precious')
    refused(tmp_path, path, r'out\.safetensors: exists.*--overwrite')
    convert_checkpoint(path, tmp_path / 'out.safetensors', overwrite=True)
    assert_same_bits(read(tmp_path / 'out.safetensors'), vit22b_state())
    convert_checkpoint(path, tmp_path / 'shards', max_shard_bytes=1000)
    count = len(list((tmp_path / 'shards').iterdir()))
    refused(tmp_path, path, 'shards: exists', target='shards')
    convert_checkpoint(path, tmp_path / 'shards', overwrite=True)
    assert len(list((tmp_path / 'shards').iterdir())) == 2 < count
    (tmp_path / 'shards/notes.txt').write_text('mine')
    refused(tmp_path, path, r'also holds notes\.txt and is not replaced', target='shards', overwrite=True)
    (tmp_path / 'dir.pth').mkdir()
    refused(tmp_path, path, r'dir\.pth: is a folder', target='dir.pth', overwrite=True)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {'w.pth', 'out.safetensors', 'shards', 'dir.pth'}


def test_the_source_is_never_the_destination(tmp_path):
    match = 'is, holds or lies in the source'
    path = write(tmp_path / 'w.pth', vit22b_state())
    refused(tmp_path, path, match, target='w.pth', overwrite=True)
    (tmp_path / 'link.pth').hardlink_to(path)
    refused(tmp_path, path, match, target='link.pth', overwrite=True)
    convert_checkpoint(path, tmp_path / 'shards')
    refused(tmp_path, tmp_path / 'shards', match, target='shards', overwrite=True)
    refused(tmp_path, tmp_path / 'shards', match, target='shards/one.safetensors')
    refused(tmp_path, next((tmp_path / 'shards').glob('*.json')), match, target='shards', overwrite=True)
    only = next((tmp_path / 'shards').glob('*.safetensors'))
    refused(tmp_path, only, match, target='shards', overwrite=True)


# --- a disk that fills -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('target', ['out.safetensors', 'out', 'out.pth'])
@pytest.mark.parametrize('existing', [False, True])
def test_a_write_that_fails_leaves_nothing(tmp_path, target, existing):
    """The system refuses to let a file grow, as a full disk or a quota does."""
    path = write(tmp_path / 'w.safetensors', vit22b_state())
    if existing:
        convert_checkpoint(path, tmp_path / target, dtype=torch.float16)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        refused(tmp_path, path, f'{target}: cannot be written.*Nothing is left', target, overwrite=existing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('target', ['out.safetensors', 'out'])
def test_a_full_disk_is_called_so(tmp_path, monkeypatch, target):
    path = write(tmp_path / 'w.safetensors', vit22b_state())
    real_open = builtins.open

    def open_full(name, mode='r', *args, **options):
        file = real_open(name, mode, *args, **options)
        if mode == 'wb':
            monkeypatch.setattr(FullDisk, 'file', file)
            return FullDisk()
        return file

    monkeypatch.setattr(builtins, 'open', open_full)
    refused(tmp_path, path, r'cannot be written, the disk is full; it takes 9\d\.\d\d kB', target)


class FullDisk:
    file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        if self.file.tell() + len(data) > 9000:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return self.file.write(data)


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    path = write(tmp_path / 'w.safetensors', vit22b_state())
    usage = namedtuple('usage', 'total used free')(10**6, 10**6 - 100, 100)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
    refused(tmp_path, path, 'its disk has 100 bytes left; nothing was written', 'deep/er/out')


def test_a_destination_that_comes_to_exist_meanwhile_is_kept(tmp_path):
    path = write(tmp_path / 'w.safetensors', vit22b_state())

    def other_process(done, total):
        (tmp_path / 'out.pth').write_text('precious')

    with pytest.raises(CheckpointError, match='has come to exist meanwhile'):
        convert_checkpoint(path, tmp_path / 'out.pth', progress=other_process)
    assert (tmp_path / 'out.pth').read_text() == 'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.pth', 'w.safetensors']


# --- the tool --------------------------------------------------------------------------------------------------------


def test_the_tool(tmp_path, run_tool):
    path = write(tmp_path / 'w.pth', {f'backbone.{n}': t for n, t in vit22b_state().items()} | {'x': torch.ones(1)})
    out = tmp_path / 'out'
    done = run_tool('tools/convert_checkpoint.py', path, out, '--to', 'separate', '--dtype', 'bfloat16',
                    '--max-shard-size', '2KB')  # fmt: skip
    assert 'GB, 0 s left' in done.stdout
    assert 'note: left out 1 tensors that are not of the backbone: x' in done.stdout
    assert 'layout vit22b -> separate' in done.stdout
    assert read(out)['blocks.0.q_proj.weight'].dtype == torch.bfloat16
    done = run_tool('tools/convert_checkpoint.py', path, out, check=False)
    assert (done.returncode, done.stderr) == (1, f'error: {out}: exists; choose another name, or --overwrite\n')
