"""Streamed backbones: the same maps and predictions as with all weights in memory, and what is refused by name."""

import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from conftest import REPO, make_ade
from mmseg.registry import MODELS
from safetensors.torch import load_file

from vit22b_dense.checkpoint import CheckpointError, InPlaceReader, LazyWeights, convert_checkpoint, write_weights
from vit22b_dense.checkpoint.reference import Reference
from vit22b_dense.engine.config import ConfigError, load_config
from vit22b_dense.engine.features import FeatureMaker
from vit22b_dense.engine.features.store import FeatureStore
from vit22b_dense.engine.predict import predictor_of
from vit22b_dense.engine.run import build_test
from vit22b_dense.engine.streaming import stream_weights
from vit22b_dense.errors import UserError
from vit22b_dense.models import PlainViT, ViT22B
from vit22b_dense.models.backbones import vit22b

SIZES = dict(embed_dims=32, num_layers=5, num_heads=4, mlp_dims=64)
OTHERS = dict(norm='rms', qkv_bias=False, qk_norm=True, layer_scale=0.1, class_token=True, final_norm=False)
KINDS = {'ViT22B': (ViT22B, SIZES), 'PlainViT': (PlainViT, SIZES), 'InternViT': (PlainViT, SIZES | OTHERS)}


@pytest.fixture(autouse=True)
def _as_stored(monkeypatch):
    """Blocks run from their stored weights in memory too: what is streamed is not folded, which rounds otherwise."""
    monkeypatch.setattr(vit22b, 'FOLDED_BYTES', 0)


def shards(state, folder, size=20000):
    write_weights(folder, LazyWeights(folder, state, state.get), size)
    assert len(list(folder.iterdir())) > 4
    return folder


def stored(kind, folder, **shape):
    cls, arch = KINDS[kind]
    torch.manual_seed(3)
    state = cls(arch | shape, img_size=56).state_dict()
    return shards({name: torch.randn_like(t) * 0.3 for name, t in state.items()}, folder / kind)


def build(kind, path, **options):
    cls, arch = KINDS[kind]
    options = dict(img_size=70, frozen=True, init_cfg=dict(type='Pretrained', checkpoint=str(path))) | options
    backbone = cls(arch, **options).to('cpu')
    backbone.init_weights()
    return backbone


def backbones(kind, path, **options):
    """The same one twice: loaded, and streamed."""
    return build(kind, path, **options), build(kind, path, **options, streamed=True)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('kind', KINDS)
def test_maps_are_bit_equal_to_those_of_loaded_weights(kind, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr('vit22b_dense.checkpoint.inplace.PIECE_BYTES', 1000)  # several of a tensor, the last one short
    loaded, streamed = backbones(kind, stored(kind, tmp_path), dtype=dtype, out_indices=(3, 0))
    for _ in range(2):  # the second pass starts with what the first has left in the buffers
        image = torch.randn(2, 3, 42, 60)
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'float32'):
            expected, found = loaded(image), streamed(image)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(p.is_meta for p in streamed.blocks.parameters())
    assert not any(p.is_meta for name, p in streamed.named_parameters() if not name.startswith('blocks.'))
    own = sum(p.nbytes for slot in streamed.stream.slots for p in slot.parameters())
    assert own == 2 * sum(p.nbytes for p in loaded.blocks[0].parameters())


def test_a_pass_that_is_broken_off_does_not_reach_into_the_next(tmp_path):
    loaded, streamed = backbones('ViT22B', stored('ViT22B', tmp_path))
    image = torch.randn(1, 3, 56, 56)
    tokens, size = streamed.embed(image)
    first = streamed.run_blocks(tokens, size)
    next(first)
    assert torch.equal(streamed(image)[0], loaded(image)[0])
    with pytest.raises(RuntimeError, match='two passes'):
        list(first)
    assert torch.equal(streamed(image)[0], loaded(image)[0])
    assert [i for i, _ in streamed.run_blocks(tokens, size, start=3)] == [3, 4]


# --- what cannot be streamed -----------------------------------------------------------------------------------------


def refused(kind, path, match, error=CheckpointError, **options):
    with pytest.raises(error, match=match):
        build(kind, path, **options, streamed=True)


def test_files_that_are_not_whole_are_named_before_anything_runs(tmp_path):
    whole = stored('ViT22B', tmp_path)
    shard = sorted(whole.glob('*.safetensors'))[2]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    refused('ViT22B', whole, f'{shard.name}: not a complete')
    shard.unlink()
    refused('ViT22B', whole, f'missing: {shard.name}')
    shard.write_bytes(content)
    state = {n: t for n, t in InPlaceReader(whole).weights.items() if n != 'blocks.3.up_bias'}
    few = shards({n: torch.zeros(t.shape) for n, t in state.items()}, tmp_path / 'few')
    refused('ViT22B', few, r'only in the model \(1\): blocks.3.up_bias')


def test_what_has_to_be_converted_comes_with_the_command(tmp_path):
    whole, one = stored('ViT22B', tmp_path), tmp_path / 'one.safetensors'
    convert_checkpoint(whole, tmp_path / 'parallel', target_layout='parallel')
    refused('ViT22B', tmp_path / 'parallel', rf"layout 'parallel'.*convert_checkpoint.py {tmp_path}/parallel ")
    convert_checkpoint(tmp_path / 'parallel', one)
    backbones('ViT22B', one)
    torch.save(ViT22B(SIZES, img_size=56).state_dict(), tmp_path / 'w.pth')
    refused('ViT22B', tmp_path / 'w.pth', 'convert_checkpoint.py .*w.pth .*w.safetensors')


def test_what_learns_is_drawn_or_compiled_is_refused(tmp_path):
    with pytest.raises(UserError, match='neither trained nor compiled'):
        ViT22B(SIZES, streamed=True)
    with pytest.raises(UserError, match='neither trained nor compiled'):
        ViT22B(SIZES, frozen=True, compile_blocks=True, streamed=True)
    with pytest.raises(UserError, match='random weights'):
        ViT22B(SIZES, frozen=True, streamed=True).init_weights()
    path = stored('ViT22B', tmp_path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), allow_partial=True)
    with pytest.raises(CheckpointError, match='allow_partial'):
        ViT22B(SIZES, frozen=True, init_cfg=init_cfg, streamed=True).init_weights()
    cfg = load_config(REPO / 'configs/demo/linear.py', dict(backbone='dinov2_small'))
    with pytest.raises(ConfigError, match='works with ViT22B and PlainViT, and the backbone is HFBackbone'):
        stream_weights(cfg)


def test_errors_of_the_reading_thread_reach_the_pass(tmp_path):
    path = stored('ViT22B', tmp_path)
    loaded, streamed = backbones('ViT22B', path)
    image = torch.randn(1, 3, 56, 56)
    place = streamed.stream.reader._places['blocks.3.out_proj.weight']
    content = place.file.read_bytes()
    os.truncate(place.file, place.start + 10)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf'{place.file.name}: ends within blocks.3.out_proj.weight'):
            streamed(image)
    place.file.write_bytes(content)
    assert torch.equal(streamed(image)[0], loaded(image)[0])
    with open(place.file, 'r+b') as file:
        file.seek(place.start)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    again = ViT22B(SIZES, img_size=70, frozen=True, streamed=True)
    again.load_pretrained(path)
    with pytest.raises(CheckpointError, match='NaN or infinite values in blocks.3.out_proj.weight'):
        again(image)


def test_ctrl_c_while_a_block_is_read(tmp_path, monkeypatch):
    loaded, streamed = backbones('ViT22B', stored('ViT22B', tmp_path))
    image, begun, go_on = torch.randn(1, 3, 56, 56), threading.Event(), threading.Event()
    read = streamed.stream.reader.read_into

    def hang(name, out):
        if name.startswith('blocks.2.'):
            begun.set()
            go_on.wait()
        read(name, out)

    def interrupt():
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(streamed.stream.reader, 'read_into', hang)
    # a tool that another test imports as a module lets Ctrl-C end the process
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        streamed(image)
    signal.signal(signal.SIGINT, former)
    go_on.set()
    assert torch.equal(streamed(image)[0], loaded(image)[0])


# --- through the tools -----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Data, a backbone in shards, the checkpoint of a frozen run that refers to it, and the whole model in shards."""
    root = tmp_path_factory.mktemp('streamed')
    data, weights = make_ade(root / 'ade'), stored('ViT22B', root, num_heads=2)
    cfg = config(data, weights)
    model = MODELS.build(cfg.model)
    model.backbone.init_weights()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    state = model.state_dict()
    head = {name: tensor for name, tensor in state.items() if not name.startswith('backbone.')}
    reference = Reference.of(dict(kind='file', path=weights)).to_dict()
    torch.save(dict(meta=dict(backbone=reference, cfg=cfg.pretty_text), state_dict=head), root / 'run.pth')
    torch.save(dict(state_dict=state), root / 'whole.pth')
    shards(state, root / 'whole')
    return root, data, weights


def config(data, weights=None):
    cfg = load_config(
        REPO / 'configs/demo/linear.py',
        dict(backbone='vit22b_tiny', data_root=str(data), weights=weights and str(weights)),
        {
            'model.decode_head.in_channels': 32, 'train_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False, 'test_dataloader.persistent_workers': False,
        },
    )  # fmt: skip
    cfg.model.backbone.update(arch=SIZES | dict(num_heads=2), img_size=56)
    return cfg


@pytest.mark.parametrize('checkpoint', ['run.pth', 'whole'])
def test_predictions_of_a_frozen_run_and_of_a_whole_model_in_shards(world, checkpoint):
    root, data, _ = world
    image = data / 'images/validation/00.jpg'
    cfg = config(data)  # the checkpoint knows where its weights are
    _, expected = predictor_of(cfg, root / checkpoint).predict(image)
    cfg = config(data)
    stream_weights(cfg, root / checkpoint)
    predictor = predictor_of(cfg, root / checkpoint)
    assert predictor.model.backbone.blocks[1].out_bias.is_meta
    np.testing.assert_array_equal(predictor.predict(image)[1], expected)
    assert len(np.unique(expected)) > 1


def test_a_whole_pth_and_random_weights_are_refused(world):
    root, data, _ = world
    cfg = config(data)
    stream_weights(cfg, root / 'whole.pth')
    with pytest.raises(CheckpointError, match='convert_checkpoint.py .*whole.pth .*whole.safetensors'):
        predictor_of(cfg, root / 'whole.pth')
    random = torch.load(root / 'run.pth', weights_only=False)
    random['meta']['backbone'] = dict(kind='random', seed=1)
    torch.save(random, root / 'random.pth')
    cfg = config(data)
    stream_weights(cfg, root / 'random.pth')
    with pytest.raises(UserError, match='has random weights, and there is no file'):
        predictor_of(cfg, root / 'random.pth')


def test_scores_are_the_same_with_a_bf16_backbone_under_an_fp32_decoder(world, tmp_path):
    root, data, _ = world
    scores = []
    for streamed in (False, True):
        cfg = config(data)
        cfg.model.backbone.dtype = 'bfloat16'
        cfg.work_dir, cfg.launcher = str(tmp_path / str(streamed)), 'none'
        if streamed:
            stream_weights(cfg, root / 'run.pth')
        runner = build_test(cfg, str(root / 'run.pth'))
        scores.append(runner.test())
        assert {p.dtype for p in runner.model.backbone.parameters()} == {torch.bfloat16}
        assert {p.dtype for p in runner.model.decode_head.parameters()} == {torch.float32}
        assert any(p.is_meta for p in runner.model.parameters()) == streamed
    assert scores[0] == scores[1]


def test_features_are_the_same_and_belong_to_the_same_run(world, tmp_path):
    _, data, weights = world
    for streamed in (False, True):
        cfg = config(data, weights)
        cfg.model.backbone.dtype = 'bfloat16'
        if streamed:
            stream_weights(cfg)
        FeatureMaker(cfg, tmp_path / str(streamed), 1, 'fp32').make(lambda done, total: None, lambda text: None)
    plain, streamed = (FeatureStore.open(tmp_path / name) for name in ('False', 'True'))
    assert plain.made == streamed.made
    files = sorted(path.relative_to(tmp_path / 'True') for path in (tmp_path / 'True').rglob('*.safetensors'))
    assert len(files) >= 8
    for file in files:
        one, other = load_file(tmp_path / 'True' / file), load_file(tmp_path / 'False' / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file


def test_the_flag_of_the_tool(world, tmp_path, run_tool):
    root, data, weights = world
    done = run_tool('tools/predict.py', root / 'run.pth', data / 'images/validation', '--stream-weights',
                    '--out-dir', tmp_path)  # fmt: skip
    assert '2 of 2 images written' in done.stdout
    moved = shutil.move(weights, tmp_path / 'moved')
    try:
        args = ['tools/predict.py', root / 'run.pth', data / 'images/validation', '--stream-weights']
        done = run_tool(*args, '--out-dir', tmp_path, check=False)
        assert done.returncode == 1
        assert f'error: {weights}: no such checkpoint' in done.stderr
        run_tool(*args, '--weights', moved, '--out-dir', tmp_path)
    finally:
        shutil.move(moved, weights)
