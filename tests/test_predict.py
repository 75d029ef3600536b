"""tools/predict.py on a small trained-shape model with random weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, make_ade, write_image
from mmseg.registry import MODELS
from PIL import Image

from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.predict import Segmenter, predictor_of
from vit22b_dense.errors import UserError

CONFIG = REPO / 'configs/demo/linear.py'
_spec = importlib.util.spec_from_file_location('predict_tool', REPO / 'tools/predict.py')
predict_tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(predict_tool)


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
    done = run_tool('tools/predict.py', CONFIG, checkpoint, tmp_path / 'empty', check=False, fresh=True)
    assert done.returncode == 1
    assert 'no images in this folder' in done.stderr
    done = run_tool('tools/predict.py', checkpoint, tmp_path / 'x.jpg', check=False)
    assert done.returncode == 1
    assert f'error: {tmp_path}/x.jpg: no such image or folder' in done.stderr  # before the model is loaded
    (tmp_path / 'x.jpg').touch()
    done = run_tool('tools/predict.py', checkpoint, tmp_path / 'x.jpg', check=False)
    assert done.returncode == 1
    assert 'model.pth: holds weights without their config; name the config file in front of it' in done.stderr


@pytest.mark.parametrize(
    ('names', 'folder', 'message'),
    [
        (['a/x.jpg', 'b/x.png'], 'out', r'a/x.jpg and .*b/x.png would both be written as .*out/x.png'),
        (['a/x.jpg', 'b/x_picture.jpg'], 'out', r'would both be written as .*out/x_picture.png'),
        (['a/x.png'], 'a', r'a/x.png: its prediction .*a/x.png would overwrite an image; choose another --out-dir'),
        (['a/x.jpg', 'a/x_picture.png'], 'a', r'x.jpg: its prediction .*a/x_picture.png would overwrite an image'),
    ],
)
def test_no_output_overwrites_an_image_or_another_output(names, folder, message, tmp_path):
    images = [(tmp_path / name, Path(Path(name).stem)) for name in names]
    with pytest.raises(UserError, match=message):
        predict_tool.outputs_of(images, tmp_path / folder, Segmenter.endings)


def test_a_checkpoint_and_photographs_are_enough(tmp_path, run_tool):
    """Depth, with the config in the checkpoint: a 16-bit PNG, a picture and metres."""
    axes = dict(backbone='vit22b_tiny', data_root=str(tmp_path / 'absent'))
    cfg = load_config(REPO / 'configs/demo/linear_depth.py', axes)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.decode_head.conv_depth.weight, std=0.2)
    torch.save(dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict()), tmp_path / 'iter_1.pth')
    write_image(tmp_path / 'photo.jpg', np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    run_tool('tools/predict.py', tmp_path / 'iter_1.pth', tmp_path / 'photo.jpg', '--out-dir', tmp_path / 'out')
    metres = np.load(tmp_path / 'out/photo.npz')['depth']
    assert (metres.shape, metres.dtype) == ((90, 130), np.float32)
    _, expected = predictor_of(cfg, tmp_path / 'iter_1.pth').predict(tmp_path / 'photo.jpg')
    np.testing.assert_allclose(metres, expected, rtol=1e-4, atol=1e-4)
    assert metres.std() > 0.1
    stored = np.asarray(Image.open(tmp_path / 'out/photo.png'))
    # 0 means none, so the nearest depth is stored as 1
    np.testing.assert_allclose(stored / 256, np.maximum(metres, 1 / 256), atol=0.5 / 256 + 1e-6)
    assert Image.open(tmp_path / 'out/photo_picture.png').size[0] > 2 * 130


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
