"""The fused block against the paper's formula, written out without any fusion."""

import math

import pytest
import torch
from torch import nn

from vit22b_dense.models.backbones.block import ParallelBlock

D, H, M, N = 48, 4, 96, 11


class PlainBlock(nn.Module):
    """out = x + attention(y) + mlp(y), y = norm(x); attention = softmax(LN(q) LN(k)^T / sqrt(d)) v, head by head."""

    def __init__(self, block: ParallelBlock):
        super().__init__()
        hd, up = D // H, M // H
        rows = block.in_proj.weight.detach().view(H, 3 * hd + up, D)
        columns = block.out_proj.weight.detach().view(D, H, hd + up)
        self.wq = nn.Parameter(rows[:, :hd].clone())  # (H, hd, D), as all three
        self.wk = nn.Parameter(rows[:, hd : 2 * hd].clone())
        self.wv = nn.Parameter(rows[:, 2 * hd : 3 * hd].clone())
        self.w1 = nn.Parameter(rows[:, 3 * hd :].reshape(M, D).clone())
        self.b1 = nn.Parameter(block.up_bias.detach().reshape(M).clone())
        self.wo = nn.Parameter(columns[:, :, :hd].clone())  # (D, H, hd)
        self.w2 = nn.Parameter(columns[:, :, hd:].reshape(D, M).clone())
        self.b2 = nn.Parameter(block.out_bias.detach().clone())
        self.g = nn.Parameter(block.norm.weight.detach().clone())
        norms = [norm for norm in (block.q_norm, block.k_norm) if hasattr(norm, 'weight')]
        self.qk = nn.ParameterList(norm.weight.detach().clone() for norm in norms)

    @staticmethod
    def rms(x, g):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * g

    def forward(self, x):
        y = self.rms(x, self.g)
        attention = 0
        for h in range(H):
            q, k, v = y @ self.wq[h].T, y @ self.wk[h].T, y @ self.wv[h].T
            if self.qk:
                q, k = self.rms(q, self.qk[0]), self.rms(k, self.qk[1])
            weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D // H), dim=-1)
            attention = attention + weights @ v @ self.wo[:, h].T
        up = y @ self.w1.T + self.b1
        gelu = 0.5 * up * (1 + torch.erf(up / math.sqrt(2)))
        return x + attention + gelu @ self.w2.T + self.b2


def random_block(qk_norm=True) -> ParallelBlock:
    torch.manual_seed(1)
    block = ParallelBlock(D, H, M, qk_norm=qk_norm)
    for param in block.parameters():  # no norm at one, no bias at zero, sharp attention: every term must count
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.4)
    return block


@pytest.mark.parametrize(('batch', 'qk_norm'), [(1, True), (3, True), (2, False)])
def test_equals_the_formula_forward_and_every_gradient(batch, qk_norm):
    block, plain = random_block(qk_norm), None
    plain = PlainBlock(block)
    x = torch.randn(batch, N, D)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    out1, out2 = block(x1), plain(x2)
    torch.testing.assert_close(out1, out2, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(out1)
    (out1 * direction).mean().backward()
    (out2 * direction).mean().backward()
    hd = D // H
    rows, columns = block.in_proj.weight.grad.view(H, -1, D), block.out_proj.weight.grad.view(D, H, -1)
    pairs = {
        'x': (x1.grad, x2.grad),
        'wq': (rows[:, :hd], plain.wq.grad),
        'wk': (rows[:, hd : 2 * hd], plain.wk.grad),
        'wv': (rows[:, 2 * hd : 3 * hd], plain.wv.grad),
        'w1': (rows[:, 3 * hd :].reshape(M, D), plain.w1.grad),
        'b1': (block.up_bias.grad.reshape(M), plain.b1.grad),
        'wo': (columns[:, :, :hd], plain.wo.grad),
        'w2': (columns[:, :, hd:].reshape(D, M), plain.w2.grad),
        'b2': (block.out_bias.grad, plain.b2.grad),
        'norm': (block.norm.weight.grad, plain.g.grad),
    }
    if qk_norm:
        pairs['q_norm'] = (block.q_norm.weight.grad, plain.qk[0].grad)
        pairs['k_norm'] = (block.k_norm.weight.grad, plain.qk[1].grad)
    assert len(pairs) - 1 == sum(1 for _ in plain.parameters())
    for name, (fused, written_out) in pairs.items():
        scale = written_out.abs().max()
        assert scale > 0, name
        assert (fused - written_out).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize('batch', [1, 3])
def test_bf16_stays_near_the_fp32_formula(batch):
    block = random_block()
    plain = PlainBlock(block)
    x = torch.randn(batch, N, D)
    exact = plain(x)
    half = block.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.02


def test_autocast_runs_the_products_in_bf16_and_keeps_the_residual_in_fp32():
    block = random_block()
    x = torch.randn(2, N, D)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = block(x)
    assert out.dtype == torch.float32
    assert 0 < (out - block(x)).norm() / out.norm() < 0.02


def test_no_bias_in_q_k_v_and_in_the_norms():
    names = {name for name, _ in ParallelBlock(D, H, M).named_parameters()}
    assert names == {
        'norm.weight', 'in_proj.weight', 'up_bias', 'q_norm.weight', 'k_norm.weight', 'out_proj.weight', 'out_bias',
    }  # fmt: skip


def test_drop_path_drops_whole_samples_while_training():
    torch.manual_seed(0)
    block = ParallelBlock(D, H, M, drop_path=0.5).train()
    nn.init.ones_(block.out_bias)
    x = torch.randn(64, 3, D)
    changed = (block(x) != x).flatten(1)
    kept = changed.any(1)
    assert torch.equal(kept, changed.all(1))
    assert 16 < kept.sum() < 48
    assert torch.equal(block.eval()(x) != x, torch.ones_like(x, dtype=torch.bool))


def test_heads_must_divide():
    with pytest.raises(ValueError, match='num_heads=5 must divide embed_dims=48'):
        ParallelBlock(D, 5, M)
