"""Data of your own: images of any usual format, paired with label maps by name; what cannot be paired is named."""

import errno
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import REPO, write_image
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset

import vit22b_dense_cli
from vit22b_dense.datasets import DataError, FolderSegDataset
from vit22b_dense.datasets.listing import walk
from vit22b_dense.engine.config import ConfigError, check_data, load_config
from vit22b_dense.errors import UserError

CLASSES = dict(classes=('sky', 'road', 'car'))
PREFIX = dict(img_path='images', seg_map_path='annotations')
PIPELINE = [dict(type='LoadImage'), dict(type='LoadLabels')]


def folder(root, **more) -> FolderSegDataset:
    options = dict(metainfo=CLASSES, data_root=str(root), data_prefix=PREFIX, split='train', pipeline=PIPELINE)
    return FolderSegDataset(**{**options, **more})


@pytest.fixture
def make(tmp_path):
    """Write images and label maps by name; a label map holds its own number everywhere."""

    def write(images=('a.png', 'b.JPG', 'c.jpeg', 'd/e.f.TIFF', 'd/g.webp', 'h.bmp'), labels=None, split='train'):
        labels = [f'{os.path.splitext(name)[0]}.png' for name in images] if labels is None else labels
        for name in images:
            write_image(tmp_path / f'images/{split}/{name}', np.full((4, 6, 3), 90, np.uint8))
        for number, name in enumerate(labels):
            write_image(tmp_path / f'annotations/{split}/{name}', np.full((4, 6), number % 3, np.uint8))
        return tmp_path

    return write


def test_images_of_all_usual_formats_in_any_case_meet_their_labels(make):
    root = make()
    write_image(root / 'images/train/.hidden.png', np.zeros((4, 6, 3), np.uint8))
    write_image(root / 'images/train/.ipynb_checkpoints/a-checkpoint.png', np.zeros((4, 6, 3), np.uint8))
    (root / 'images/train/notes.txt').write_text('not an image')
    samples = list(folder(root))
    names = ['a.png', 'b.JPG', 'c.jpeg', 'd/e.f.TIFF', 'd/g.webp', 'h.bmp']
    assert [sample['img_path'] for sample in samples] == [f'{root}/images/train/{name}' for name in names]
    for number, sample in enumerate(samples):
        assert sample['img'].shape == (4, 6, 3)
        assert abs(int(sample['img'].mean()) - 90) <= 2  # JPEG and WebP are lossy
        assert (sample['gt_seg_map'] == number % 3).all()


def test_it_reads_what_mmsegs_data_set_reads(make):
    """The same items in the same order, so the same few-shot subsets and scores."""
    root = make([f'{name}.jpg' for name in ('b', 'a-1', 'a', 'd/c', 'a_2')])
    theirs = BaseSegDataset(
        metainfo=CLASSES,
        data_root=str(root),
        data_prefix={key: f'{value}/train' for key, value in PREFIX.items()},
    )
    paths = [[(s['img_path'], s['seg_map_path']) for s in data] for data in (folder(root, pipeline=[]), theirs)]
    assert len(paths[0]) == 5
    assert paths[0] == paths[1]


def test_it_reads_camvid_as_mmsegs_data_set_does(shared_data):
    root = shared_data('camvid_mini')
    for split, count in (('train', 92), ('val', 26), ('test', 59)):
        cfg = load_config('camvid/linear.py', dict(data_root=str(root)), {'test_dataloader.dataset.split': split})
        check_data(cfg, ('test_dataloader',))
        data = cfg.test_dataloader.dataset.to_dict()
        assert data.pop('type') == 'FolderSegDataset'
        ours = FolderSegDataset(**data)
        prefix = {key: f'{value}/{split}' for key, value in PREFIX.items()}
        data = {key: value for key, value in data.items() if key != 'split'} | dict(data_prefix=prefix)
        data['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), data['pipeline'][-1]]
        theirs = BaseSegDataset(**data)
        assert len(ours) == len(theirs) == count
        paths = [[d.get_data_info(i)['img_path'] for i in range(count)] for d in (ours, theirs)]
        assert paths[0] == paths[1]
        assert ours.metainfo['palette'] == theirs.metainfo['palette']
        for one, other in ((ours[i], theirs[i]) for i in (0, count - 1)):
            assert (one['inputs'] == other['inputs']).all()
            assert (one['data_samples'].gt_sem_seg.data == other['data_samples'].gt_sem_seg.data).all()


def test_what_cannot_be_paired_is_counted_and_named_both_ways(make):
    root = make([f'{n}.png' for n in range(9)], [f'{n}.png' for n in range(2, 9)] + ['more.png', 'd/other.png'])
    with pytest.raises(DataError) as error:
        folder(root)
    message = str(error.value)
    assert message.startswith(
        f'{root}/annotations/train: 2 of 9 images have no label map here, NAME.png (0.png, 1.png)'
    )
    assert '2 of 9 label maps have no image (d/other.png, more.png)' in message
    (root / 'list.txt').write_text('7\n3\n\n')
    listed = folder(root, ann_file='list.txt')
    assert [os.path.basename(sample['img_path']) for sample in listed] == ['7.png', '3.png']
    (root / 'list.txt').write_text('7\n3.png\n')
    with pytest.raises(DataError, match=r'list\.txt: 1 of its 2 names have no image in .*\(3\.png\).*without suffix'):
        folder(root, ann_file='list.txt')
    (root / 'list.txt').write_text('7\n1\n')
    with pytest.raises(DataError, match=r'1 of 2 images have no label map here, NAME\.png \(1\.png\)\. Add'):
        folder(root, ann_file='list.txt')
    with pytest.raises(DataError, match=r'absent\.txt: cannot be read as a list'):
        folder(root, ann_file='absent.txt')


def test_long_lists_of_names_are_cut(make):
    root = make([f'{n}.png' for n in range(9)], [])
    (root / 'annotations/train').mkdir(parents=True)
    with pytest.raises(DataError, match=r'9 of 9 images .* \(0\.png, 1\.png, 2\.png, 3\.png, 4\.png, …\)'):
        folder(root)


def test_two_files_of_one_name_are_refused(make):
    root = make(['a.png', 'b.png', 'b.jpg'], ['a.png', 'b.png'])
    with pytest.raises(DataError, match=r'images/train: 1 of 2 names belong to several files \(b\.jpg and b\.png\)'):
        folder(root)
    (root / 'images/train/b.jpg').unlink()
    shutil.copy(root / 'annotations/train/a.png', root / 'annotations/train/a.PNG')
    with pytest.raises(DataError, match=r'annotations/train: 1 of 2 names .* \(a\.PNG and a\.png\)'):
        folder(root)


@pytest.mark.parametrize('place', ['images', 'annotations'])
def test_links_to_nowhere_folders_and_fifos_are_named(make, place):
    root = make(['a.png', 'l.png', 'f.png', 'p.png'])
    for name in ('l.png', 'f.png', 'p.png'):
        (root / place / 'train' / name).unlink()
    (root / place / 'train/l.png').symlink_to(root / 'gone')
    (root / place / 'train/f.png').mkdir()
    os.mkfifo(root / place / 'train/p.png')
    with pytest.raises(DataError) as error:
        folder(root)
    assert f'{root}/{place}/train: 3 of 4 are named like files of the data set' in str(error.value)
    assert '(f.png: a folder, l.png: a broken link, p.png: no regular file)' in str(error.value)


def test_links_are_followed_and_never_in_circles(make, tmp_path):
    root = make(['a.png', 'd/b.png'])
    for place in ('images', 'annotations'):
        (tmp_path / f'linked/{place}').mkdir(parents=True)
        (tmp_path / f'linked/{place}/train').symlink_to(root / place / 'train')
    assert len(folder(tmp_path / 'linked')) == 2
    (root / 'images/train/d/back').symlink_to(root / 'images/train')
    with pytest.raises(DataError, match=r'images/train/d/back: leads to .*images/train, which has been read already'):
        folder(root)


def test_an_empty_folder_and_a_missing_one_are_named_with_the_suffixes(make):
    root = make([])
    (root / 'images/train').mkdir(parents=True)
    (root / 'images/train/a.gif').write_bytes(b'')
    with pytest.raises(DataError, match=r'images/train: no images in this folder or below it \(\.bmp, \.jpeg, \.jpg'):
        folder(root)
    with pytest.raises(DataError, match=r'images/test: no such folder'):
        folder(root, split='test')
    cfg = load_config('own_data/linear.py', dict(data_root=str(root)))
    with pytest.raises(ConfigError, match=r'images/val, which does not exist'):
        check_data(cfg, ('val_dataloader',))


def test_classes_come_from_the_data_set_or_the_pipeline(make):
    root = make(['a.png', 'b.png', 'c.png'])
    with pytest.raises(DataError, match='give metainfo'):
        folder(root, metainfo=None)
    with pytest.raises(DataError, match=r'c\.png: label value 2 outside the 2 classes; allowed are 0\.\.1'):
        list(folder(root, metainfo=dict(classes=('sky', 'road'))))
    shifted = list(folder(root, metainfo=dict(classes=('sky', 'road')), reduce_zero_label=True))
    assert [int(sample['gt_seg_map'][0, 0]) for sample in shifted] == [255, 0, 1]
    theirs = BaseSegDataset(
        metainfo=CLASSES,
        data_root=str(root),
        img_suffix='.png',
        data_prefix={key: f'{value}/train' for key, value in PREFIX.items()},
        pipeline=PIPELINE,
    )
    with pytest.raises(UserError, match='give num_classes'):
        theirs[0]


def test_a_copied_config_is_the_same_wherever_it_lies(tmp_path, monkeypatch, capsys):
    def copy(*arguments) -> int:
        monkeypatch.setattr(sys, 'argv', ['vit22b-dense', 'copy-config', *arguments])
        with pytest.raises(SystemExit) as left:
            vit22b_dense_cli.main()
        return left.value.code

    monkeypatch.chdir(tmp_path)
    for name in ('own_data/linear.py', 'pascal_voc12/upernet_aug.py', 'waymo/dpt.py'):
        original = REPO / 'configs' / name
        assert copy(name, 'mine.py') == 0
        assert capsys.readouterr().out == f'{original} copied to mine.py\n'
        assert Config.fromfile('mine.py').to_dict() == Config.fromfile(original).to_dict()
        axes = dict(backbone='vit22b_tiny', fraction='1/16', seed='3')
        assert load_config('mine.py', axes).to_dict() == load_config(original, axes).to_dict()
        with pytest.raises(ConfigError, match=r"unknown backbone 'vit23b' .*known: .*vit22b_tiny"):
            load_config('mine.py', dict(backbone='vit23b'))
        assert copy(name, 'mine.py') == 1
        assert capsys.readouterr().err == 'error: mine.py: exists already; name another file\n'
        (tmp_path / 'mine.py').unlink()


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / 'locked').mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith('locked'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refusing)
    with pytest.raises(PermissionError, match='locked'):
        list(walk(tmp_path, ['.jpg']))
