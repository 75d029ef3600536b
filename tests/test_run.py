"""Whole runs of the tools on a small made data set: training, killing, resuming, testing; mmseg's scripts too."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from conftest import REPO, make_ade
from PIL import Image

from vit22b_dense.evaluation.runs import read_run
from vit22b_dense.warm import start_warm

AXES = dict(VIT22B_BACKBONE='vit22b_tiny', VIT22B_REGIME='scratch')
# few and small steps; dropout, drop path, workers and a validation in between, so that random state matters
OVERRIDES = [
    'train_cfg.max_iters=6',
    'train_cfg.val_interval=3',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=1',
    'val_dataloader.num_workers=1',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'model.backbone.drop_path_rate=0.4',
    'model.decode_head.dropout_ratio=0.1',
]
CONFIG = REPO / 'configs/demo/linear.py'
MMSEG_TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


def train_command(work_dir, data_root, *more) -> list[str]:
    return [
        REPO / 'tools/train.py', CONFIG, '--backbone', 'vit22b_tiny', '--regime', 'scratch',
        '--data-root', data_root, '--work-dir', work_dir, *more, '--cfg-options', *OVERRIDES,
    ]  # fmt: skip


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data_root, run_tool):
    """A run that was never interrupted."""
    work_dir = tmp_path_factory.mktemp('run')
    done = run_tool(*train_command(work_dir, data_root), fresh=True)
    return work_dir, done.stdout + done.stderr


def weights(path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


def test_training_prints_groups_and_time_left_and_keeps_two_checkpoints(trained):
    work_dir, output = trained
    assert output.count('Parameter groups') == 1
    assert 'eta:' in output
    assert re.findall(r'(iter_\d\.pth: mIoU).*; training loss \d', output) == ['iter_6.pth: mIoU'], (
        'of iteration 3 there is no checkpoint'
    )
    assert sorted(p.name for p in work_dir.glob('*.pth')) == ['iter_4.pth', 'iter_6.pth']
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'iter_6.pth')
    assert not list(work_dir.rglob('*.part'))


def test_killed_and_resumed_equals_never_interrupted(trained, data_root, tmp_path, run_tool):
    work_dir = tmp_path / 'killed'
    with open(os.devnull, 'w') as nowhere:
        process = start_warm(train_command(work_dir, data_root), stdout=nowhere, stderr=nowhere)
    last = work_dir / 'last_checkpoint'
    deadline = time.time() + 120
    while not (last.exists() and last.read_text().endswith('iter_2.pth')):
        assert process.exitcode is None, 'the run ended before it could be killed'
        assert time.time() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (work_dir / 'iter_6.pth').exists()
    done = run_tool(*train_command(work_dir, data_root, '--resume'))
    assert 'resumed epoch: 0, iter: ' in done.stdout + done.stderr
    expected, resumed = weights(trained[0] / 'iter_6.pth'), weights(work_dir / 'iter_6.pth')
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name


def test_the_dumped_config_repeats_the_run_with_mmsegs_script(trained, tmp_path, run_tool):
    run_tool(MMSEG_TOOLS / 'train.py', trained[0] / 'linear.py', '--work-dir', tmp_path)
    expected, repeated = weights(trained[0] / 'iter_6.pth'), weights(tmp_path / 'iter_6.pth')
    assert all(torch.equal(value, repeated[name]) for name, value in expected.items())


def test_testing_writes_scores_labels_and_pictures_and_agrees_with_mmsegs_script(
    trained, data_root, tmp_path, run_tool
):
    env = dict(os.environ, **AXES, VIT22B_DATA_ROOT=str(data_root))

    def call_test(script, out):
        return run_tool(
            script, CONFIG, trained[0] / 'iter_6.pth', '--work-dir', out, '--out', out / 'labels', '--show-dir',
            out / 'pictures', '--cfg-options', *OVERRIDES, env=env,
        )  # fmt: skip

    done = call_test('tools/test.py', tmp_path)
    record = json.loads((tmp_path / 'scores.json').read_text())
    assert record['images'] == 2
    # the log smooths over ten iterations, of which there are six
    assert record['train_loss'] == pytest.approx(read_run(trained[0]).losses[-1][1], rel=1e-5)
    # building, sky, tree, road, sidewalk, person, car in ADE20K's label values; all others are ignored
    values = [2, 3, 5, 7, 12, 13, 21]
    intersection, union = np.zeros(7), np.zeros(7)
    for path in sorted((tmp_path / 'labels').glob('*.png')):
        predicted = np.asarray(Image.open(path)) - 1
        label = np.asarray(Image.open(data_root / 'annotations/validation' / path.name))
        for k, value in enumerate(values):
            a, b = (predicted == k) & np.isin(label, values), label == value
            intersection[k] += (a & b).sum()
            union[k] += (a | b).sum()
    mean = 100 * np.mean(intersection[union > 0] / union[union > 0])
    assert record['scores']['mIoU'] == pytest.approx(mean, abs=0.01)
    assert 0 < record['scores']['majority/mIoU'] < 100
    names = ('building', 'sky', 'tree', 'road', 'sidewalk', 'person', 'car')
    classes = {f'IoU/{name}': 100 * i / u for name, i, u in zip(names, intersection, union, strict=True) if u}
    assert {k: v for k, v in record['scores'].items() if k.startswith('IoU/')} == pytest.approx(classes, abs=0.01)
    assert [example['rank'] for example in record['examples']] == ['best', 'worst']
    assert record['examples'][0]['score'] > record['examples'][1]['score']
    for example in record['examples']:
        shown = np.asarray(Image.open(tmp_path / 'examples' / example['picture']))
        drawn = next((tmp_path / 'pictures').rglob(f'*{Path(example["image"]).stem}*.png'))
        assert np.array_equal(shown, np.asarray(Image.open(drawn)))
    assert record['versions']['torch'] == torch.__version__
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 2
    assert f'mIoU {record["scores"]["mIoU"]:.2f} (majority class' in done.stdout

    call_test(MMSEG_TOOLS / 'test.py', tmp_path / 'mmseg')
    theirs = json.loads(next((tmp_path / 'mmseg').glob('*/*.json')).read_text())
    assert theirs['mIoU'] == pytest.approx(record['scores']['mIoU'])
    assert len(list((tmp_path / 'mmseg/pictures').rglob('*.png'))) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--backbone', 'vit23b'], "error: unknown backbone 'vit23b'"),
        (['--data-root', '/absent'], 'error: .*needs /absent, which does not exist'),
    ],
)
def test_errors_are_one_line_without_traceback(run_tool, tmp_path, arguments, message):
    done = run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path, *arguments, check=False)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert 'Traceback' not in done.stderr


def test_a_bad_label_in_a_worker_ends_with_its_name(data_root, tmp_path, run_tool):
    root = shutil.copytree(data_root, tmp_path / 'ade')
    for path in (root / 'annotations/training').glob('*.png'):
        Image.fromarray(np.full((64, 80), 200, np.uint8)).save(path)
    done = run_tool(*train_command(tmp_path / 'run', root), check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f'error: {root}/annotations/training/')
    assert 'label value 200 outside the 150 classes' in last


def test_a_checkpoint_of_another_model_is_refused(trained, data_root, run_tool, tmp_path):
    done = run_tool(
        'tools/test.py', CONFIG, trained[0] / 'iter_6.pth', '--backbone', 'vit22b_small', '--data-root', data_root,
        '--work-dir', tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'iter_6.pth does not fit DenseSegmentor, nothing was loaded' in done.stderr
    assert 'model (384,) float32, file (192,) float32' in done.stderr


def test_a_message_that_names_an_error_is_not_cut():
    from vit22b_dense.datasets import DataError
    from vit22b_dense.errors import UserError, without_traceback

    inner = 'a.png: does not decode (OSError: truncated\nValueError: and so on); replace it'
    assert without_traceback(UserError(inner)) == inner
    wrapped = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x", '
        f'line 1, in y\nOSError: truncated\n\nvit22b_dense.datasets.loading.DataError: {inner}\n'
    )
    assert without_traceback(DataError(wrapped)) == inner
