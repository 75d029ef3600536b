"""The frozen block with derived weights is the block, for as long as it has the same weights; compiled blocks too."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.profiler import profile

from vit22b_dense import ViT22B
from vit22b_dense.errors import UserError
from vit22b_dense.models.backbones import vit22b
from vit22b_dense.models.backbones.block import ParallelBlock
from vit22b_dense.models.backbones.folded import FoldedBlock
from vit22b_dense.models.backbones.packed import PackedBlock

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, mlp_dims=64)


def randomise(module: nn.Module) -> nn.Module:
    for param in module.parameters():  # no norm at one, no bias at zero, sharp attention: every term must count
        nn.init.normal_(param, mean=0.5 if param.ndim == 1 else 0.0, std=0.4)
    return module


def frozen(**options) -> ViT22B:
    torch.manual_seed(0)
    backbone = ViT22B(ARCH, img_size=56, frozen=True, **options)
    randomise(backbone.blocks)
    return backbone


def stored(backbone: ViT22B, image: torch.Tensor) -> torch.Tensor:
    """The map that the blocks' own forward gives."""
    with torch.no_grad():
        tokens, size = backbone.embed(image)
        for block in backbone.blocks:
            tokens = block(tokens)
        return backbone.maps(tokens, size)


def test_only_a_cpu_gets_derived_weights():
    backbone = frozen()
    with torch.no_grad():
        assert isinstance(backbone.runnable(0), FoldedBlock)
        backbone.to('meta')  # stands for another device
        assert backbone.runnable(0) is backbone.blocks[0]


@pytest.mark.parametrize('dims', [(48, 4, 96), (384, 6, 1536)])
def test_a_folded_block_is_the_block(dims):
    torch.manual_seed(1)
    block = ParallelBlock(*dims).eval().requires_grad_(False)
    for param in block.parameters():
        if param.ndim == 1 or dims[0] < 100:
            nn.init.normal_(param, mean=0.5, std=0.4)
    x = torch.randn(2, 37, dims[0])
    expected, before = block(x), x.clone()
    found = FoldedBlock(block)(x)
    assert torch.equal(x, before)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    half = block.bfloat16()
    found = FoldedBlock(half)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


def test_weights_are_derived_once_and_again_when_they_change(monkeypatch):
    made = []

    class Counted(FoldedBlock):
        def __init__(self, block: ParallelBlock) -> None:
            made.append(1)
            super().__init__(block)

    monkeypatch.setattr(vit22b, 'FoldedBlock', Counted)
    backbone, image = frozen(), torch.randn(1, 3, 56, 56)
    names = set(backbone.state_dict())
    other = copy.deepcopy(backbone)
    randomise(other.blocks)

    def derived() -> int:
        """How many blocks are derived in two forward passes, which must give what the stored weights give."""
        made.clear()
        for _ in range(2):
            torch.testing.assert_close(backbone.train()(image)[0], stored(backbone, image), rtol=1e-4, atol=1e-5)
        return len(made)

    assert derived() == 3
    assert derived() == 0
    assert set(backbone.state_dict()) == names
    load_state_dict(backbone, other.state_dict())
    assert derived() == 3
    backbone.draw_weights(5)
    assert derived() == 3
    backbone.double().float()
    assert not backbone._folded
    assert derived() == 3
    backbone.blocks[1].requires_grad_(True)  # and what learns is not derived; its gradients end there
    assert backbone(image)[0].requires_grad
    assert not backbone._folded
    backbone.requires_grad_(False)
    handle = backbone.blocks[0].out_proj.register_forward_hook(lambda *args: None)
    assert derived() == 2
    handle.remove()
    backbone.blocks[2].in_proj = nn.Sequential(backbone.blocks[2].in_proj)
    assert derived() == 1
    monkeypatch.setattr(vit22b, 'FOLDED_BYTES', 1000)
    randomise(backbone.blocks)
    assert derived() == 0
    assert not backbone._folded


def test_autocast_keeps_the_residual_in_full_precision():
    backbone, image = frozen(), torch.randn(1, 3, 56, 56)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(backbone(image)[0], stored(backbone, image))
    assert not backbone._folded


@pytest.fixture
def compiled(monkeypatch) -> list:
    """What PyTorch was asked to compile, and is run as it is: functions, and the sizes that they were called with."""
    asked = []

    def ask(function, **options):
        asked.append((function, sizes := []))
        return lambda *args: sizes.append(tuple(args[-1].shape)) or function(*args)

    monkeypatch.setattr(torch, 'compile', ask)
    return asked


def test_compiling_is_asked_of_the_blocks_and_needs_a_compiler(monkeypatch, compiled):
    image = torch.randn(1, 3, 56, 56)
    backbone = frozen(compile_blocks=True)
    assert [fn.__self__ for fn, _ in compiled] == list(backbone.blocks)
    torch.testing.assert_close(backbone(image)[0], stored(backbone, image), rtol=1e-4, atol=1e-5)
    packed = compiled[3:]
    assert [sizes for _, sizes in packed] == [[(1, 16, 32)]] * 3
    assert len({id(fn.__code__) for fn, _ in packed}) == 3  # PyTorch compiles a code eight times at most
    monkeypatch.setattr(vit22b, 'FOLDED_BYTES', 1.5 * sum(p.nbytes for p in backbone.blocks.parameters()))
    with torch.no_grad():
        backbone.float()  # which makes it forget what was derived
        assert backbone.runnable(0) is backbone.blocks[0]  # float32 takes twice as much memory
        assert isinstance(backbone.bfloat16().runnable(0), PackedBlock)
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(UserError, match='no-such-compiler, which is not installed'):
        ViT22B(ARCH, compile_blocks=True)


@pytest.mark.parametrize(('dtype', 'runs'), [('float32', [(1, 260)] * 3), ('bfloat16', [(1, 260)] * 3 + [(2, 7)])])
def test_code_is_compiled_for_one_image_and_in_float32_for_its_size(compiled, dtype, runs):
    block = randomise(ParallelBlock(16, 2, 32)).eval().requires_grad_(False).to(getattr(torch, dtype))
    packed = PackedBlock(block)
    for shape in [(1, 260, 16), (2, 260, 16), (2, 7, 16)]:
        x = torch.randn(shape).to(block.out_bias)
        assert (packed(x) - block(x)).norm() < (2e-6 if dtype == 'float32' else 0.02) * block(x).norm()
    assert [size[:2] for size in compiled[0][1]] == runs


def test_shapes_alone_need_no_weights():
    with torch.device('meta'):
        assert frozen()(torch.empty(1, 3, 56, 70))[0].shape == (1, 32, 4, 5)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_packed_block_is_the_block_and_packs_no_weight_again(dtype):
    torch.manual_seed(1)
    block = randomise(ParallelBlock(48, 4, 96)).eval().requires_grad_(False).to(dtype)
    packed, bound = PackedBlock(block), 2e-6 if dtype == torch.float32 else 0.02
    with torch.no_grad():
        for shape in [(1, 37, 48), (1, 64, 48)]:
            x = torch.randn(shape, dtype=dtype)
            assert (packed(x) - block(x)).norm() <= bound * block(x).norm()
        x = torch.randn(1, 48, 37, dtype=dtype).transpose(1, 2)  # as the patch embedding gives it
        with torch.compiler.set_stance('fail_on_recompile'), profile() as profiled:
            packed(x)
    names = {event.key for event in profiled.key_averages()}
    wide = torch.backends.cpu.get_cpu_capability() == 'AVX512'  # which oneDNN needs for bfloat16
    if torch.backends.mkl.is_available() and (wide or dtype == torch.float32):
        assert not names & {'aten::mm', 'aten::addmm', 'aten::linear'}
        assert names & {'mkl::_mkl_linear', 'mkldnn::_linear_pointwise'}


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [False, True])
def test_compiled_blocks_give_the_same_maps_and_gradients(frozen):
    maps, grads = [], []
    for compile_blocks in (False, True):
        torch.manual_seed(0)
        backbone = ViT22B(ARCH, img_size=56, frozen=frozen, compile_blocks=compile_blocks).train()
        image = torch.randn(2, 3, 56, 70, requires_grad=True)
        maps.append(backbone(image)[0])
        if not frozen:
            maps[-1].square().mean().backward()
            grads.append([param.grad for param in backbone.parameters()])
        with torch.no_grad():
            maps.append(backbone.eval()(image[:1, :, :42])[0])
    torch.testing.assert_close(maps[:2], maps[2:], rtol=1e-4, atol=1e-5)
    if not frozen:
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_blocks_without_qk_norm_run_as_they_are():
    sizes = dict(embed_dims=16, num_layers=2, num_heads=2, mlp_dims=32)
    backbone = ViT22B(dict(sizes, qk_norm=False), img_size=28, frozen=True)
    assert not any('q_norm' in name or 'k_norm' in name for name in backbone.state_dict())
    with torch.no_grad():
        backbone(torch.randn(1, 3, 28, 28))
    assert not backbone._folded
