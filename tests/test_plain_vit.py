"""The sequential body: InternViT's block against transformers, presets by their parameter counts."""

import pytest
import torch
from torch import nn

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import convert_checkpoint, load_into_meta
from vit22b_dense.models import PlainViT

SMALL = dict(embed_dims=32, num_layers=3, num_heads=4, mlp_dims=80)
INTERNVIT = dict(SMALL, norm='rms', qkv_bias=False, qk_norm=True, layer_scale=0.1, class_token=True, final_norm=False)


def convert_from_transformers(state: dict, grid: int) -> dict:
    """transformers' `InternVLVisionModel` names to ours, written out by hand."""
    converted = {
        'cls_token': state['embeddings.cls_token'],
        'cls_pos_embed': state['embeddings.position_embeddings'][:, :1],
        'pos_embed': state['embeddings.position_embeddings'][:, 1:].reshape(1, grid, grid, -1),
        'patch_embed.weight': state['embeddings.patch_embeddings.projection.weight'],
        'patch_embed.bias': state['embeddings.patch_embeddings.projection.bias'],
    }
    for i in range(3):
        theirs, ours = f'encoder.layer.{i}.', f'blocks.{i}.'
        converted[f'{ours}attn.qkv.weight'] = torch.cat([state[f'{theirs}attention.{n}_proj.weight'] for n in 'qkv'])
        for a, b in {
            'layernorm_before.weight': 'norm1.weight', 'layernorm_after.weight': 'norm2.weight',
            'attention.q_norm.weight': 'attn.q_norm.weight', 'attention.k_norm.weight': 'attn.k_norm.weight',
            'attention.projection_layer.weight': 'attn.proj.weight',
            'attention.projection_layer.bias': 'attn.proj.bias', 'lambda_1': 'ls1', 'lambda_2': 'ls2',
            'mlp.fc1.weight': 'mlp.fc1.weight', 'mlp.fc1.bias': 'mlp.fc1.bias', 'mlp.fc2.weight': 'mlp.fc2.weight',
            'mlp.fc2.bias': 'mlp.fc2.bias',
        }.items():  # fmt: skip
            converted[ours + b] = state[theirs + a]
    return converted


def test_internvit_equals_transformers_forward_and_gradients():
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, image_size=56, patch_size=14,
        norm_type='rms_norm', attention_bias=False, use_qk_norm=True, layer_scale_init_value=0.1,
        use_mean_pooling=True,
    )  # fmt: skip
    theirs = transformers.InternVLVisionModel(config).eval()
    for param in theirs.parameters():
        nn.init.normal_(param, mean=0.3 if param.ndim == 1 else 0.0, std=0.3)
    ours = PlainViT(INTERNVIT, img_size=56).eval()
    ours.load_state_dict(convert_from_transformers(theirs.state_dict(), 4))
    image = torch.randn(2, 3, 56, 56)
    expected = theirs(image).last_hidden_state[:, 1:].transpose(1, 2).reshape(2, 32, 4, 4)
    got = ours(image)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(got)
    (got * direction).mean().backward()
    (expected * direction).mean().backward()
    gradients = convert_from_transformers({n: p.grad for n, p in theirs.named_parameters()}, 4)
    for name, param in ours.named_parameters():
        scale = gradients[name].abs().max()
        assert scale > 0, name
        assert (param.grad - gradients[name]).abs().max() <= 1e-5 * scale, name


def test_a_sequential_block_is_torchs_own():
    """Without InternViT's options: PyTorch's `TransformerEncoderLayer`, norm first."""
    torch.manual_seed(0)
    ours = PlainViT(dict(SMALL, num_layers=1), img_size=56).blocks[0].eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 80, dropout=0.0, activation='gelu', norm_first=True, batch_first=True)
    attention, mlp = (theirs.self_attn, ours.attn), ours.mlp
    pairs = [
        (attention[0].in_proj_weight, attention[1].qkv.weight),
        (attention[0].in_proj_bias, attention[1].qkv.bias),
        (attention[0].out_proj.weight, attention[1].proj.weight),
        (attention[0].out_proj.bias, attention[1].proj.bias),
        (theirs.linear1.weight, mlp.fc1.weight),
        (theirs.linear1.bias, mlp.fc1.bias),
        (theirs.linear2.weight, mlp.fc2.weight),
        (theirs.linear2.bias, mlp.fc2.bias),
    ]
    with torch.no_grad():
        for a, b in pairs:
            b.copy_(nn.init.normal_(a, std=0.3))
    theirs.norm1.eps = theirs.norm2.eps = 1e-6
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('arch', 'beyond_the_backbone', 'millions'),
    [
        ('vit_g', 0, 1843),
        # The published 3926 M are met when the attention-pooling head (one attention, one MLP, their norms and the
        # probe) and the classifier of JFT-3B's 29,593 classes are counted with the backbone.
        ('vit_e', (4 * 1792**2 + 2 * 1792 * 15360) + (1792 + 1) * 29593, 3926),
    ],
)
def test_the_papers_parameter_counts(arch, beyond_the_backbone, millions):
    with torch.device('meta'):
        model = PlainViT(arch)
    count = sum(p.numel() for p in model.parameters()) + beyond_the_backbone
    assert round(count / 1e6) == millions


def test_internvit_6b_has_its_5_9_billion():
    with torch.device('meta'):
        model = PlainViT('internvit_6b')
    weights = 48 * (4 * 3200**2 + 2 * 3200 * 12800)
    assert 5.5e9 < weights < sum(p.numel() for p in model.parameters()) < 5.91e9
    assert not [n for n, _ in model.named_parameters() if 'qkv.bias' in n or n.startswith('norm.')]


@pytest.mark.parametrize('arch', [SMALL, INTERNVIT])
def test_shares_the_contract_of_vit22b(arch):
    model = PlainViT(arch, img_size=56, out_indices=(0, -1), with_cp=True, drop_path_rate=0.1).train()
    maps = model(torch.randn(2, 3, 50, 61))
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 5)] * 2
    maps[-1].square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    frozen = PlainViT(arch, img_size=56, frozen=True)
    assert not frozen.train()(torch.randn(1, 3, 56, 56))[0].requires_grad
    assert type(model).__mro__[1] is ViT22B.__mro__[1]


def test_the_class_token_takes_part_but_is_not_returned():
    torch.manual_seed(0)
    model = PlainViT(INTERNVIT, img_size=56).eval()
    image = torch.randn(1, 3, 56, 56)
    before = model(image)[0]
    nn.init.normal_(model.cls_token)
    assert before.shape == (1, 32, 4, 4)
    assert not torch.allclose(before, model(image)[0])


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match='vit_g, vit_e, internvit_6b'):
        PlainViT('vit_h')
    with pytest.raises(ValueError, match='qkv_bias'):
        PlainViT(dict(SMALL, rope=True))
    with pytest.raises(ValueError, match="norm='batch'"):
        PlainViT(dict(SMALL, norm='batch'))


def test_converted_internvl_weights_give_the_same_features(tmp_path):
    """From a folder that transformers wrote, through the converter and `init_cfg`, to equal maps; on meta too."""
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, image_size=56, patch_size=14,
        norm_type='rms_norm', attention_bias=False, use_qk_norm=True, use_mean_pooling=True,
    )  # fmt: skip
    theirs = transformers.InternVLVisionModel(config).eval()
    for param in theirs.parameters():
        nn.init.normal_(param, mean=0.3 if param.ndim == 1 else 0.0, std=0.3)
    theirs.save_pretrained(tmp_path / 'hf')
    path = tmp_path / 'plain.safetensors'
    convert_checkpoint(tmp_path / 'hf', path)
    with torch.device('meta'):
        on_meta = PlainViT(INTERNVIT, img_size=56, frozen=True)
    load_into_meta(on_meta, path)
    from_init = PlainViT(INTERNVIT, img_size=56, init_cfg=dict(type='Pretrained', checkpoint=str(path))).eval()
    from_init.init_weights()
    image = torch.randn(1, 3, 56, 56)
    expected = theirs(image).last_hidden_state[:, 1:].transpose(1, 2).reshape(1, 32, 4, 4)
    for model in (on_meta, from_init):
        torch.testing.assert_close(model(image)[0], expected, rtol=1e-5, atol=1e-5)
