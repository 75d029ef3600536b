"""What `frozen` means for every backbone, what it costs, and where the weights come from."""

import json
import sys

import pytest
import torch
from memory import PeakMemory
from safetensors.torch import save_file
from torch import nn

from vit22b_dense.models import HFBackbone, PlainViT, ViT22B

SIZES = dict(embed_dims=32, num_heads=4, mlp_dims=64)
HF = dict(hidden_size=32, num_attention_heads=4, patch_size=14)


def hf_folder(kind, depth, folder):
    transformers = pytest.importorskip('transformers')
    more = dict(intermediate_size=64) if kind == 'DINOv3ViTConfig' else dict(image_size=56)
    config = getattr(transformers, kind)(num_hidden_layers=depth, **HF, **more)
    path = folder / f'{kind}{depth}'
    config.architectures = [kind.replace('Config', 'Model')]
    config.save_pretrained(path)
    return str(path)


def build(kind, depth, folder, **options):
    if kind == 'ViT22B':
        return ViT22B(dict(SIZES, num_layers=depth), img_size=56, **options)
    if kind == 'PlainViT':
        return PlainViT(dict(SIZES, num_layers=depth, class_token=True), img_size=56, **options)
    return HFBackbone(hf_folder(kind, depth, folder), pretrained=False, **options)


KINDS = ['ViT22B', 'PlainViT', 'Dinov2Config', 'Dinov2WithRegistersConfig', 'DINOv3ViTConfig']


class LowRank(nn.Module):
    """An adapter around a linear layer: its product plus that of a low-rank pair."""

    def __init__(self, inner, dropout=0.0):
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.randn(2, inner.in_features) * 0.1)
        self.up = nn.Parameter(torch.randn(inner.out_features, 2) * 0.1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.inner(x) + self.dropout(x) @ self.down.T @ self.up.T


def adapted(depth=3, blocks=None, dropout=0.0, **options):
    torch.manual_seed(0)
    backbone = ViT22B(dict(SIZES, num_layers=depth), img_size=56, frozen=True, **options)
    for block in backbone.blocks if blocks is None else [backbone.blocks[i] for i in blocks]:
        block.in_proj, block.out_proj = LowRank(block.in_proj, dropout), LowRank(block.out_proj, dropout)
    return backbone


@pytest.mark.parametrize('kind', KINDS)
def test_embed_blocks_and_maps_by_hand_are_the_forward_pass(kind, tmp_path):
    torch.manual_seed(0)
    backbone = build(kind, 4, tmp_path, out_indices=(1, -1)).eval()
    patch = backbone.patch_size
    image = torch.randn(2, 3, 4 * patch, 5 * patch)
    tokens, size = backbone.embed(image)
    assert size == (4, 5)
    behind = dict(backbone.run_blocks(tokens, size))
    assert sorted(behind) == [0, 1, 2, 3]
    for i, expected in zip((1, 3), backbone(image), strict=True):
        assert torch.equal(backbone.maps(behind[i], size), expected)
    # half-way on: from the tokens behind block 1
    ((_, tokens), *_) = list(backbone.run_blocks(behind[2], size, start=3))
    assert torch.equal(tokens, behind[3])


@pytest.mark.parametrize('kind', KINDS)
def test_a_frozen_forward_does_not_grow_with_the_depth(kind, tmp_path):
    peaks = {}
    for frozen in (True, False):
        for depth in (2, 12):
            backbone = build(kind, depth, tmp_path, frozen=frozen)
            head, image = nn.Conv2d(32, 5, 1), torch.randn(2, 3, 112, 112)
            backbone(image)  # what is kept from the first call on is not of the activations
            with PeakMemory() as memory:
                head(backbone(image)[-1]).square().mean().backward()
            peaks[frozen, depth] = memory.peak
    assert peaks[True, 12] == peaks[True, 2]
    assert peaks[False, 12] > 3 * peaks[True, 12]


@pytest.mark.parametrize('kind', KINDS)
def test_random_weights_follow_from_one_seed(kind, tmp_path):
    torch.manual_seed(3)
    first = build(kind, 2, tmp_path)
    second = build(kind, 2, tmp_path)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    first.init_weights()  # they have been drawn
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert first.weights_source['seed'] != second.weights_source['seed']
    assert not all(torch.equal(value, before[name]) for name, value in second.state_dict().items())
    outside = torch.random.get_rng_state()
    second.draw_weights(first.weights_source['seed'])
    assert torch.equal(torch.random.get_rng_state(), outside)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())


def test_random_weights_are_the_same_in_another_process(run_tool, tmp_path):
    (tmp_path / 'draw.py').write_text(
        'import torch; from vit22b_dense import ViT22B\n'
        f'b = ViT22B(dict(num_layers=2, **{SIZES!r}), img_size=56); b.draw_weights(7)\n'
        'print(float(sum(p.double().abs().sum() for p in b.parameters())))'
    )
    printed = run_tool(tmp_path / 'draw.py').stdout
    torch.manual_seed(99)
    backbone = ViT22B(dict(SIZES, num_layers=2), img_size=56)
    backbone.draw_weights(7)
    assert printed.strip() == str(float(sum(p.detach().double().abs().sum() for p in backbone.parameters())))


def test_a_backbone_on_meta_draws_its_weights():
    with torch.device('meta'):
        backbone = ViT22B(dict(SIZES, num_layers=2), img_size=56)
    backbone.init_weights()
    assert not any(param.is_meta for param in backbone.parameters())
    expected = ViT22B(dict(SIZES, num_layers=2), img_size=56)
    expected.draw_weights(backbone.weights_source['seed'])
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in backbone.state_dict().items())
    backbone(torch.randn(1, 3, 56, 56))


def test_nothing_is_drawn_before_pretrained_weights_are_loaded(tmp_path, monkeypatch):
    state = ViT22B(dict(SIZES, num_layers=2), img_size=56).state_dict()
    save_file(state, tmp_path / 'w.safetensors')
    drawn = []
    monkeypatch.setattr(nn.init, 'trunc_normal_', lambda *a, **k: drawn.append(a[0].is_meta))
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.safetensors'))
    backbone = ViT22B(dict(SIZES, num_layers=2), img_size=56, init_cfg=cfg)
    with pytest.raises(RuntimeError, match='no weights yet'):
        backbone(torch.randn(1, 3, 56, 56))
    backbone.init_weights()
    assert all(drawn)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
    backbone(torch.randn(1, 3, 56, 56))


def test_an_adapter_in_a_frozen_backbone_learns():
    backbone = adapted().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    learning = [name for name, param in backbone.named_parameters() if param.requires_grad]
    assert len(learning) == 3 * 2 * 2
    assert set(learning).isdisjoint(backbone.referenced_names())
    optimizer = torch.optim.Adam([p for p in backbone.parameters() if p.requires_grad], lr=0.02)
    image, target = torch.randn(2, 3, 56, 56), torch.randn(2, 32, 4, 4)
    losses = []
    for _ in range(30):
        loss = (backbone(image)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in backbone.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in learning), name


def test_an_adapter_of_transformers_model_learns(tmp_path):
    backbone = build('Dinov2Config', 2, tmp_path, frozen=True)
    mlp = backbone.model.encoder.layer[1].mlp
    mlp.fc1 = LowRank(mlp.fc1)
    backbone.train()(torch.randn(1, 3, 56, 56))[0].square().mean().backward()
    assert mlp.fc1.up.grad.abs().sum() > 0
    assert sum(param.grad is not None for param in backbone.parameters()) == 2


def test_without_an_adapter_no_activation_is_stored():
    for backbone, stored in ((adapted(blocks=[]), 0), (adapted(), 1)):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=saved: kept.append(t) or t, lambda t: t):
            out = backbone.train()(torch.randn(1, 3, 56, 56))[0]
        assert bool(saved) == bool(stored) == out.requires_grad


def test_in_front_of_the_first_adapter_nothing_is_stored():
    peaks = []
    for depth in (2, 12):
        backbone, image = adapted(depth, blocks=[-1]).train(), torch.randn(2, 3, 112, 112)
        with PeakMemory() as memory:
            backbone(image)[0].square().mean().backward()
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1]


def test_recomputing_gives_an_adapter_the_same_gradients():
    grads = []
    for with_cp in (False, True):
        backbone, image = adapted(with_cp=with_cp).train(), torch.ones(1, 3, 56, 56)
        backbone(image)[0].square().mean().backward()
        grads.append([p.grad for p in backbone.parameters() if p.requires_grad])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_an_adapters_dropout_follows_the_mode_and_the_rest_does_not():
    backbone = adapted(dropout=0.5, drop_path_rate=0.5)
    assert backbone.train() is backbone
    training = {name for name, module in backbone.named_modules() if module.training}
    expected = {f'blocks.{i}.{p}{d}' for i in range(3) for p in ('in_proj', 'out_proj') for d in ('', '.dropout')}
    assert training == expected
    image = torch.randn(1, 3, 56, 56)
    assert not torch.equal(backbone(image)[0], backbone(image)[0])
    assert not any(module.training for module in backbone.eval().modules())
    assert torch.equal(backbone(image)[0], backbone(image)[0])


def test_pretrained_weights_go_around_an_adapters_own(tmp_path):
    """An adapter of added parameters: the file has none of them, and the backbone's names stay."""
    state = ViT22B(dict(SIZES, num_layers=2), img_size=56).state_dict()
    save_file(state, tmp_path / 'w.safetensors')
    backbone = ViT22B(dict(SIZES, num_layers=2), img_size=56, frozen=True)
    for block in backbone.blocks:
        block.in_proj.low_rank = nn.Parameter(torch.ones(2))
    backbone.load_pretrained(tmp_path / 'w.safetensors')
    assert backbone.referenced_names() == set(state)
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in state.items())
    assert (backbone.blocks[0].in_proj.low_rank == 1).all()


def test_weights_of_low_precision_are_for_frozen_backbones(tmp_path):
    state = ViT22B(dict(SIZES, num_layers=2), img_size=56).state_dict()
    save_file(state, tmp_path / 'w.safetensors')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.safetensors'))
    backbone = ViT22B(dict(SIZES, num_layers=2), img_size=56, frozen=True, init_cfg=cfg, dtype='bfloat16')
    backbone.init_weights()
    assert all(torch.equal(value, state[name].bfloat16()) for name, value in backbone.state_dict().items())
    image = torch.randn(1, 3, 56, 56)
    maps = backbone(image)[0]
    assert maps.dtype == torch.float32
    exact = ViT22B(dict(SIZES, num_layers=2), img_size=56, init_cfg=cfg)
    exact.init_weights()
    assert (maps - exact(image)[0]).norm() < 0.03 * maps.norm()
    with pytest.raises(ValueError, match="dtype='bfloat16'.*only with frozen=True"):
        ViT22B(dict(SIZES, num_layers=2), dtype='bfloat16')


# Resident memory at its highest, as the kernel counts it; mapped files count too.
PROBE = """
import json, sys, torch
from vit22b_dense.models import HFBackbone, ViT22B

def peak():
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM'))

torch.set_num_threads(1)
kind, path, size = sys.argv[1:]
if kind == 'ViT22B':
    build = lambda where, sizes: ViT22B(sizes, init_cfg=dict(type='Pretrained', checkpoint=where), frozen=True)
else:
    build = lambda where, sizes: HFBackbone(where, frozen=True)
small, large = path.split(',')
build(small, dict(embed_dims=32, num_layers=1, num_heads=2, mlp_dims=64)).init_weights()  # libraries are loaded now
before = peak()
backbone = build(large, json.loads(size))
backbone.init_weights()
total = sum(p.nbytes for p in backbone.parameters())
print(json.dumps([total, peak() - before]))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads the peak from /proc')
@pytest.mark.parametrize('kind', ['ViT22B', 'HFBackbone', 'HFBackbone of float16'])
def test_loading_takes_little_more_than_the_weights(kind, tmp_path, run_tool):
    size = dict(embed_dims=512, num_layers=24, num_heads=8, mlp_dims=2048)
    if kind == 'ViT22B':
        save_file(
            ViT22B(dict(embed_dims=32, num_layers=1, num_heads=2, mlp_dims=64)).state_dict(),
            tmp_path / 's.safetensors',
        )
        save_file(ViT22B(size).state_dict(), tmp_path / 'l.safetensors')
        paths = f'{tmp_path}/s.safetensors,{tmp_path}/l.safetensors'
    else:
        transformers = pytest.importorskip('transformers')
        paths = []
        for layers, width in ((1, 32), (24, 512)):
            config = transformers.Dinov2Config(hidden_size=width, num_hidden_layers=layers, num_attention_heads=2)
            model = transformers.Dinov2Model(config)
            (model.half() if 'float16' in kind else model).save_pretrained(tmp_path / str(width))
            paths.append(str(tmp_path / str(width)))
        paths = ','.join(paths)
    (tmp_path / 'probe.py').write_text(PROBE)
    done = run_tool(tmp_path / 'probe.py', kind.split()[0], paths, json.dumps(size))
    total, peak = json.loads(done.stdout.splitlines()[-1])
    assert total > 290e6
    # transformers maps a file into memory while it converts its type: pages that the system may drop at any time
    mapped = (tmp_path / '512/model.safetensors').stat().st_size if 'float16' in kind else 0
    assert peak - mapped < 1.1 * total


def test_bf16_weights_are_loaded_without_all_of_them_in_fp32(tmp_path):
    """From a float32 file, from which a float32 backbone takes twice as much; 24 blocks, as a tensor is read whole."""
    arch, path = dict(embed_dims=96, num_heads=4, mlp_dims=384, num_layers=24), tmp_path / 'w.safetensors'
    save_file(ViT22B(arch, img_size=56).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    peaks = {}
    for dtype in ('bfloat16', 'float32'):
        with PeakMemory() as memory:
            backbone = ViT22B(arch, img_size=56, frozen=True, dtype=dtype, init_cfg=init_cfg)
            backbone.init_weights()
        total = sum(p.nbytes for p in backbone.parameters())
        peaks[dtype] = memory.peak
        assert total <= memory.peak <= 1.1 * total
    assert peaks['float32'] > 1.9 * peaks['bfloat16']
