"""A newcomer's way: from pip install in an empty folder to a trained model, by the commands that the docs list."""

import json
import re

import numpy as np
import pytest
from conftest import write_image
from installed import Installed
from PIL import Image

# RGB of each class; a picture is blocks of them with noise
COLOURS = np.array([[70, 130, 180], [160, 70, 40], [90, 90, 90], [30, 160, 50]])


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp('newcomer'))


def make_folder_of_pngs(root) -> None:
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('val', 3), ('test', 2)):
        for n in range(count):
            label = np.kron(rng.integers(0, 4, (4, 6)), np.ones((14, 14), np.int64)).astype(np.uint8)
            image = COLOURS[label] + rng.integers(-20, 21, (*label.shape, 3))
            suffix = ('png', 'PNG', 'jpg')[n % 3]
            write_image(root / f'images/{split}/street {n}.{suffix}', image.astype(np.uint8))
            write_image(root / f'annotations/{split}/street {n}.png', label)


@pytest.mark.slow
def test_from_pip_install_to_predictions_of_a_model_of_ones_own(installed):
    make_folder_of_pngs(installed.cwd / 'street')
    config = installed.cwd / 'my_data.py'

    installed.run('vit22b-dense', 'copy-config', 'own_data/linear.py', 'my_data.py')
    # what a user changes in an editor; sizes and iterations are small here, to be quick
    text = config.read_text()
    for old, new in (
        ("('sky', 'building', 'road', 'car')", "('sky', 'wall', 'road', 'tree')"),
        ('scale=(896, 224)', 'scale=(224, 56)'),
        ('crop_size = (224, 224)', 'crop_size = (56, 56)'),
        ('max_iters = 5 * _base_.max_iters', 'max_iters = 40'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    config.write_text(text)

    command = ['train', 'my_data.py', '--backbone', 'vit22b_tiny', '--regime', 'scratch', '--data-root', 'street']
    done = installed.run('vit22b-dense', *command, '--work-dir', 'run')
    lines = re.findall(r'Iter\(train\) \[ *(\d+)/40\].*?eta: \d+:\d\d:\d\d .*loss: \d', done.stdout + done.stderr)
    assert lines[0] == '1'

    done = installed.run('vit22b-dense', 'test', 'run/my_data.py', 'run/iter_40.pth')
    record = json.loads((installed.cwd / 'run/scores.json').read_text())
    assert record['images'] == 3
    assert set(record['scores']) >= {'mIoU', 'majority/mIoU', 'IoU/sky', 'IoU/wall', 'IoU/road', 'IoU/tree'}
    assert record['scores']['mIoU'] > 2 * record['scores']['majority/mIoU']

    installed.run('vit22b-dense', 'predict', 'run/my_data.py', 'run/iter_40.pth', 'street/images/test')
    for n in range(2):
        predicted = np.asarray(Image.open(installed.cwd / f'predictions/street {n}.png'))
        label = np.asarray(Image.open(installed.cwd / f'street/annotations/test/street {n}.png'))
        assert predicted.shape == label.shape
        assert (predicted == label).mean() > 0.5  # a constant answer has about a quarter
    assert sorted(path.name for path in installed.cwd.iterdir()) == ['my_data.py', 'predictions', 'run', 'street']
