import numpy as np
import pytest
from conftest import write_image
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from vit22b_dense import FewShotSubset
from vit22b_dense.datasets import CityscapesByCity
from vit22b_dense.datasets.loading import DataError, LoadImage, LoadLabels


def info(path, image=None, **extra):
    return dict(seg_map_path=str(path), img_path='img.jpg', ori_shape=image, label_map=None, seg_fields=[], **extra)


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 3, 1: 255, 2: 0, 3: 1}])
def test_equals_mmseg_on_valid_labels(tmp_path, reduce_zero_label, label_map):
    rng = np.random.default_rng(0)
    values = np.array([*range(4 + reduce_zero_label), 255], np.uint8)
    write_image(tmp_path / 'a.png', rng.choice(values, (20, 30)))
    results = [info(tmp_path / 'a.png', (20, 30), reduce_zero_label=reduce_zero_label) for _ in range(2)]
    for result in results:
        result['label_map'] = label_map
    ours = LoadLabels(num_classes=4)(results[0])
    theirs = LoadAnnotations()(results[1])
    assert ours['gt_seg_map'].dtype == theirs['gt_seg_map'].dtype == np.uint8
    np.testing.assert_array_equal(ours['gt_seg_map'], theirs['gt_seg_map'])
    assert ours['seg_fields'] == theirs['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize(
    ('dtype', 'value', 'shown'),
    [(np.uint8, 4, '4'), (np.uint16, 300, '300'), (np.uint8, 254, '254'), (np.int32, -1, '-1')],
)
def test_a_value_outside_the_classes_is_named(tmp_path, dtype, value, shown):
    label = np.zeros((4, 4), dtype)
    label[1, 1] = value
    write_image(tmp_path / 'bad.tif', label)
    with pytest.raises(DataError, match=rf'bad\.tif: label value {shown} outside the 4 classes; allowed are 0\.\.3'):
        LoadLabels(num_classes=4)(info(tmp_path / 'bad.tif', (4, 4), reduce_zero_label=False))


def test_with_reduce_zero_label_the_stored_values_are_told(tmp_path):
    write_image(tmp_path / 'bad.png', np.full((4, 4), 5, np.uint8))
    with pytest.raises(DataError, match=r'allowed are 1\.\.4 and 255 \(ignored\), and 0 \(ignored\)'):
        LoadLabels(num_classes=4)(info(tmp_path / 'bad.png', (4, 4), reduce_zero_label=True))


def test_image_and_label_of_different_size(tmp_path):
    write_image(tmp_path / 'a.png', np.zeros((20, 30), np.uint8))
    with pytest.raises(DataError, match=r'a\.png: label map of 30x20 pixels.*img\.jpg of 31x20'):
        LoadLabels(num_classes=4)(info(tmp_path / 'a.png', (20, 31), reduce_zero_label=False))


def test_colour_label_maps_are_refused_and_palettes_read(tmp_path):
    write_image(tmp_path / 'colour.png', np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r'colour\.png: has 3 channels'):
        LoadLabels(num_classes=4)(info(tmp_path / 'colour.png', reduce_zero_label=False))
    palette = Image.fromarray(np.full((4, 4), 3, np.uint8), 'P')
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / 'palette.png')
    read = LoadLabels(num_classes=4)(info(tmp_path / 'palette.png', reduce_zero_label=False))
    assert (read['gt_seg_map'] == 3).all()


@pytest.mark.parametrize('content', [b'', b'not an image', None])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / 'broken.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r'broken\.png'):
        LoadImage()(dict(img_path=str(path)))
    with pytest.raises(DataError, match=r'broken\.png'):
        LoadLabels(num_classes=4)(info(path, reduce_zero_label=False))


def test_reads_ade20k_as_mmseg_does(shared_data):
    """The real sample: same labels and images as with mmseg's own pipeline."""
    root = shared_data('ade_sample')
    for split in ('training', 'validation'):
        read = [
            ADE20KDataset(
                data_root=str(root),
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
                pipeline=pipeline,
            )
            for pipeline in (
                [dict(type='LoadImage'), dict(type='LoadLabels', num_classes=150)],
                [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            )
        ]
        assert len(read[0]) == {'training': 1, 'validation': 3}[split]
        for ours, theirs in zip(*read, strict=True):
            np.testing.assert_array_equal(ours['gt_seg_map'], theirs['gt_seg_map'])
            np.testing.assert_array_equal(ours['img'], theirs['img'])


def test_reads_pascal_voc(shared_data):
    root = shared_data('voc_sample') / 'VOC2012'
    dataset = BaseSegDataset(
        data_root=str(root),
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        metainfo=dict(classes=tuple(map(str, range(21)))),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabels', num_classes=21)],
    )
    labels = {sample['seg_map_path'][-15:]: sample['gt_seg_map'] for sample in dataset}
    assert len(labels) == 4
    assert 255 in labels['2007_000129.png']
    assert all(set(np.unique(label)) <= {*range(21), 255} for label in labels.values())


def test_reads_cityscapes_by_city(tmp_path):
    """The official layout: mmseg's items, with the city as what few-shot subsets keep together."""
    rng = np.random.default_rng(0)
    for city, count in (('aachen', 3), ('bochum', 1), ('ulm', 2), ('zurich', 2)):
        for i in range(count):
            stem = f'{city}/{city}_{i:06d}_000019'
            write_image(
                tmp_path / f'leftImg8bit/train/{stem}_leftImg8bit.png', rng.integers(0, 256, (16, 32, 3), np.uint8)
            )
            label = rng.choice([*range(19), 255], (16, 32)).astype(np.uint8)
            write_image(tmp_path / f'gtFine/train/{stem}_gtFine_labelTrainIds.png', label)
            write_image(tmp_path / f'gtFine/train/{stem}_gtFine_labelIds.png', label + 100)
    arguments = dict(
        data_root=str(tmp_path),
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabels', num_classes=19)],
    )
    data, theirs = CityscapesByCity(**arguments), CityscapesDataset(**arguments)
    assert len(data) == 8
    for i, item in enumerate(data):
        info = data.get_data_info(i)
        city = info.pop('city')
        assert info == theirs.get_data_info(i)
        assert f'/train/{city}/{city}_' in info['img_path']
        np.testing.assert_array_equal(item['gt_seg_map'], np.asarray(Image.open(info['seg_map_path'])))
    assert data.metainfo == theirs.metainfo
    halves = [FewShotSubset(data, fraction) for fraction in ('1/4', '1/2')]
    kept = [{half.get_data_info(i)['city'] for i in range(len(half))} for half in halves]
    assert [len(cities) for cities in kept] == [1, 2]
    assert kept[0] < kept[1]
    sizes = dict(aachen=3, bochum=1, ulm=2, zurich=2)
    assert len(halves[1]) == sum(sizes[city] for city in kept[1])
    assert len(FewShotSubset(data, '1/2', unit='frame')) == 4
