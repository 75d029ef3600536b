import json
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit22b_dense.checkpoint import CheckpointError
from vit22b_dense.engine.layer_decay import LayerDecayConstructor
from vit22b_dense.errors import UserError
from vit22b_dense.models import HFBackbone
from vit22b_dense.models.backbones.contract import cover_image

transformers = pytest.importorskip('transformers')

TINY = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
CONFIGS = {
    'dinov2': lambda: transformers.Dinov2Config(**TINY, image_size=56, patch_size=14),
    'dinov2_with_registers': lambda: transformers.Dinov2WithRegistersConfig(**TINY, image_size=56, patch_size=14),
    'dinov3_vit': lambda: transformers.DINOv3ViTConfig(**TINY, intermediate_size=64, patch_size=16),
}


def reference_model(folder, out_indices):
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = type(transformers.AutoBackbone.from_config(config))
    return cls.from_pretrained(folder, out_indices=out_indices, dtype=torch.float32).eval()


@pytest.fixture(params=sorted(CONFIGS))
def folder(request, tmp_path):
    """A model folder as `save_pretrained` writes it, with random weights."""
    torch.manual_seed(0)
    model = transformers.AutoBackbone.from_config(CONFIGS[request.param]())
    for param in model.parameters():
        nn.init.normal_(param, std=0.2)
    model.save_pretrained(tmp_path / 'model')
    return tmp_path / 'model'


def test_equals_transformers_and_keeps_the_contract(folder):
    reference = reference_model(folder, [1, 3, 4])
    ours = HFBackbone(str(folder), out_indices=(2, -1, 0))
    ours.init_weights()
    ours.eval()
    patch = ours.patch_size
    image = torch.randn(2, 3, 4 * patch - 3, 5 * patch - 9)
    maps = ours(image)
    with torch.no_grad():
        wanted = reference(F.pad(image, (0, 9, 0, 3), mode='reflect')).feature_maps
    wanted = [cover_image(one, image.shape[2:], patch) for one in wanted]
    for got, expected in zip(maps, (wanted[1], wanted[2], wanted[0]), strict=True):
        assert got.shape == (2, 32, 4, 5)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (ours.embed_dims, ours.num_layers) == (32, 4)


def test_real_dinov2_gives_transformers_own_feature_maps(shared_data):
    folder = shared_data('dinov2_small_hf')
    reference = reference_model(folder, [3, 12])
    ours = HFBackbone(str(folder), out_indices=(2, -1), frozen=True)
    ours.init_weights()
    torch.manual_seed(0)
    for height, width in ((518, 518), (100, 131)):
        image = torch.randn(1, 3, height, width)
        with torch.no_grad():
            wanted = reference(F.pad(image, (0, -width % 14, 0, -height % 14), mode='reflect')).feature_maps
        wanted = [cover_image(one, (height, width), 14) for one in wanted]
        for got, expected in zip(ours(image), wanted, strict=True):
            assert got.shape == (1, 384, -(-height // 14), -(-width // 14))
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_frozen_and_checkpointed(folder):
    frozen = HFBackbone(str(folder), frozen=True)
    assert frozen.train() is frozen
    assert not any(m.training for m in frozen.modules())
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(RuntimeError, match='no weights yet'):
        frozen(image)
    frozen.init_weights()
    assert not frozen(image)[0].requires_grad
    plain, recomputed = HFBackbone(str(folder)), HFBackbone(str(folder), with_cp=True)
    for model in (plain, recomputed):
        model.init_weights()
        model.train()(image)[0].square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f'{n}: {m}')


def test_every_parameter_has_a_depth_for_layer_decay(folder):
    holder = nn.Module()
    holder.backbone = HFBackbone(str(folder))
    groups = []
    LayerDecayConstructor(
        dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1)), dict(decay_rate=0.5)
    ).add_params(groups, holder)
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    for name, param in holder.named_parameters():
        if name.endswith('mask_token'):
            continue
        block = next((int(part) for part in name.split('.') if part.isdigit() and 'layer.' in name), None)
        depth = block + 1 if block is not None else 0 if 'embeddings' in name else 5
        assert rates[id(param)] == pytest.approx(0.5 ** (5 - depth)), name
    decayed = {id(p) for g in groups if g['weight_decay'] for p in g['params']}
    names = [n for n, p in holder.named_parameters() if id(p) in decayed]
    assert names
    assert not any('norm' in n or 'bias' in n or 'position' in n or 'token' in n or 'lambda' in n for n in names)


def test_random_weights_on_request(folder):
    torch.manual_seed(0)
    random, loaded = HFBackbone(str(folder), pretrained=False), HFBackbone(str(folder))
    for model in (random, loaded):
        model.init_weights()
    image = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(random(image)[0], loaded(image)[0])


def test_clear_errors(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='absent: neither a folder'):
        HFBackbone(str(tmp_path / 'absent'))
    transformers.ResNetConfig().save_pretrained(tmp_path / 'resnet')
    with pytest.raises(UserError, match='resnet is not a plain ViT'):
        HFBackbone(str(tmp_path / 'resnet'))
    weights = folder / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='model.safetensors: not a complete safetensors file'):
        HFBackbone(str(folder)).init_weights()
    weights.unlink()
    torch.save({}, folder / 'pytorch_model.bin')  # a pickle is not taken instead
    with pytest.raises(CheckpointError, match=r'holds no \.safetensors'):
        HFBackbone(str(folder)).init_weights()
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(UserError, match='pip install "transformers>=5'):
        HFBackbone(str(folder))


def test_weights_of_another_size_are_refused(folder):
    config = json.loads((folder / 'config.json').read_text()) | dict(num_hidden_layers=5)
    for name in ('stage_names', 'out_features', 'out_indices', '_out_features', '_out_indices', 'layer_types'):
        config.pop(name, None)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match='lack'):
        HFBackbone(str(folder)).init_weights()
