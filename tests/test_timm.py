"""What is compared with timm, where timm can be imported."""

import pytest
import torch
from torch import nn

from vit22b_dense.errors import UserError
from vit22b_dense.models import TIMMViT
from vit22b_dense.models.backbones.block import ParallelBlock

try:
    import timm
except Exception as error:
    timm, reason = None, f'timm cannot be imported here: {error}'
else:
    reason = ''
needs_timm = pytest.mark.skipif(timm is None, reason=reason)


def from_timm(state: dict, heads: int) -> dict:
    """timm's `ParallelScalingBlock` (rows mlp, q, k, v of all heads) in the per-head interleaved layout."""
    width = state['in_norm.weight'].numel()
    mlp = state['mlp_bias'].numel()
    up, q, k, v = state['in_proj.weight'].split([mlp, width, width, width])
    rows = [t.view(heads, -1, width) for t in (q, k, v, up)]
    columns = [state[f'{n}_out_proj.weight'].view(width, heads, -1) for n in ('attn', 'mlp')]
    return {
        'norm.weight': state['in_norm.weight'],
        'in_proj.weight': torch.cat(rows, 1).reshape(-1, width),
        'up_bias': state['mlp_bias'].view(heads, -1),
        'q_norm.weight': state['q_norm.weight'],
        'k_norm.weight': state['k_norm.weight'],
        'out_proj.weight': torch.cat(columns, 2).reshape(width, -1),
        'out_bias': state['attn_out_proj.bias'] + state['mlp_out_proj.bias'],
    }


@needs_timm
def test_the_block_equals_timms_parallel_scaling_block():
    from timm.layers import RmsNorm
    from timm.models.vision_transformer import ParallelScalingBlock

    torch.manual_seed(0)
    theirs = ParallelScalingBlock(48, 4, mlp_ratio=2.0, qk_norm=True, norm_layer=RmsNorm)
    for param in theirs.parameters():
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.4)
    ours = ParallelBlock(48, 4, 96)
    ours.load_state_dict(from_timm(theirs.state_dict(), 4))
    x = torch.randn(3, 11, 48)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@needs_timm
def test_timm_vit_keeps_the_contract(tmp_path):
    torch.manual_seed(0)
    model = TIMMViT('deit3_small_patch16_224', out_indices=(5, -1, 2), pretrained=False, with_cp=True)
    maps = model.train()(torch.randn(1, 3, 50, 70))
    assert [tuple(m.shape) for m in maps] == [(1, 384, 4, 5)] * 3
    maps[1].square().mean().backward()
    assert (model.embed_dims, model.num_layers, model.patch_size) == (384, 12, 16)
    assert model.timm_model.blocks[0].attn.qkv.weight.grad is not None
    ids = {model.layer_id(n) for n, _ in model.named_parameters()}
    assert ids == set(range(14))
    torch.save(model.timm_model.state_dict(), tmp_path / 'deit.pth')
    path = str(tmp_path / 'deit.pth')
    frozen = TIMMViT('deit3_small_patch16_224', pretrained=False, checkpoint_path=path, frozen=True)
    frozen.init_weights()
    assert torch.equal(frozen.timm_model.norm.weight, model.timm_model.norm.weight)
    assert torch.equal(frozen.timm_model.cls_token, model.timm_model.cls_token)
    out = frozen.train()(torch.randn(1, 3, 64, 80))[0]
    assert not out.requires_grad
    image = torch.randn(1, 3, 64, 80)
    whole = frozen.timm_model.forward_features(image)[:, 1:].transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(frozen(image)[0], whole)


@pytest.mark.skipif(timm is not None, reason='timm is here')
def test_without_timm_the_error_says_what_to_install():
    with pytest.raises(UserError, match='pip install timm torchvision'):
        TIMMViT('deit3_large_patch16_384')
