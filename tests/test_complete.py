"""No file of a data set is missing or left out without a word; what cannot be ground truth's image is refused."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import make_ade, make_kitti, write_image
from mmseg.registry import DATASETS
from PIL import Image

from vit22b_dense.datasets.complete import check_complete
from vit22b_dense.datasets.loading import DataError, LoadImage
from vit22b_dense.datasets.seeding import Draw
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.run import DenseRunner
from vit22b_dense.errors import UserError


def ade(root, **more):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    return DATASETS.build(dict(type='ADE20KDataset', data_root=str(root), data_prefix=prefix, **more))


def link(path):
    path.unlink(missing_ok=True)
    path.symlink_to('nowhere')


@pytest.mark.parametrize(
    ('name', 'harm', 'message'),
    [
        ('images/training/01.jpg', link, r'1 of its images would be left out.* \(01.jpg: a broken link\)'),
        ('images/training/07.jpg', lambda path: path.mkdir(), r'\(07.jpg: a folder\)'),
        ('images/training/07.jpg', os.mkfifo, r'\(07.jpg: no regular file\)'),
        ('images/training/07.JPG', lambda path: path.write_bytes(b''), r'ending in .jpg \(07.JPG: .JPG\)'),
        ('images/training/07.png', lambda path: path.write_bytes(b''), r'\(07.png: .png\)'),
        ('images/training/01.jpg', lambda path: path.unlink(), r'1 label maps have no image \(01.png\)'),
        ('annotations/training/01.png', link, 'annotations/training/01.png: a broken link; 1 of 6 label maps are so'),
        ('annotations/training/01.png', lambda path: path.unlink(), 'training/01.png: missing; 1 of 6 label maps'),
    ],
)
def test_what_mmseg_leaves_out_is_named(name, harm, message, tmp_path):
    root = make_ade(tmp_path / 'ade')
    check_complete(ade(root))
    harm(root / name)
    for dataset in (ade(root), DATASETS.build(dict(type='FewShotSubset', dataset=ade(root), fraction='1'))):
        with pytest.raises(DataError, match=message):
            check_complete(dataset)


EMPTY = dict(type='ADE20KDataset', data_prefix=dict(img_path='images/val'))


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (EMPTY, 'images/val: ADE20KDataset finds no images there, whose names end with .jpg'),
        (dict(EMPTY, img_suffix='.tif'), 'images/val: ADE20KDataset finds no images there, whose names end with .tif'),
        (dict(EMPTY, type='CityscapesByCity'), 'CityscapesByCity finds no images .* end with _leftImg8bit.png'),
        (
            dict(EMPTY, type='PascalContextDataset', ann_file='none.txt'),
            'none.txt: PascalContextDataset finds no images',
        ),
        (dict(type='ConcatDataset', datasets=[EMPTY, dict(EMPTY, img_suffix='.x')]), r'\.jpg; .*end with \.x'),
        (
            dict(EMPTY, type='FolderSegDataset', metainfo=dict(classes=['a']), split='val'),
            r'images/val: no images in this folder or below it \(.bmp, .jpeg, .jpg, .png',
        ),
    ],
)
def test_an_empty_data_set_names_where_it_looked_and_for_what(tmp_path, monkeypatch, data, said):
    monkeypatch.chdir(tmp_path)
    Path('images/val').mkdir(parents=True)
    Path('none.txt').write_text('')
    if data['type'] == 'FolderSegDataset':
        data = dict(data, data_prefix=dict(img_path='images'))
    loader = dict(batch_size=1, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False))
    with pytest.raises(UserError, match=said):
        DenseRunner.build_dataloader(loader)
    with pytest.raises(UserError, match=said):
        DATASETS.build(dict(type='FewShotSubset', fraction='1/2', dataset=dict(data)))


def test_the_configs_loaders_may_have_no_workers(tmp_path):
    cfg = load_config('ade20k/linear.py', {}, {'val_dataloader.num_workers': 0})
    assert cfg.val_dataloader.persistent_workers
    cfg.val_dataloader.dataset = dict(type='SeededDataset', dataset=ade(make_ade(tmp_path / 'ade')))
    assert DenseRunner.build_dataloader(cfg.val_dataloader).num_workers == 0
    assert DenseRunner.build_dataloader(dict(cfg.val_dataloader, num_workers=2)).persistent_workers


def test_of_a_list_only_what_it_names_must_be_there(tmp_path):
    root = make_ade(tmp_path / 'ade')
    (tmp_path / 'list.txt').write_text('00\n01\n')
    (root / 'images/training/03.jpg').unlink()
    check_complete(ade(root, ann_file=str(tmp_path / 'list.txt')))
    (root / 'images/training/01.jpg').unlink()
    with pytest.raises(DataError, match='images/training/01.jpg: missing; 1 of 2 images are so'):
        check_complete(ade(root, ann_file=str(tmp_path / 'list.txt')))


def test_depth_maps_need_their_images(tmp_path):
    make_kitti(tmp_path)
    data = dict(
        type='KITTIDepthDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='raw', depth_path='data_depth_annotated/val'),
    )
    check_complete(DATASETS.build(data))
    next(tmp_path.glob('raw/*/*/image_02/data/*5.png')).unlink()
    with pytest.raises(DataError, match='5.png: missing; 1 of 4 images are so'):
        check_complete(DATASETS.build(data))


def jpeg(orientation: int) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(picture).save(buffer, 'JPEG', exif=exif)
    return buffer.getvalue()


def test_an_image_that_is_turned_needs_no_ground_truth(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg(6))
    assert LoadImage()(dict(img_path=str(path)))['ori_shape'] == (32, 24)  # as it is to be seen
    for truth in ('seg_map_path', 'depth_path'):
        with pytest.raises(DataError, match=f'{path}: its EXIF orientation is 6'):
            LoadImage()({'img_path': str(path), truth: 'a.png'})
    path.write_bytes(jpeg(1))
    assert LoadImage()(dict(img_path=str(path), seg_map_path='a.png'))['ori_shape'] == (24, 32)


@pytest.mark.parametrize('kept', [0.3, 0.9])
def test_a_jpeg_that_is_cut_off_is_refused(kept, tmp_path):
    path, whole = tmp_path / 'a.jpg', jpeg(1)
    path.write_bytes(whole + b'a trailer of some camera')
    LoadImage()(dict(img_path=str(path)))
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=f'{path}: does not decode as a whole image'):
        LoadImage()(dict(img_path=str(path)))


def test_a_sample_that_breaks_the_pipeline_is_named(tmp_path):
    write_image(tmp_path / 'images/training/wide.jpg', np.zeros((1, 3000, 3), np.uint8))
    inner = ade(tmp_path, pipeline=[dict(type='LoadImage')], lazy_init=True)
    inner.data_prefix.pop('seg_map_path')
    inner.full_init()
    inner.pipeline.transforms.append(lambda results: results['img'].reshape(-1, 7))
    data = DATASETS.build(dict(type='SeededDataset', dataset=inner))
    with pytest.raises(DataError, match=r'wide.jpg: no training sample can be made of it \(ValueError'):
        data[Draw(0, (0, 0))]
