"""A whole run of depth: a toy street in Waymo's schema, prepared, trained on and tested."""

import json
import re

import cv2
import numpy as np
import pytest
from conftest import REPO, make_prepared_waymo
from PIL import Image

CONFIG = REPO / 'configs/demo/dpt.py'
AXES = ['--backbone', 'vit22b_tiny', '--regime', 'frozen']
OVERRIDES = [
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=2',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
]


def test_depth_trains_and_tests(run_tool, tmp_path):
    data = make_prepared_waymo(tmp_path / 'data')
    common = [*AXES, '--data-root', data]
    done = run_tool('tools/train.py', CONFIG, *common, '--work-dir', tmp_path / 'run', *OVERRIDES)
    line = re.search(r'iter_2\.pth: abs_rel (\d\.\d+), rmse .*', done.stdout + done.stderr)
    assert '; over all pixels; training loss 0.' in line[0]
    out = tmp_path / 'out'
    done = run_tool(
        'tools/test.py', CONFIG, tmp_path / 'run/iter_2.pth', *common, '--work-dir', out, '--out', out / 'depth',
        '--show-dir', out / 'pictures', *OVERRIDES,
    )  # fmt: skip
    record = json.loads((out / 'scores.json').read_text())
    scores = record['scores']
    assert line[1] == f'{scores["abs_rel"]:.3f}'
    assert (record['images'], scores['images'], scores['images_without_gt']) == (3, 3, 0)
    assert 'Protocol: no crop; ground truth in (0.001, 80] m' in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith(f'abs_rel {scores["pixel/abs_rel"]:.3f} (')
    pictures = list((out / 'pictures').rglob('*.png'))
    assert len(pictures) == 3
    assert all(Image.open(path).size[0] > 900 for path in pictures)
    examples = {example['rank']: example for example in record['examples']}
    assert list(examples) == ['best', 'median', 'worst']
    assert examples['best']['score'] < examples['median']['score'] < examples['worst']['score']
    mean_of_images = np.mean([example['score'] for example in examples.values()])
    assert mean_of_images == pytest.approx(scores['image/abs_rel'])
    # The scores are those of the written maps and the prepared points, at the images' own size.
    errors, depths = [], []
    for path in sorted((out / 'depth').rglob('*.png')):
        predicted = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 256
        assert predicted.shape == (56, 84)
        with np.load(data / 'validation' / path.parent.name / f'{path.stem}.npz') as points:
            errors.append(np.abs(predicted[points['y'], points['x']] - points['depth']) / points['depth'])
            depths.append(points['depth'])
    assert scores['pixel/abs_rel'] == pytest.approx(np.concatenate(errors).mean(), abs=0.01)
    mean = np.concatenate(depths).mean()
    assert scores['mean_depth/metres'] == pytest.approx(mean, abs=0.02)
    assert scores['mean_depth/rmse'] == pytest.approx(np.concatenate(depths).std(), abs=0.02)
