"""mmseg's own scripts, as they lie in its wheel, run configs and checkpoints of ours."""

import json
import os
import random
import re
import subprocess
import sys

import mmcv
import numpy as np
import pytest
import torch
from conftest import REPO
from mmengine.analysis.print_helper import _format_size
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS, MODELS
from mmseg_tools import CONFIGS, LEAVES, SMALL, TASKS, TOOLS, make_data, one_thread, run_script
from PIL import Image

from vit22b_dense.evaluation.depth_panels import depth_panel
from vit22b_dense.evaluation.panels import segmentation_panel

ANALYSIS = TOOLS / 'analysis_tools'


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def scores_of(run, script, work_dir, *arguments):
    """The scores of a test, by mmseg's script or ours."""
    run.run(script, run.checkpoint, '--work-dir', work_dir, *arguments)
    return json.loads(next(work_dir.glob('2*/2*.json')).read_text())


def predictions(run, mirrored):
    """What the model says of each image, as it is or of the mirrored one, mirrored back."""
    model = init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    model.test_cfg.logits = True
    for path in run.images:
        image = mmcv.imread(path)
        (sample,) = inference_model(model, [np.ascontiguousarray(image[:, ::-1]) if mirrored else image])
        found = sample.pred_depth_map.data[0] if 'pred_depth_map' in sample else sample.seg_logits.data.softmax(0)
        yield path, found.flip(-1) if mirrored else found


def test_depth_is_written_by_out_as_it_was_predicted(mmseg_runs, tmp_path):
    run = mmseg_runs['depth']
    scores_of(run, TOOLS / 'test.py', tmp_path / 'test', '--out', tmp_path / 'out')
    for path, depth in predictions(run, mirrored=False):
        (written,) = tmp_path.rglob(f'out/**/{path.stem}.png')
        assert np.abs(np.asarray(Image.open(written)) / 256 - depth.numpy()).max() <= 0.003


def test_tta_averages_the_depth_of_mirrored_images(mmseg_runs, tmp_path):
    run = mmseg_runs['depth']
    written = ['--out', tmp_path / 'out', '--show-dir', tmp_path / 'pictures']
    theirs = scores_of(run, TOOLS / 'test.py', tmp_path / 'theirs', '--tta', *written)
    for (path, depth), (_, mirrored) in zip(predictions(run, False), predictions(run, True), strict=True):
        (written,) = tmp_path.rglob(f'out/**/{path.stem}.png')
        expected = (depth + mirrored).numpy() / 2
        assert np.abs(np.asarray(Image.open(written)) / 256 - expected).max() <= 0.003
        assert np.abs((depth - mirrored).numpy()).max() > 1
    assert len(list(tmp_path.rglob('pictures/**/*.png'))) == len(run.images)
    ours = scores_of(run, REPO / 'tools/test.py', tmp_path / 'ours', '--tta')
    assert theirs['pixel/abs_rel'] == pytest.approx(ours['pixel/abs_rel'])
    assert json.loads((tmp_path / 'ours/scores.json').read_text())['tta'] is True


def test_tta_averages_the_classes_of_mirrored_and_resized_images(mmseg_runs, tmp_path):
    run = mmseg_runs['segmentation']
    cfg = Config.fromfile(run.dumped)
    cfg.tta_pipeline[1].transforms[0] = [dict(type='Resize', scale_factor=1.0, keep_ratio=True)]
    (tmp_path / 'mirrored.py').write_text(cfg.pretty_text)
    configs = dict(all=run.config, mirrored=tmp_path / 'mirrored.py')
    for name, config in configs.items():
        output = ['--work-dir', tmp_path / 'test', '--out', tmp_path / name]
        run.run(TOOLS / 'test.py', run.checkpoint, '--tta', *output, config=config)
    written = {name: {p.stem: np.asarray(Image.open(p)) for p in (tmp_path / name).iterdir()} for name in configs}
    by_flips = by_sizes = 0
    for (path, plain), (_, mirrored) in zip(predictions(run, False), predictions(run, True), strict=True):
        expected = (plain + mirrored).argmax(0).numpy() + 1  # as in ADE20K's files, 0 is none of the classes
        assert (written['mirrored'][path.stem] == expected).mean() > 0.999
        by_flips += (plain.argmax(0).numpy() + 1 != expected).sum()
        by_sizes += (written['all'][path.stem] != expected).sum()
    assert by_flips > 0
    assert by_sizes > 0


def test_our_own_test_shows_pictures_as_mmsegs_does(mmseg_runs, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        'mmengine.visualization.Visualizer.show',
        lambda self, drawn, win_name, wait_time: shown.append((drawn, wait_time)),
    )
    run = mmseg_runs['segmentation']
    for script in (TOOLS / 'test.py', REPO / 'tools/test.py'):
        scores_of(run, script, tmp_path / f'{len(shown)}', '--show', '--wait-time', '0.25')
    theirs, ours = shown[: len(shown) // 2], shown[len(shown) // 2 :]
    assert len(theirs) == len(run.images)
    for (left, waited), (right, also) in zip(theirs, ours, strict=True):
        assert waited == also == 0.25
        np.testing.assert_array_equal(left, right)


def seed_everything():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.mark.parametrize('task', TASKS)
def test_browse_dataset_draws_the_training_samples(task, mmseg_runs, tmp_path):
    """The very pictures that the training pipeline makes under the same random state, with their labels."""
    run = mmseg_runs[task]
    cfg = Config.fromfile(run.dumped)
    seed_everything()
    run_script(ANALYSIS / 'browse_dataset.py', run.config, '--output-dir', tmp_path, '--not-show', data_root=run.data)
    seed_everything()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == len(list(tmp_path.iterdir())) > 2
    for item in dataset:
        sample = item['data_samples']
        image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        if task == 'depth':
            panel = depth_panel(image, None, sample.gt_depth_map.data[0].numpy(), 80)
        else:
            meta = dataset.metainfo
            label = sample.gt_sem_seg.data[0].numpy()
            panel = segmentation_panel(image, None, label, meta['classes'], meta['palette'])
        drawn = mmcv.imread(tmp_path / os.path.basename(sample.img_path), channel_order='rgb')
        assert np.abs(drawn - panel.astype(float)).mean() < 4  # JPEG


@pytest.mark.parametrize('task', TASKS)
def test_get_flops_counts(task, mmseg_runs, capsys):
    run = mmseg_runs[task]
    run_script(ANALYSIS / 'get_flops.py', run.config, '--shape', '56', '84', data_root=run.data)
    model = MODELS.build(Config.fromfile(run.dumped).model)
    count = _format_size(sum(param.numel() for param in model.parameters()))
    printed = capsys.readouterr().out
    assert f'Params: {count}' in printed
    # 24 tokens: a multiplication for each weight of the blocks' linear layers and of the patch embedding
    weights = sum(p.numel() for n, p in model.backbone.named_parameters() if p.ndim == 2) + 3 * 14 * 14 * 192
    assert float(re.search(r'Flops: ([\d.]+)G', printed)[1]) == pytest.approx(24 * weights / 1e9, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize('leaf', LEAVES)
def test_mmsegs_scripts_run_every_config(leaf, tmp_path):
    env = dict(os.environ, VIT22B_BACKBONE='vit22b_tiny', VIT22B_DATA_ROOT=str(make_data(leaf, tmp_path / 'data')))
    config, work_dir, pictures = CONFIGS / leaf, tmp_path / 'run', tmp_path / 'pictures'
    test = [TOOLS / 'test.py', config, work_dir / 'iter_1.pth', '--work-dir', work_dir]
    for command in (
        [TOOLS / 'train.py', config, '--work-dir', work_dir],
        [*test, '--show-dir', pictures],
        [*test, '--tta', '--out', tmp_path / 'out'],
        [ANALYSIS / 'browse_dataset.py', config, '--not-show', '--output-dir', tmp_path / 'browsed'],
    ):
        done = subprocess.run(
            [sys.executable, *command, '--cfg-options', *SMALL], env=env, cwd=REPO, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    assert all(Image.open(path).size[0] > 200 for path in pictures.rglob('*.png'))
    for folder, pattern in ((pictures, '*.png'), (tmp_path / 'out', '*.png'), (tmp_path / 'browsed', '*.*')):
        assert any(folder.rglob(pattern)), folder
