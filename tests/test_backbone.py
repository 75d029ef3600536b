import pytest
import torch
from memory import PeakMemory
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import CheckpointError
from vit22b_dense.models.backbones.pos_embed import resize_pos_embed

SMALL = dict(embed_dims=32, num_layers=4, num_heads=4, mlp_dims=64)


@pytest.mark.parametrize('size', [(56, 56), (57, 83), (14, 140), (13, 15)])
def test_maps_have_the_promised_shapes(size):
    maps = ViT22B(SMALL, img_size=56, out_indices=(0, -1))(torch.randn(2, 3, *size))
    tokens = (-(-size[0] // 14), -(-size[1] // 14))
    assert [tuple(m.shape) for m in maps] == [(2, 32, *tokens)] * 2


def test_forward_is_embedding_blocks_norm():
    torch.manual_seed(0)
    model = ViT22B(SMALL, img_size=(56, 70), out_indices=(2, -1, 0)).eval()
    image = torch.randn(1, 3, 42, 56)
    tokens = model.patch_embed(image)
    x = tokens.flatten(2).transpose(1, 2) + resize_pos_embed(model.pos_embed, (3, 4)).flatten(1, 2)
    outputs = []
    for block in model.blocks:
        x = block(x)
        outputs.append(model.norm(x).transpose(1, 2).reshape(1, 32, 3, 4))
    for got, wanted in zip(model(image), (outputs[2], outputs[3], outputs[0]), strict=True):
        torch.testing.assert_close(got, wanted)


def test_other_sizes_are_continued_by_reflection_and_the_map_covers_the_image():
    model = ViT22B(SMALL, img_size=56)
    for size, pad in (((50, 61), (9, 6)), ((56, 61), (9, 0))):
        image = torch.randn(1, 3, *size)
        patches = model(F.pad(image, (0, pad[0], 0, pad[1]), mode='reflect'))[0]
        height, width = patches.shape[2:]
        # cell i of n stands for the pixels i * side / n to (i + 1) * side / n
        y, x = ((torch.arange(n) + 0.5) * side / n / 14 for n, side in zip((height, width), size, strict=True))
        grid = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing='xy'), -1)[None]
        expected = F.grid_sample(patches, grid, padding_mode='border', align_corners=False)
        torch.testing.assert_close(model(image)[0], expected)
    for size in ((1, 3), (2, 30)):
        assert model(torch.randn(1, 3, *size))[0].isfinite().all()


def test_last_map_depends_on_position():
    """Two equal patches get different features: the position embedding takes part."""
    features = ViT22B(SMALL, img_size=56)(torch.ones(1, 3, 56, 56))[0]
    assert not torch.allclose(features[..., 0, 0], features[..., 2, 3])


@pytest.mark.parametrize('indices', [(4,), (-5,), ()])
def test_out_indices_outside_the_depth_are_refused(indices):
    with pytest.raises(ValueError, match='out_indices'):
        ViT22B(SMALL, out_indices=indices)


def test_unknown_arch_lists_the_known():
    with pytest.raises(ValueError, match="'huge'.*tiny, small, base, large, 22b"):
        ViT22B('huge')
    with pytest.raises(ValueError, match='exactly'):
        ViT22B(dict(SMALL, depth=3))


@pytest.mark.parametrize(
    ('arch', 'sizes'),
    [('tiny', (192, 12, 3)), ('small', (384, 12, 6)), ('base', (768, 12, 12)), ('large', (1024, 24, 16))],
)
def test_presets(arch, sizes):
    with torch.device('meta'):
        model = ViT22B(arch)
    width, depth, heads = sizes
    assert (model.embed_dims, model.num_layers) == (width, depth)
    assert model.blocks[0].up_bias.shape == (heads, 4 * width // heads)
    per_block = 12 * width**2 + 4 * width + 2 * width + 2 * width // heads
    assert sum(p.numel() for p in model.blocks.parameters()) == depth * per_block


def test_the_22_billion_on_meta():
    with torch.device('meta'):
        model = ViT22B('22b')
    weights = sum(p.numel() for n, p in model.blocks.named_parameters() if n.endswith('proj.weight'))
    assert weights == 48 * (4 * 6144**2 + 2 * 6144 * 24576) == 21_743_271_936
    assert (model.patch_size, model.pos_embed.shape) == (14, (1, 16, 16, 6144))
    assert model.blocks[0].q_norm.weight.shape == (128,)


def test_frozen_gives_no_gradients_and_stays_in_evaluation_mode():
    model = ViT22B(SMALL, img_size=56, frozen=True, drop_path_rate=0.9)
    holder = nn.ModuleDict(dict(backbone=model))
    holder.train()
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    image = torch.randn(4, 3, 56, 56, requires_grad=True)
    out = model(image)[0]
    assert not out.requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(out, model(image)[0])  # a drop path of 0.9 would show


def test_unfrozen_trains_and_returns_itself():
    model = ViT22B(SMALL, img_size=56)
    assert model.eval().train() is model
    model(torch.randn(1, 3, 56, 56))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def step_peak(layers: int, **options) -> int:
    """Peak bytes of a training step with a linear head, beyond parameters and gradients."""
    torch.manual_seed(0)
    backbone = ViT22B(dict(SMALL, num_layers=layers), img_size=112, **options).train()
    head, image = nn.Conv2d(32, 5, 1), torch.randn(2, 3, 112, 112)
    if backbone.frozen:
        backbone(image)  # derives weights, once
    for param in (*backbone.parameters(), *head.parameters()):
        if param.requires_grad:
            param.grad = torch.zeros_like(param)
    with PeakMemory() as memory:
        head(backbone(image)[-1]).square().mean().backward()
    return memory.peak


def test_frozen_peak_memory_does_not_grow_with_depth():
    shallow, deep = step_peak(2, frozen=True), step_peak(16, frozen=True)
    assert deep == shallow > 0
    assert step_peak(16) > 5 * deep  # the measure sees stored activations


def test_checkpointing_has_the_same_gradients_and_less_memory():
    torch.manual_seed(0)
    plain = ViT22B(SMALL, img_size=56, drop_path_rate=0.3).train()
    recomputed = ViT22B(SMALL, img_size=56, drop_path_rate=0.3, with_cp=True).train()
    recomputed.load_state_dict(plain.state_dict())
    image = torch.randn(8, 3, 56, 56)
    for model in (plain, recomputed):
        torch.manual_seed(5)
        model(image)[0].square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f'{n}: {m}')
    assert step_peak(16, with_cp=True) < 0.35 * step_peak(16)


def test_bf16_frozen_backbone_in_a_model_of_fp32():
    model = ViT22B(SMALL, img_size=56, frozen=True)
    image = torch.randn(1, 3, 70, 56)
    exact = model(image)[0]
    half = model.to(torch.bfloat16)(image)[0]
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize('kind', ['safetensors', 'pth', 'segmentor.pth'])
def test_pretrained_weights_with_the_position_embedding_resized(tmp_path, kind):
    torch.manual_seed(0)
    source = ViT22B(SMALL, img_size=(56, 84))
    path = tmp_path / f'weights.{kind}'
    state = source.state_dict()
    if kind == 'safetensors':
        save_file(state, path)
    elif kind == 'pth':
        torch.save(state, path)
    else:
        inside = {f'backbone.{n}': t for n, t in state.items()} | {'decode_head.conv_seg.bias': torch.zeros(3)}
        torch.save(dict(meta=dict(), state_dict=inside), path)
    model = ViT22B(SMALL, img_size=112, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    loaded = model.state_dict()
    assert torch.equal(loaded.pop('pos_embed'), resize_pos_embed(state.pop('pos_embed'), (8, 8)))
    assert all(torch.equal(loaded[n], state[n]) for n in state)


def test_pretrained_weights_that_do_not_fit_change_nothing(tmp_path):
    path = tmp_path / 'other.safetensors'
    state = ViT22B(SMALL, img_size=56).state_dict()
    state['extra.weight'] = torch.zeros(2)
    del state['norm.weight']
    state['blocks.1.out_bias'] = torch.zeros(33)
    save_file(state, path)
    cfg = dict(type='Pretrained', checkpoint=str(path))
    model = ViT22B(SMALL, img_size=56, init_cfg=cfg)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        model.init_weights()
    for part in (
        str(path),
        'only in the model (1): norm.weight (32,)',
        'only in the file (1): extra.weight (2,)',
        'blocks.1.out_bias model (32,) float32, file (33,)',
        'allow_partial=True',
    ):
        assert part in str(error.value)
    # the memory is still unfilled: compared bit by bit
    assert all(torch.equal(t.view(torch.int32), before[n].view(torch.int32)) for n, t in model.state_dict().items())
    partial = ViT22B(SMALL, img_size=56, init_cfg=dict(cfg, allow_partial=True))
    partial.init_weights()
    assert torch.equal(partial.patch_embed.weight, state['patch_embed.weight'])


def test_other_kinds_of_init_cfg_are_refused():
    with pytest.raises(ValueError, match='Pretrained'):
        ViT22B(SMALL, init_cfg=dict(type='Xavier')).init_weights()


def test_layer_ids():
    model = ViT22B(SMALL)
    assert model.layer_id('patch_embed.weight') == model.layer_id('pos_embed') == 0
    assert [model.layer_id(f'blocks.{i}.norm.weight') for i in (0, 3)] == [1, 4]
    assert model.layer_id('norm.weight') == 5
