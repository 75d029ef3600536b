"""Conversion of checkpoints: every refusal, a disk that fills, and the tool."""

import builtins
import errno
import importlib.util
import json
import resource
import shutil
import sys
from collections import namedtuple

import pytest
import torch
from conftest import REPO
from made_weights import assert_same_bits, internvit_state, read, vit22b_state, write
from safetensors.torch import load_file

from vit22b_dense.checkpoint import CheckpointError, convert_checkpoint

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
    refused(tmp_path, folder, rf'index and shards disagree about ghost\.weight in {first}')
    less = dict(content['weight_map'])
    del less['norm.weight']
    index.write_text(json.dumps(dict(weight_map=less)))
    refused(tmp_path, folder, r'index\.json: index and shards disagree about norm\.weight in model-')
    index.write_text(json.dumps(dict(weight_map=content['weight_map'] | {'x': '../../other.safetensors'})))
    refused(tmp_path, folder, 'outside of its folder')
    index.write_text('{"weight_map": [')
    refused(tmp_path, folder, 'not an index of shards')
    index.unlink()
    refused(tmp_path, folder, 'several files and no index of all')
    (tmp_path / 'empty').mkdir()
    refused(tmp_path, tmp_path / 'empty', r'holds no \.safetensors')
    refused(tmp_path, tmp_path / 'absent', 'absent: no such checkpoint')


def test_tensors_that_do_not_fit_the_layout(tmp_path):
    def refuse(match, layout='parallel', **changes):
        state = vit22b_state()
        for name, tensor in changes.items():
            name = name.replace('__', '.')
            state.pop(name, None)
            if tensor is not None:
                state[name] = tensor
        path = write(tmp_path / 'w.safetensors', state)
        refused(tmp_path, path, match, target_layout=layout)

    refuse(
        r"'vit22b': other shape \(1\): blocks\.1\.out_bias \(23,\) float32, expected \(24,\)",
        blocks__1__out_bias=torch.zeros(23),
    )
    refuse(
        r'not floating point \(1\): blocks\.1\.out_bias \(24,\) int8',
        blocks__1__out_bias=torch.zeros(24, dtype=torch.int8),
    )
    refuse(r'missing \(1\): blocks\.1\.q_norm\.weight', blocks__1__q_norm__weight=None)
    refuse(r'no place for \(1\): cls_token \(1, 1, 24\)', cls_token=torch.zeros(1, 1, 24))
    refuse(
        r'in_proj\.weight \(112, 23\) float32, expected \(112, 24\)', blocks__0__in_proj__weight=torch.zeros(112, 23)
    )
    refuse("no conversion leads from 'vit22b' to 'plain': parallel blocks", 'plain')


def test_parts_of_different_types_are_joined_in_the_wider_one(tmp_path):
    convert_checkpoint(write(tmp_path / 'a.pth', internvit_state()), tmp_path / 'b.pth', target_layout='internvl_hf')
    state = read(tmp_path / 'b.pth')
    name = 'encoder.layer.0.attention.k_proj.weight'
    state[name] = state[name].half()
    convert_checkpoint(write(tmp_path / 'w.safetensors', state), tmp_path / 'out.safetensors')
    fused = read(tmp_path / 'out.safetensors')['blocks.0.attn.qkv.weight']
    assert fused.dtype == torch.float32
    assert torch.equal(fused[24:48], state[name].float())
    path = write(tmp_path / 'w.safetensors', state | {name: state[name].to(torch.int8)})
    refused(tmp_path, path, r'not floating point \(1\): encoder\.layer\.0\.attention\.k_proj\.weight', 'x.safetensors')


def test_a_block_with_fewer_tensors_than_the_others(tmp_path):
    state = internvit_state()
    del state['encoder.layers.1.ls1']
    refused(tmp_path, write(tmp_path / 'w.safetensors', state), r'missing \(1\): encoder\.layers\.1\.ls1')


def test_a_target_that_cannot_hold_or_lacks_a_tensor(tmp_path):
    convert_checkpoint(write(tmp_path / 'a.pth', internvit_state()), tmp_path / 'b.pth')
    state = read(tmp_path / 'b.pth')
    with_norm = write(tmp_path / 'norm.pth', state | {'norm.weight': torch.ones(24)})
    refused(tmp_path, with_norm, r"'internvit': no place for \(1\): norm\.weight", target_layout='internvit')
    del state['cls_pos_embed']
    refused(tmp_path, write(tmp_path / 'c.pth', state), r'missing \(1\): cls_pos_embed', target_layout='internvit')


def test_unknown_names_and_ambiguous_prefixes(tmp_path):
    path = write(tmp_path / 'r.safetensors', {'layer1.conv.weight': torch.zeros(2)})
    message = refused(tmp_path, path, 'recognised layouts: none')
    assert 'parallel (by its blocks.0.attn_out_proj.weight)' in message
    assert 'layer1.conv.weight' in message
    refused(tmp_path, path, 'recognised layouts: none', source_layout='vit22b')
    dinov2 = {f'encoder.layer.0.attention.{name}_proj.weight': torch.zeros(2, 2) for name in 'qkvo'}
    refused(tmp_path, write(tmp_path / 'd.pth', dinov2), 'recognised layouts: none.*--to same')
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
    convert_checkpoint(path, tmp_path / 't.pth', target_layout='parallel')
    state = read(tmp_path / 't.pth')

    def with_length(length):
        changed = {f'blocks.{i}.{n}_norm.weight': torch.ones(length) for i in range(2) for n in 'qk'}
        return write(tmp_path / 'wide.pth', state | changed)

    refused(tmp_path, with_length(5), r'q_norm\.weight \(5,\) float32, expected \(6,\)')
    refused(tmp_path, with_length(8), r'in_proj\.weight \(112, 24\) float32: cannot be made')  # 3 heads, 40 / 3
    refused(tmp_path, write(tmp_path / 'v.pth', read(path) | {'blocks.0.q_norm.weight': torch.ones(12)}),
            r'blocks\.0\.q_norm\.weight \(12,\) float32, expected \(6,\)', target_layout='parallel')  # fmt: skip
    convert_checkpoint(with_length(24), tmp_path / 'one.pth')
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
    refused(tmp_path, path, r'is not replaced, it holds notes\.txt', target='shards', overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {'w.pth', 'out.safetensors', 'shards'}


def test_the_source_is_never_the_destination(tmp_path):
    match = 'is, holds or lies in the source'
    path = write(tmp_path / 'w.pth', vit22b_state())
    refused(tmp_path, path, match, target='w.pth', overwrite=True)
    (tmp_path / 'link.pth').symlink_to(path)
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
    refused(tmp_path, path, r'cannot be written .*No space left on device.*; it takes 9\d\.\d\d kB', target)


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

    with pytest.raises(CheckpointError, match=r'out\.pth: cannot be written .*out\.pth exists'):
        convert_checkpoint(path, tmp_path / 'out.pth', progress=other_process)
    assert (tmp_path / 'out.pth').read_text() == 'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.pth', 'w.safetensors']


# --- the tool --------------------------------------------------------------------------------------------------------


def test_the_tool(tmp_path, run_tool):
    path = write(tmp_path / 'w.pth', {f'backbone.{n}': t for n, t in vit22b_state().items()} | {'x': torch.ones(1)})
    out = tmp_path / 'out'
    done = run_tool('tools/convert_checkpoint.py', path, out, '--to', 'parallel', '--dtype', 'bfloat16',
                    '--max-shard-size', '2KB')  # fmt: skip
    assert 'GB, 0 s left' in done.stdout
    assert 'note: left out 1 tensors that are not of the backbone: x' in done.stdout
    assert 'layout vit22b -> parallel' in done.stdout
    assert read(out)['blocks.0.in_proj.weight'].dtype == torch.bfloat16
    done = run_tool('tools/convert_checkpoint.py', path, out, check=False, fresh=True)
    assert (done.returncode, done.stderr) == (1, f'error: {out}: exists; choose another name, or --overwrite\n')


def test_of_a_frozen_run_all_is_kept_whatever_the_backbone_calls_its_tensors(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('tool', REPO / 'tools/convert_checkpoint.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    whole = {
        'backbone.model.encoder.layer.0.attention.q_proj.weight': torch.rand(2, 2),
        'decode_head.x': torch.rand(3),
    }
    monkeypatch.setattr(tool, 'whole_checkpoint', lambda *_: {'state_dict': whole})
    monkeypatch.setattr(sys, 'argv', ['tool', str(tmp_path / 'iter_4.pth'), str(tmp_path / 'whole.safetensors')])
    tool.main()
    assert_same_bits(read(tmp_path / 'whole.safetensors'), whole)
    assert '2 tensors' in capsys.readouterr().out
