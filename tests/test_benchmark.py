"""The benchmark runs every section, and its numbers belong together; none of the checks depends on time."""

import json
import runpy
from functools import partial

import pytest
import torch
from conftest import REPO

from vit22b_dense.benchmark import timing, training
from vit22b_dense.benchmark.blocks import blocks_of, flops_of
from vit22b_dense.benchmark.kernel import attention_kernel
from vit22b_dense.errors import UserError
from vit22b_dense.models.backbones.vit22b import ARCHS

ARCH = dict(embed_dims=24, num_layers=12, num_heads=2, mlp_dims=96)


def test_every_section_with_its_ratios(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ARCHS, 'tiny', ARCH)
    monkeypatch.setattr(timing, 'SHORTEST', 1e-6)
    monkeypatch.setitem(timing.PRODUCT_SIDE, 'cpu', 64)
    main = runpy.run_path(str(REPO / 'tools/benchmark.py'))['main']
    options = ['--sizes', 'tiny', '--tokens', '20', '--pixels', '28', '--rounds', '2']
    main([*options, '--json', str(tmp_path / 'b.json'), '--picture', str(tmp_path / 'b.png')])
    content = json.loads((tmp_path / 'b.json').read_text())
    rows = content['rows']
    sections = list(dict.fromkeys(row['section'] for row in rows))
    assert sections == [
        'block forward', 'block training step', 'backbone', 'training', 'inference', 'windows', 'decoders',
        'post-processing', 'metrics',
    ]  # fmt: skip
    firsts = {}
    for row in rows:
        first = firsts.setdefault((row['section'], row['title']), row)
        assert 0 < row['low'] <= row['seconds'] <= row['high']
        assert row['speed_low'] <= row['speed'] <= row['speed_high']
        assert first['low'] / row['high'] <= row['speed_low'] + 1e-9
        assert row['speed_high'] <= first['high'] / row['low'] + 1e-9
        assert (row['ceiling'] is not None) == row['section'].startswith('block')
    assert all(first['speed'] == first['speed_low'] == first['speed_high'] == 1 for first in firsts.values())
    cases = {(row['section'], row['case']) for row in rows}
    assert {('block forward', 'parallel, frozen'), ('windows', 'ours'), ('inference', 'upernet, ours')} <= cases
    assert ('block training step', 'parallel, frozen') not in cases
    assert {
        ('training', f'{kind}, loss at {at}') for kind in ('live', 'cached') for at in ('pixels', 'tokens')
    } <= cases
    assert {('decoders', decoder) for decoder in ('linear', 'upernet', 'dpt depth')} <= cases
    assert content['attention'].keys() == {'tiny, 20 tokens, float32'}
    assert content['machine']['torch'] == torch.__version__
    assert (tmp_path / 'b.png').stat().st_size > 10_000
    assert 'times as fast' in capsys.readouterr().out
    with pytest.raises(UserError, match='--pixels 30: give a multiple of 14'):
        main(['--pixels', '30'])


def test_blocks_do_equal_work():
    """Their products are those that `flops_of` counts, and those of one another but for the scales of Dinov2Layer."""
    sizes = ARCHS['tiny']
    counts = {
        name: sum(p.numel() for p in block.parameters() if p.ndim > 1) for name, block in blocks_of('tiny').items()
    }
    biases = sizes['mlp_dims']  # the parallel block's MLP has its bias in two dimensions
    assert counts.pop('parallel') - biases == counts['sequential, RMS and QK norms']
    assert len(set(counts.values())) == 1
    products = 2 * 100 * counts['sequential, RMS and QK norms']
    assert flops_of('tiny', 100) == products + 4 * 100**2 * sizes['embed_dims']


def test_the_kernel_of_attention_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, '_fused_sdp_choice', lambda q, k, v: asked.append(q) or 2, raising=False)
    assert attention_kernel('base', 50, torch.bfloat16, torch.device('cpu')) == 'efficient'
    assert (asked[0].shape, asked[0].dtype) == ((1, 12, 50, 64), torch.bfloat16)
    monkeypatch.delattr(torch, '_fused_sdp_choice')
    assert attention_kernel('base', 50, torch.bfloat16, torch.device('cpu')) == 'unknown'


def test_an_iteration_from_features_has_the_maps_of_a_live_one(monkeypatch):
    monkeypatch.setitem(ARCHS, 'tiny', ARCH)
    seen = []
    monkeypatch.setattr(training, '_iteration', lambda model, data: seen.append((model, data)))
    for group in training.training_groups(['tiny'], 28, torch.device('cpu')):
        for at in ('pixels', 'tokens'):
            (live, images), (cached, addresses) = seen[-4:-2] if at == 'pixels' else seen[-2:]
            stored = live.backbone(images()[0])[0].bfloat16().float()
            torch.testing.assert_close(cached.backbone(addresses()[0])[0], stored)
            assert live.decode_head.loss_at == cached.decode_head.loss_at == at
        assert list(group.cases) == [
            f'{kind}, loss at {a}' for a in ('pixels', 'tokens') for kind in ('live', 'cached')
        ]


def test_cases_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(timing, '_seconds', lambda run, repeats, device: run() or 1.0)
    monkeypatch.setattr(timing, '_peak', lambda run, device: 0)
    cases = {name: partial(order.append, name) for name in 'ab'}
    timing.measure(timing.Group('', '', cases), 3, torch.device('cpu'))
    assert ''.join(order) == 'aabb' + 'abbaab'  # warm and counted; then each once a round, in changing order
