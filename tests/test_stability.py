"""Attention statistics against a softmax that is written out, and trainings that are stopped."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from PIL import Image
from test_guards import training
from torch import nn
from torch.nn import functional as F

from vit22b_dense import ViT22B
from vit22b_dense.demo.labelled import LabelledSet
from vit22b_dense.engine.guards import DivergedError
from vit22b_dense.engine.stability import StabilityHook, logit_and_entropy
from vit22b_dense.models import PlainViT

SIZES = dict(embed_dims=24, num_layers=3, num_heads=4, mlp_dims=32)


def written_out(q, k):
    """Largest logit and mean entropy of one head: queries and keys ``(N, d)``."""
    logits = [
        [sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(len(x)) for y in k.tolist()] for x in q.tolist()
    ]
    entropies = []
    for row in logits:
        weights = [math.exp(value - max(row)) for value in row]
        shares = [weight / sum(weights) for weight in weights]
        entropies.append(-sum(p * math.log(p) for p in shares if p))
    return max(map(max, logits)), sum(entropies) / len(entropies)


def over_heads(heads):
    logits, entropies = zip(*(written_out(q, k) for q, k in heads), strict=True)
    return max(logits), sum(entropies) / len(entropies)


def test_the_statistics_are_those_of_a_softmax_written_out():
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 4, 5, 6).unbind(0)
    logit, entropy = logit_and_entropy(3 * q, k, [1, 3], images=2)
    expected = over_heads([(3 * q[b, h], k[b, h]) for b in (0, 1) for h in (1, 3)])
    assert (logit.item(), entropy.item()) == pytest.approx(expected, rel=1e-5)
    uniform = logit_and_entropy(0 * q, k, [0], 1)[1]
    assert uniform.item() == pytest.approx(math.log(q.shape[2]))
    assert logit_and_entropy(1000 * k, k, [0], 1)[1] < 0.1


def heads_of(block, tokens, which):
    """Queries and keys of some heads of each image, from the block's weights."""
    heads, width = SIZES['num_heads'], SIZES['embed_dims']
    if hasattr(block, 'in_proj'):
        y = F.rms_norm(tokens, (width,), block.norm.weight, 1e-6)
        rows = block.in_proj.weight.unflatten(0, (heads, -1))
        size = width // heads
        return [
            tuple(
                F.rms_norm(one @ rows[h, part * size : (part + 1) * size].T, (size,), norm.weight, 1e-6)
                for part, norm in enumerate((block.q_norm, block.k_norm))
            )
            for h in which
            for one in y
        ]
    q, k, _ = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
    return [pair for h in which for pair in zip(q.chunk(heads, dim=-1)[h], k.chunk(heads, dim=-1)[h], strict=True)]


def fake_runner(backbone, iteration):
    scalars = []
    return SimpleNamespace(
        model=Model(backbone),
        iter=iteration,
        message_hub=MessageHub.get_instance('stability'),
        visualizer=SimpleNamespace(add_scalars=lambda values, **_: scalars.append(values)),
        timestamp='now',
        scalars=scalars,
    )


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize('kind', [ViT22B, PlainViT])
@pytest.mark.parametrize('with_cp', [False, True])
def test_each_block_is_looked_at_without_changing_it(kind, with_cp):
    torch.manual_seed(0)
    backbone = kind(SIZES, img_size=42, with_cp=with_cp).train()
    for param in backbone.parameters():
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0, std=0.5)
    image = torch.randn(2, 3, 42, 42)
    expected = backbone(image)[0]
    hook, runner = StabilityHook(interval=10, patience=0), fake_runner(backbone, 9)
    hook.warned = {0, 1, 2}
    hook.before_train_iter(runner, 0)
    found = backbone(image)[0]
    found.sum().backward()
    hook.after_train_iter(runner, 0)
    assert torch.equal(found, expected)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.blocks)
    tokens, size = backbone.embed(image)
    with torch.no_grad():
        before = [tokens, *(t for _, t in backbone.run_blocks(tokens, size))]
    (scalars,) = runner.scalars
    which = (2, 3)  # the first look was at 0 and 1
    for i, block in enumerate(backbone.blocks):
        logit, entropy = over_heads(heads_of(block, before[i], which))
        assert scalars[f'attention/max_logit/{i}'] == pytest.approx(logit, rel=1e-4)
        assert scalars[f'attention/entropy/{i}'] == pytest.approx(entropy, rel=1e-3, abs=1e-5)
    assert len(scalars) == 6
    hub = runner.message_hub
    assert hub.get_scalar('train/max_logit').current() == max(scalars[f'attention/max_logit/{i}'] for i in range(3))
    assert hub.get_scalar('train/min_entropy').current() == min(scalars[f'attention/entropy/{i}'] for i in range(3))


@pytest.mark.parametrize(('frozen', 'iteration'), [(True, 19), (False, 20)])
def test_nothing_happens_between_looks_and_on_a_frozen_backbone(frozen, iteration):
    backbone = ViT22B(SIZES, img_size=42, frozen=frozen)
    hook, runner = StabilityHook(interval=10), fake_runner(backbone, iteration)
    hook.before_train_iter(runner, 0)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.blocks)
    hook.after_train_iter(runner, 0)
    assert not runner.scalars


def test_a_training_that_has_gone_one_hot_is_warned_of_and_stopped(tmp_path):
    options = {'default_hooks.stability.interval': 1, 'default_hooks.stability.patience': 2}
    runner = training(tmp_path, **options)
    nn.init.constant_(runner.model.backbone.blocks[0].q_norm.weight, 1e5)
    with pytest.raises(DivergedError, match=r'iteration 2: block 0: .*one-hot 2 times in a row.*iter_1\.pth'):
        runner.train()
    log = '\n'.join(path.read_text() for path in (tmp_path / 'run').rglob('*.log'))
    assert log.count('on the way to one-hot attention') == 1
    (path,) = (tmp_path / 'run').glob('*/vis_data/2*.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    looks = [line for line in lines if 'attention/entropy/0' in line]
    assert [look['step'] for look in looks] == [1, 2]
    assert all(look['attention/max_logit/0'] > 1e4 for look in looks)
    assert lines[1]['min_entropy'] == pytest.approx(looks[0]['attention/entropy/0'])
    assert 'max_logit: ' in log


def test_the_experiment_trains_the_same_model_twice_and_draws(tmp_path, run_tool):
    LabelledSet(tmp_path / 'data', 1, 1, (56, 84), crop=28).write()
    run_tool('tools/stability.py', tmp_path / 'data', '--work-dir', tmp_path / 'out', '--iterations', 2)
    found = json.loads((tmp_path / 'out/stability.json').read_text())
    normed, plain = found['runs'].values()
    assert list(found['runs']) == ['with QK-norm', 'without QK-norm']
    for result in (normed, plain):
        assert (len(result['loss']), len(result['max_logit']), len(result['entropy'])) == (2, 2, 2)
        assert (len(result['entropy'][0]), result['stopped']) == (found['arch']['num_layers'], None)
    assert normed['loss'][0] == pytest.approx(plain['loss'][0])  # the head starts at zero
    assert plain['max_logit'][0] < normed['max_logit'][0] <= math.sqrt(192 / 3)
    assert Image.open(tmp_path / 'out/stability.png').size[0] > 1000
    first, second = (
        torch.load(p, weights_only=False)['state_dict'] for p in sorted((tmp_path / 'out').glob('*/*.pth'))
    )
    assert set(first) - set(second) == {f'backbone.blocks.{i}.{n}_norm.weight' for i in range(6) for n in 'qk'}
