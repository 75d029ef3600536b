"""tools/predict.py on a small trained-shape model with random weights."""

import numpy as np
import pytest
import torch
from conftest import REPO, make_ade, write_image
from mmseg.registry import MODELS
from PIL import Image

from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.predict import Segmenter

CONFIG = REPO / 'configs/demo/linear.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('VIT22B_BACKBONE', 'vit22b_tiny')
        model = MODELS.build(load_config(CONFIG, {}).model)
    for param in model.decode_head.parameters():
        torch.nn.init.normal_(param)
    path = tmp_path_factory.mktemp('model') / 'model.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_predictions_of_a_folder_equal_those_of_test_py(checkpoint, tmp_path, run_tool):
    root = make_ade(tmp_path / 'ade')
    axes = ['--backbone', 'vit22b_tiny']
    run_tool(
        'tools/test.py',
        CONFIG,
        checkpoint,
        *axes,
        '--data-root',
        root,
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'test',
    )
    out = tmp_path / 'out'
    done = run_tool('tools/predict.py', CONFIG, checkpoint, root / 'images/validation', *axes, '--out-dir', out)
    assert '2/2' in done.stdout
    assert 's left' in done.stdout
    for name in ('00', '01'):
        predicted = np.asarray(Image.open(out / f'{name}.png'))
        # ADE20K's values of building, sky, tree, road, sidewalk, person and car; test.py numbers the seven from 1
        values = np.array([2, 3, 5, 7, 12, 13, 21])
        tested = np.asarray(Image.open(tmp_path / f'test/{name}.png'))
        np.testing.assert_array_equal(predicted, values[tested - 1])
        assert len(np.unique(predicted)) > 1
        picture = np.asarray(Image.open(out / f'{name}_picture.png'))
        assert picture.shape[1] == 2 * 80 + 3 * 8


def test_a_bad_file_is_named_and_skipped(checkpoint, tmp_path, run_tool):
    write_image(tmp_path / 'in/good.jpg', np.zeros((30, 40, 3), np.uint8))
    (tmp_path / 'in/bad.jpg').write_bytes(b'nothing')
    done = run_tool(
        'tools/predict.py', CONFIG, checkpoint, tmp_path / 'in', tmp_path / 'absent.png', '--backbone', 'vit22b_tiny',
        '--out-dir', tmp_path / 'out', check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f'skipped: {tmp_path}/in/bad.jpg: does not decode' in done.stderr
    assert f'skipped: {tmp_path}/absent.png: no such image' in done.stderr
    assert '1 of 3 images written' in done.stdout
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['good.png', 'good_picture.png']


def test_clear_errors(checkpoint, tmp_path, run_tool):
    (tmp_path / 'empty').mkdir()
    for images, message in (
        ([tmp_path / 'empty'], 'no images in this folder'),
        (['a/x.jpg', 'b/x.png'], 'two images would be written as x.png'),
    ):
        done = run_tool('tools/predict.py', CONFIG, checkpoint, *images, check=False)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.parametrize(
    ('leaf', 'values'),
    [
        ('ade20k/linear.py', range(1, 151)),
        ('pascal_voc12/linear_aug.py', range(21)),
        ('pascal_context/linear_59.py', range(1, 60)),
        ('pascal_context/linear_60.py', range(60)),
        ('camvid/linear.py', range(11)),
        ('own_data/linear.py', range(4)),
    ],
)
def test_every_data_set_tells_its_classes_without_its_files(leaf, values, tmp_path, monkeypatch):
    monkeypatch.setenv('VIT22B_BACKBONE', 'vit22b_tiny')
    monkeypatch.setenv('VIT22B_DATA_ROOT', str(tmp_path / 'absent'))
    cfg = load_config(REPO / 'configs' / leaf, {})
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'model.pth')
    segmenter = Segmenter(cfg, tmp_path / 'model.pth')
    assert segmenter.values.tolist() == list(values)
    assert len(segmenter.classes) == len(segmenter.palette) == len(values)
