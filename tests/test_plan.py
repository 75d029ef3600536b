"""Plans: counted on fake tensors as on real ones, sums by hand, and totals against measured peaks."""

import json
import sys

import pytest
import torch
from memory import PeakMemory
from mmseg.registry import MODELS
from planned_probe import planned_config

from vit22b_dense.errors import UserError
from vit22b_dense.planning.plan import Wanted, advice, commands, memory_of, recommended, rows_of
from vit22b_dense.planning.rehearsal import grid_of, rehearse
from vit22b_dense.planning.setups import sharded, whole

CP, BF16 = {'model.backbone.with_cp': True}, {'model.backbone.dtype': 'bfloat16'}
FEW = [{}, CP, dict(regime='frozen', batch=2, **BF16)]
MANY = [
    {}, CP, dict(amp=True), dict(regime='frozen'), dict(regime='frozen', **BF16), dict(kind='PlainViT'),
    dict(batch=4, tokens=256), dict(tokens=2304), dict(tokens=2304, batch=2, **CP),
    *(dict(leaf='ade20k/upernet.py', tokens=256, regime=regime) for regime in ('finetune', 'frozen')),
    dict(leaf='kitti/dpt.py', tokens=256),
    *(dict(kind=kind, regime='frozen', tokens=2304, batch=4) for kind in ('PlainViT', 'ViT22B')),
]  # fmt: skip


def planned(case):
    cfg, batch, tokens, amp = planned_config(**case)
    backbone = cfg.model.backbone
    size = 2 if backbone.get('dtype') == 'bfloat16' else 4
    return whole(rehearse(cfg, batch, tokens, amp), backbone.frozen, size, backbone.get('with_cp', False))


def ratio_of(case, run_tool):
    measured = int(run_tool('tests/planned_probe.py', json.dumps(case)).stdout.splitlines()[-1])
    assert measured > 50e6
    return planned(case).total / measured


linux = pytest.mark.skipif(sys.platform != 'linux', reason='reads the peak from /proc')


@linux
@pytest.mark.parametrize('case', FEW, ids=json.dumps)
def test_totals_are_the_measured_peaks(case, run_tool):
    assert 0.85 < ratio_of(case, run_tool) < 1.15


@linux
@pytest.mark.slow
def test_totals_are_the_measured_peaks_of_every_kind(run_tool, capsys):
    ratios = {json.dumps(case): ratio_of(case, run_tool) for case in MANY}
    with capsys.disabled():
        print('\nplanned / measured', *(f'{ratio:.3f} {case}' for case, ratio in ratios.items()), sep='\n')
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values())


@pytest.mark.parametrize('kind', ['ViT22B', 'PlainViT'])
def test_a_block_is_counted_as_it_runs(kind):
    cfg, *_ = planned_config(kind=kind)
    parts = rehearse(cfg, 2, 6)
    backbone = MODELS.build(cfg.model.backbone)
    block = backbone.blocks[-1]
    x = torch.randn(2, 6, 384, requires_grad=True)
    with PeakMemory() as memory:
        y = block(x)
        stored = memory.live
        y.backward(torch.empty_like(y))
    assert (parts.run.stored, parts.run.peak) == (stored, memory.peak)
    assert parts.block == sum(p.numel() for p in block.parameters())
    assert parts.blocks == 6
    assert parts.backbone == sum(p.numel() for p in backbone.parameters())


def test_the_state_of_22_billion_parameters_and_their_traffic():
    """docs/scale.md: 16 bytes a parameter, 348 GB; on 8 devices 43.5 GB each, beside what is gathered."""
    cfg, *_ = planned_config()
    cfg.model.backbone = dict(type='ViT22B', arch='22b', frozen=False)
    cfg.model.decode_head.in_channels = 6144
    parts = rehearse(cfg, 1, 1296)
    count = parts.backbone + parts.decoder
    assert 21.7e9 < parts.backbone < 21.8e9
    one = whole(parts, False)
    assert one.weights + one.gradients + one.optimizer == 16 * count
    eight, two = (sharded(parts, False, 8, tp) for tp in (1, 2))
    assert eight.gradients == count * 4 // 8
    assert eight.optimizer == 2 * eight.gradients
    gathered = 2 * 2 * parts.block + 4 * (parts.stem + parts.decoder)
    assert eight.weights == count * 4 // 8 + gathered
    blocks = 48 * parts.block
    assert eight.communication == (2 * 2 + 4) * blocks * 7 // 8  # gathered twice in bf16, reduced in fp32
    tokens = 1296 * 6144 * 2
    assert two.communication == (2 * 2 + 4) * blocks // 2 * 3 // 4 + 2 * 48 * tokens  # 2 (t - 1) / t = 1 a pass
    assert two.activations < eight.activations
    checkpointed = sharded(parts, False, 8, checkpointed=True)
    assert checkpointed.total < eight.total


def wanted(**more):
    return Wanted(**dict(
        backbone='vit22b', regime='frozen', decoder='linear', gpus=1, memory=80e9, tokens=1296, batch=1,
    ) | more)  # fmt: skip


@pytest.mark.parametrize(('machine', 'name', 'words'), [
    (dict(), 'one device, bf16', ['--regime frozen', 'model.backbone.dtype=bfloat16']),
    (dict(gpus=8), 'DDP on 8, bf16', ['torchrun --nproc_per_node=8', '--launcher pytorch']),
    (dict(gpus=8, memory=24e9), 'FSDP2 on 8, bf16', ['--strategy fsdp2']),
    (dict(memory=16e9), 'streaming, bf16', ['tools/cache_features.py', '--stream-weights', '--regime cached']),
    (dict(regime='finetune', gpus=8), 'FSDP2 on 8', ['--strategy fsdp2', 'with_cp=False']),
    (dict(regime='finetune', gpus=8, batch=4), 'FSDP2 on 8, checkpointed', ['with_cp=True', 'batch_size=4']),
    (dict(regime='finetune', memory=16e9), None, []),
])  # fmt: skip
def test_what_is_recommended(machine, name, words):
    rows = rows_of(wanted(**machine))
    best = recommended(wanted(**machine), rows)
    assert (best and best.setup.name) == name
    line = '\n'.join(commands(wanted(**machine), best.setup)) if best else ''
    assert all(word in line for word in words)
    assert not any('  ' in line for row in rows for line in commands(wanted(**machine), row.setup))
    assert all(row.fits == (row.setup.total <= 0.9 * machine.get('memory', 80e9)) for row in rows)


def test_the_way_out_is_none_that_has_been_taken():
    assert '--regime frozen' in advice(wanted(regime='finetune'))
    assert '--regime' not in advice(wanted())


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match='dinov2_small|HFBackbone'):
        rows_of(wanted(backbone='dinov2_small'))
    with pytest.raises(UserError, match='at least 1'):
        rows_of(wanted(gpus=0))
    with pytest.raises(UserError, match='--memory 8 elephants'):
        memory_of('8 elephants')
    assert [memory_of(text) for text in ('80GB', '80', '1.5GiB', '500 MB')] == [80e9, 80e9, 1.5 * 2**30, 5e8]
    assert [grid_of(n) for n in (1296, 1295, 7)] == [(36, 36), (35, 37), (1, 7)]


def test_the_tool(run_tool):
    arguments = ['tools/plan.py', '--backbone', 'vit22b_tiny', '--gpus', 2, '--memory', '8GB', '--regime', 'finetune']
    text = run_tool(*arguments, '--decoder', 'upernet').stdout
    assert 'take DDP on 2:' in text
    assert 'FSDP2 on 2, checkpointed' in text
    printed = run_tool(*arguments, '--json').stdout
    found = json.loads(printed[printed.index('{') :])
    assert found['recommended']['name'] == 'DDP on 2'
    row = found['rows'][0]
    assert row['total'] == sum(row[part] for part in ('weights', 'gradients', 'optimizer', 'activations'))
