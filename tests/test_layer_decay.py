import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from vit22b_dense import LinearHead, ViT22B
from vit22b_dense.engine.layer_decay import groups_table


def model(**options) -> nn.Module:
    holder = nn.Module()
    holder.backbone = ViT22B(dict(embed_dims=16, num_layers=3, num_heads=2, mlp_dims=32), img_size=28, **options)
    holder.decode_head = LinearHead(16, 4)
    return holder


def build(module, **paramwise):
    return build_optim_wrapper(
        module,
        dict(
            constructor='LayerDecayConstructor',
            paramwise_cfg=paramwise,
            optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),
        ),
    ).optimizer


def test_every_parameter_has_the_rate_and_decay_of_its_depth():
    module = model()
    optimizer = build(module, decay_rate=0.5)
    of = {id(p): group for group in optimizer.param_groups for p in group['params']}
    assert len(of) == sum(len(g['params']) for g in optimizer.param_groups) == len(list(module.parameters()))
    for name, param in module.named_parameters():
        depth = 0 if 'embed' in name else int(name.split('.')[2]) + 1 if 'blocks' in name else 4
        free = 'norm' in name or 'bias' in name or 'pos_embed' in name
        assert of[id(param)]['lr'] == pytest.approx(0.01 * 0.5 ** (4 - depth)), name
        assert of[id(param)]['weight_decay'] == (0.0 if free else 0.1), name


def test_frozen_parameters_are_left_out():
    module = model(frozen=True)
    held = [p for group in build(module, decay_rate=0.5).param_groups for p in group['params']]
    assert {id(p) for p in held} == {id(p) for p in module.decode_head.parameters()}
    module.requires_grad_(False)
    with pytest.raises(ValueError, match='everything is frozen'):
        build(module, decay_rate=0.5)


def test_the_table_tells_groups_rates_and_counts():
    module = model()
    lines = groups_table(build(module, decay_rate=0.5).param_groups).splitlines()
    assert len(lines) - 4 == 2 + 2 * 3 + 1 + 2  # embeddings, blocks, final norm, head; with and without decay
    total = sum(int(line.split('|')[5].replace(',', '')) for line in lines[3:-1])
    assert total == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    'paramwise',
    [dict(), dict(decay_rate=0), dict(decay_rate=0.9, num_layers=3), dict(decay_rate=1, head_weight_decay=-1)],
)
def test_other_settings_are_refused(paramwise):
    with pytest.raises(ValueError, match='decay_rate'):
        build(model(), **paramwise)


def test_a_backbone_without_depths_is_refused():
    module = nn.Module()
    module.backbone = nn.Linear(1, 1)
    with pytest.raises(TypeError, match='layer_id'):
        build(module, decay_rate=1.0)


def test_a_step_moves_layers_by_their_rates():
    torch.manual_seed(0)
    module = model()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = build(module, decay_rate=0.1)
    for param in module.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    moved = {
        n: (p - before[n] * (1 - g['lr'] * g['weight_decay'])).abs().mean().item()
        for g in optimizer.param_groups
        for n, p in module.named_parameters()
        if any(p is q for q in g['params'])
    }
    assert moved['decode_head.conv_seg.weight'] == pytest.approx(0.01, rel=1e-3)
    assert moved['backbone.blocks.0.in_proj.weight'] == pytest.approx(0.01 * 1e-3, rel=0.05)
