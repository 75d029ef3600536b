"""A frozen run's checkpoint holds what was trained and refers to the backbone, which is found again or refused."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from conftest import REPO, make_ade
from mmengine.config import Config
from safetensors.torch import load_file, save_file

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import CheckpointError, Reference
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.predict import Segmenter
from vit22b_dense.engine.restore import load_model, whole_checkpoint

CONFIG = REPO / 'configs/demo/linear.py'
MMSEG_TEST = Path(mmseg.__file__).parent / '.mim/tools/test.py'
SMALL = [
    'train_cfg.max_iters=4', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'default_hooks.checkpoint.interval=2',
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.num_workers=0' for loader in ('val', 'test')),
]  # fmt: skip


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Pretrained weights of the tiny backbone, made."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save_file(ViT22B('tiny').state_dict(), path)
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data_root, weights, run_tool):
    work_dir = tmp_path_factory.mktemp('frozen') / 'run'
    common = ['--work-dir', work_dir, '--no-validate', '--cfg-options', *SMALL]
    run_tool('tools/train.py', CONFIG, *axes(data_root, weights), *common)
    return work_dir


def axes(data_root, weights=None):
    named = ['--weights', weights] if weights else []
    return ['--backbone', 'vit22b_tiny', '--data-root', data_root, *named]


def config(data_root, weights=None, **more):
    named = dict(backbone='vit22b_tiny', data_root=str(data_root), weights=weights and str(weights), **more)
    return load_config(CONFIG, named)


def test_it_holds_what_was_trained_and_a_reference(trained, weights):
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    assert set(checkpoint['state_dict']) == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
    found = checkpoint['meta']['backbone']
    assert found['kind'] == 'file'
    assert found['name'] == str(weights)
    assert found['size'] == weights.stat().st_size
    sha = subprocess.run(['sha256sum', weights], capture_output=True, text=True, check=True).stdout.split()[0]
    assert found['sha256'] == sha


def test_its_size_does_not_depend_on_the_backbone(data_root, tmp_path, run_tool):
    """Twelve times the blocks, 20 MB more; what differs is the text of the configuration and the log's buffers."""
    sizes = {}
    for depth in (1, 12):
        arch = dict(embed_dims=192, num_layers=depth, num_heads=3, mlp_dims=768)
        own = tmp_path / f'depth{depth}.py'
        cfg = config(data_root)
        cfg.model.backbone.arch = arch
        cfg.dump(own)
        run_tool('tools/train.py', own, '--work-dir', tmp_path / str(depth), '--no-validate', '--cfg-options', *SMALL)
        sizes[depth] = (tmp_path / str(depth) / 'iter_4.pth').stat().st_size
    assert abs(sizes[12] - sizes[1]) < 10_000
    assert sizes[12] < 60_000


def test_it_is_not_overwritten_by_its_conversion(trained, tmp_path, run_tool):
    own = tmp_path / 'own.pth'
    own.write_bytes((trained / 'iter_4.pth').read_bytes())
    done = run_tool('tools/convert_checkpoint.py', own, own, '--overwrite', check=False)
    assert done.returncode == 1
    assert f'error: {own}: is, holds or lies in the source {own}; choose another' in done.stderr
    assert own.read_bytes() == (trained / 'iter_4.pth').read_bytes()
    # what is wrong with it is said of the file that was named, not of the complete copy that is made of it
    done = run_tool('tools/convert_checkpoint.py', own, tmp_path / 'new.pth', '--to', 'internvit', check=False)
    assert f"error: {own}: no conversion leads from 'vit22b' to 'internvit'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['own.pth']


def test_it_tests_as_a_whole_one_and_through_mmsegs_script(trained, data_root, weights, tmp_path, run_tool):
    whole = tmp_path / 'whole.pth'
    run_tool('tools/convert_checkpoint.py', trained / 'iter_4.pth', whole)
    state = torch.load(whole, weights_only=True)['state_dict']
    stored = load_file(weights)
    assert set(state) == {f'backbone.{name}' for name in stored} | {
        'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias',
    }  # fmt: skip
    assert all(torch.equal(state[f'backbone.{name}'], value) for name, value in stored.items() if name != 'pos_embed')
    scores = []
    for name, checkpoint in (('partial', trained / 'iter_4.pth'), ('whole', whole)):
        common = ['--work-dir', tmp_path / name, '--cfg-options', *SMALL]
        run_tool('tools/test.py', CONFIG, checkpoint, *axes(data_root, weights), *common)
        scores.append(json.loads((tmp_path / name / 'scores.json').read_text())['scores'])
    assert scores[0] == scores[1]
    env = dict(os.environ, VIT22B_BACKBONE='vit22b_tiny', VIT22B_DATA_ROOT=str(data_root))
    # without a word about weights: found where the checkpoint says
    common = ['--work-dir', tmp_path / 'mmseg', '--cfg-options', *SMALL]
    run_tool(MMSEG_TEST, CONFIG, trained / 'iter_4.pth', *common, env=env)
    theirs = json.loads(next((tmp_path / 'mmseg').glob('*/*.json')).read_text())
    assert theirs['mIoU'] == pytest.approx(scores[0]['mIoU'])


def test_it_resumes_bit_exactly(trained, data_root, weights, tmp_path, run_tool):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    for name in ('linear.py', 'iter_2.pth'):
        shutil.copy(trained / name, work_dir)
    common = ['--work-dir', work_dir, '--no-validate', '--resume', '--cfg-options', *SMALL]
    run_tool('tools/train.py', CONFIG, *axes(data_root, weights), *common)
    ours, theirs = (torch.load(f / 'iter_4.pth', weights_only=False) for f in (work_dir, trained))
    assert ours['meta']['backbone'] == theirs['meta']['backbone']
    assert all(torch.equal(ours['state_dict'][name], value) for name, value in theirs['state_dict'].items())


def test_it_predicts_from_moved_weights_and_refuses_others(trained, data_root, weights, tmp_path):
    moved = tmp_path / 'moved.safetensors'
    shutil.copy(weights, moved)
    checkpoint = trained / 'iter_4.pth'
    image = next((data_root / 'images/validation').glob('*.jpg'))
    first = Segmenter(config(data_root, weights), checkpoint).predict(image)[1]
    second = Segmenter(config(data_root, moved), checkpoint).predict(image)[1]
    assert np.array_equal(first, second)
    torch.manual_seed(6)
    save_file(ViT22B('tiny').state_dict(), moved)
    with pytest.raises(CheckpointError, match=r'iter_4\.pth: was trained on the frozen backbone .*tiny\.safetensors '
                       r'\(.*, SHA-256 .*\), and this run has .*moved\.safetensors'):  # fmt: skip
        load_model(config(data_root, moved), checkpoint)
    # a dumped config stands alone, and can still be told where the weights are
    cfg = load_config(trained / 'linear.py', dict(weights=str(moved)))
    assert cfg.model.backbone.init_cfg.checkpoint == str(moved)


def test_missing_weights_are_named(trained, data_root, weights, tmp_path):
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    checkpoint['meta']['backbone']['name'] = str(tmp_path / 'gone.safetensors')
    torch.save(checkpoint, tmp_path / 'iter_4.pth')
    with pytest.raises(
        CheckpointError, match=r'gone\.safetensors.*no longer there\. Name its new place with --weights'
    ):
        load_model(config(data_root), tmp_path / 'iter_4.pth')
    load_model(config(data_root, weights), tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match=r'absent\.safetensors'):
        load_model(config(data_root, tmp_path / 'absent.safetensors'), tmp_path / 'iter_4.pth')


def test_random_weights_are_drawn_again_from_their_seed(data_root, tmp_path):
    cfg = config(data_root)
    torch.manual_seed(1)
    from mmseg.registry import MODELS

    model = MODELS.build(cfg.model)
    model.init_weights()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('backbone.')}
    reference = Reference.of(model.backbone.weights_source)
    assert reference.kind == 'random'
    torch.save(dict(meta=dict(backbone=reference.to_dict()), state_dict=state), tmp_path / 'iter_1.pth')
    torch.manual_seed(2)
    again = load_model(cfg, tmp_path / 'iter_1.pth')
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_whole_checkpoints_of_before_still_load(trained, data_root, weights, tmp_path):
    model = load_model(config(data_root, weights), trained / 'iter_4.pth')
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / 'old.pth')
    assert whole_checkpoint(tmp_path / 'old.pth') is None
    for regime in ('frozen', 'finetune'):
        again = load_model(config(data_root, regime=regime), tmp_path / 'old.pth').state_dict()
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_a_frozen_runs_checkpoint_goes_into_a_model_to_be_finetuned(trained, data_root, weights):
    model = load_model(config(data_root, weights, regime='finetune'), trained / 'iter_4.pth')
    assert all(param.requires_grad for param in model.backbone.parameters())
    assert torch.equal(model.backbone.norm.weight, load_file(weights)['norm.weight'])


def test_a_hubs_model_is_told_by_its_revision():
    one = Reference.of(dict(kind='hub', name='some/model', revision='abc'))
    assert one.same_weights(Reference(**json.loads(json.dumps(one.to_dict()))))
    assert not one.same_weights(Reference.of(dict(kind='hub', name='some/model', revision='def')))
    assert Config(dict(reference=one.to_dict())).reference.revision == 'abc'
