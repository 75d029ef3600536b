"""Depth data sets and their transforms: points stay points, nearest wins, layouts are read as they are."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import waymo_made as made
from conftest import make_kitti, write_image
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image

from vit22b_dense import FewShotSubset, KITTIDepthDataset, WaymoDepthDataset
from vit22b_dense.datasets import DataError, NYUDepthDataset
from vit22b_dense.datasets.depth_list import read_depth_list
from vit22b_dense.datasets.depth_transforms import LoadSparseDepth, rasterise, set_points
from vit22b_dense.datasets.loading import LoadImage
from vit22b_dense.waymo.prepare import Job, prepare
from vit22b_dense.waymo.types import Settings

LOAD = [dict(type='LoadImage'), dict(type='LoadSparseDepth')]
SEGMENTS = [made.SEGMENT, '200_b', '300_c']


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Three segments of two frames, FRONT and SIDE_LEFT."""
    root = tmp_path_factory.mktemp('waymo')
    for name in SEGMENTS:
        made.write(root, name)
    prepare(Job(root, root / 'out', 'training', Settings((1, 4), (1, 2, 3, 4, 5), (1,))), lambda line: None)
    return root / 'out'


def waymo(root, pipeline=(), **more) -> WaymoDepthDataset:
    return WaymoDepthDataset(str(root), dict(img_path='training'), pipeline=[*LOAD, *pipeline], **more)


def build(kind, **arguments):
    return TRANSFORMS.build(dict(type=kind, **arguments))


def picture(shape, points) -> dict:
    """A pipeline's results with an image and points x, y, depth."""
    results = dict(img=np.zeros((*shape, 3), np.uint8), img_shape=shape, ori_shape=shape)
    x, y, depth = np.array(points, float).T
    set_points(results, x, y, depth, shape)
    return results


def test_items_and_maps(prepared):
    data = waymo(prepared, [dict(type='PackDepthInputs')])
    assert len(data) == 3 * 2 * 2
    packed = data[1]
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 128, 192)
    assert (sample.segment, sample.timestamp, sample.camera) == (made.SEGMENT, made.FIRST, 'SIDE_LEFT')
    depth = sample.gt_depth_map.data
    assert (depth.shape, str(depth.dtype)) == ((1, 128, 192), 'torch.float32')
    with np.load(sample.depth_path) as stored:
        expected = np.zeros((128, 192), np.float32)
        expected[stored['y'], stored['x']] = stored['depth']
    assert (expected > 0).sum() > 300
    np.testing.assert_array_equal(depth[0].numpy(), expected)
    front = waymo(prepared, cameras=['FRONT'])
    assert {front.get_data_info(i)['camera'] for i in range(len(front))} == {'FRONT'}
    assert len(front) == 6


def test_few_shot_keeps_whole_segments(prepared):
    subset = FewShotSubset(waymo(prepared), '1/3', seed=1)
    chosen = [subset.get_data_info(i)['segment'] for i in range(len(subset))]
    assert len(chosen) == 4
    assert len(set(chosen)) == 1


def test_nearest_point_of_a_pixel_stays():
    points = np.float32(
        [[0.5, 0.5, 9], [0.9, 0.1, 4], [0.2, 0.7, 7], [2.0, 1.0, 3], [3, 0, 1], [-0.1, 0, 1], [0, 2, 1]]
    )
    expected = np.zeros((2, 3), np.float32)
    expected[0, 0], expected[1, 2] = 4, 3
    for order in (slice(None), slice(None, None, -1)):
        np.testing.assert_array_equal(rasterise(points[order], (2, 3)), expected)
    assert not rasterise(np.zeros((0, 3), np.float32), (2, 3)).any()


def test_resizing_never_makes_up_a_depth():
    rng = np.random.default_rng(0)
    points = [(x, y, rng.uniform(2, 70)) for x in range(0, 60, 3) for y in range(0, 40, 2)]
    for scale in ((20, 14), (90, 77)):
        results = build('DepthResize', scale=scale)(picture((40, 60), points))
        depth = rasterise(results['depth_points'], results['depth_shape'])
        assert depth.shape == results['img'].shape[:2] == scale[::-1]
        expected = np.zeros_like(depth)
        for x, y, z in points:  # a pixel's middle goes to the pixel that holds it
            i, j = int((y + 0.5) * scale[1] / 40), int((x + 0.5) * scale[0] / 60)
            expected[i, j] = min(expected[i, j] or np.inf, z)
        np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_cropping_and_flipping_follow_the_image():
    """The image holds the depth as its grey value, so both must still agree."""
    rng = np.random.default_rng(0)
    grey = np.where(rng.random((40, 60)) < 0.2, rng.integers(1, 200, (40, 60)), 0)
    y, x = np.nonzero(grey)
    np.random.seed(0)
    for direction in ('horizontal', 'vertical', 'diagonal'):
        results = picture((40, 60), np.stack([x, y, grey[y, x]], 1))
        results['img'] = np.repeat(grey[:, :, None], 3, 2).astype(np.uint8)
        before = results['depth_points'].copy()
        for step in (
            build('DepthRandomCrop', crop_size=(30, 35)),
            build('DepthRandomFlip', prob=1.0, direction=direction),
        ):
            results = step(results)
            depth = rasterise(results['depth_points'], results['depth_shape'])
            np.testing.assert_array_equal(depth, results['img'][:, :, 0])
        assert depth.shape == (30, 35)
        assert len(results['depth_points']) == (depth > 0).sum() < len(before)


def test_depth_loaded_behind_the_resize_keeps_its_resolution(prepared):
    def pipeline(*steps):
        return WaymoDepthDataset(str(prepared), dict(img_path='training'), pipeline=[LOAD[0], *steps])

    resize = dict(type='DepthResize', scale=(96, 64))
    packed = pipeline(resize, LOAD[1], dict(type='PackDepthInputs'))[0]
    assert packed['inputs'].shape[1:] == (64, 96)
    assert packed['data_samples'].gt_depth_map.shape == packed['data_samples'].ori_shape == (128, 192)
    with pytest.raises(ValueError, match='load the depth before changing the image'):
        pipeline(resize, LOAD[1], dict(type='DepthRandomCrop', crop_size=(32, 32)))[0]


def test_damage_is_named(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / 'out')
    folder = root / 'training' / made.SEGMENT
    data = waymo(root)
    path = folder / f'{made.FIRST}_1.npz'
    good = path.read_bytes()
    for content in (good[:100], b'', b'PK', good[:-300] + bytes([good[-300] ^ 1]) + good[-299:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f'{path}: has changed since it was prepared'):
            data[0]
        with pytest.raises(DataError, match=f'{path}: (cannot be read as sparse depth|has depths|has pixels)'):
            LoadSparseDepth()(dict(depth_path=str(path), ori_shape=(128, 192)))
    path.unlink()
    with pytest.raises(DataError, match=f'{path}: no depth for'):
        data[0]
    with pytest.raises(DataError, match='no frame of camera REAR; prepared are FRONT, SIDE_LEFT'):
        waymo(root, cameras=['FRONT', 'REAR'])
    (folder / 'index.json').write_text('{}')
    with pytest.raises(DataError, match='not an index of version 1'):
        waymo(root)
    (folder / 'index.json').unlink()
    with pytest.raises(DataError, match=f'{folder}: not complete'):
        waymo(root)
    with pytest.raises(DataError, match='no prepared segments'):
        WaymoDepthDataset(str(tmp_path), dict(img_path='training'))


@pytest.mark.parametrize(
    ('x', 'y', 'depth', 'message'),
    [
        ([192], [0], [1.0], r'has pixels up to \(192, 0\), outside its image of 192x128'),
        ([-1], [0], [1.0], 'has pixels up to'),
        ([3.5], [0], [1.0], 'should be integers'),
        ([0, 1], [0, 1], [1.0], 'should be equal'),
        *(([0, 1], [0, 1], [2.0, depth], 'has depths of') for depth in (np.nan, np.inf, 0.0, -1.0)),
    ],
)
def test_points_that_cannot_be_are_refused(x, y, depth, message, tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, x=np.array(x), y=np.array(y), depth=np.float32(depth))
    with pytest.raises(DataError, match=f'{path}: .*{message}'):
        LoadSparseDepth()(dict(depth_path=str(path), ori_shape=(128, 192)))


def test_an_image_of_another_size_or_content_than_was_prepared(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / 'out')
    data = waymo(root)
    path, info = root / 'training' / made.SEGMENT / f'{made.FIRST}_1.jpg', data.get_data_info(0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f'{path}: has changed since it was prepared'):
        data[0]
    write_image(path, np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(DataError, match=f'{path}: an image of 96x64 pixels, its index says 192x128'):
        LoadImage()(info | dict(img_crc32=None))


def test_a_segment_that_is_a_broken_link_or_whose_index_is_damaged(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / 'out')
    index = root / 'training' / made.SEGMENT / 'index.json'
    text = index.read_text()
    for damaged in (text[:300], text.replace('"image":', '"picture":'), '[]'):
        index.write_text(damaged)
        with pytest.raises(DataError, match=f'{index}: .*prepare the segment again'):
            waymo(root)
    index.write_text(text)
    (root / 'training/400_d').symlink_to(tmp_path / 'absent')
    with pytest.raises(DataError, match=r'1 segments are broken links \(400_d\)'):
        waymo(root)


def kitti(root, depth_path='data_depth_annotated/val', **more) -> KITTIDepthDataset:
    pipeline = [dict(type='LoadImage'), dict(type='LoadDepthPNG'), dict(type='PackDepthInputs')]
    prefix = dict(img_path='raw', depth_path=depth_path)
    return DATASETS.build(
        dict(type='KITTIDepthDataset', data_root=str(root), data_prefix=prefix, pipeline=pipeline, **more)
    )


def test_kitti_as_its_folders_are(tmp_path):
    data = kitti(make_kitti(tmp_path))
    assert len(data) == 4
    packed = data[1]
    sample = packed['data_samples']
    assert sample.img_path.endswith('raw/2011_09_26/2011_09_26_drive_0001_sync/image_03/data/0000000005.png')
    assert (sample.segment, sample.timestamp, sample.camera) == ('2011_09_26_drive_0001_sync', 5, 'image_03')
    stored = np.asarray(Image.open(sample.depth_path)).astype(float)
    np.testing.assert_allclose(sample.gt_depth_map.data[0].numpy(), stored / 256, rtol=1e-6)
    assert packed['inputs'].shape[1:] == stored.shape
    assert len(kitti(tmp_path, cameras=['image_02'])) == 2
    subset = FewShotSubset(data, '1/2')
    assert len({subset.get_data_info(i)['segment'] for i in range(2)}) == len(subset) // 2 == 1


def test_kitti_damage_is_named(tmp_path):
    data = kitti(make_kitti(tmp_path))
    path = Path(data.get_data_info(0)['depth_path'])
    for content, message in (
        (np.zeros((37, 124), np.uint8), 'holds uint8'),
        (np.zeros((30, 124), np.uint16), 'depth map of 124x30 pixels for the image .* of 124x37'),
    ):
        Image.fromarray(content).save(path)
        with pytest.raises(DataError, match=f'{path}: .*{message}'):
            data[0]
    path.write_bytes(b'no png')
    with pytest.raises(DataError, match='does not decode'):
        data[0]
    path.unlink()
    with pytest.raises(DataError, match='no depth map for'):
        data[0]
    with pytest.raises(DataError, match='no DRIVE/proj_depth'):
        kitti(tmp_path, cameras=['image_00'])


DRIVES = ('2011_09_26_drive_0001_sync', '2011_09_27_drive_0002_sync')


def kitti_line(drive, camera, frame, depth=True) -> str:
    truth = f'{drive}/proj_depth/groundtruth/{camera}/{frame:010d}.png' if depth else 'None'
    return f'{drive[:10]}/{drive}/{camera}/data/{frame:010d}.png {truth} 721.5377\n'


@pytest.mark.parametrize('layout', ['train and val', 'one folder'])
@pytest.mark.parametrize('suffix', ['.txt', '.txt.gz'])
def test_kitti_by_a_list(tmp_path, monkeypatch, layout, suffix):
    """Eigen's lists name drives of both folders of the depth maps, and frames without one."""
    said = []
    monkeypatch.setattr('vit22b_dense.datasets.depth_list.print_log', lambda text, logger: said.append(text))
    depths = make_kitti(tmp_path) / 'data_depth_annotated'
    for split, other in (('train', DRIVES[1]), ('val', DRIVES[0])):
        shutil.rmtree(depths / split / other)
    if layout == 'one folder':
        for path in list(depths.glob('*/*')):
            path.rename(depths / path.name)
    text = ''.join(
        (
            kitti_line(DRIVES[1], 'image_02', 5),
            kitti_line(DRIVES[0], 'image_02', 4, depth=False),
            kitti_line(DRIVES[0], 'image_03', 5),
            kitti_line(DRIVES[1], 'image_03', 4, depth=False),
            kitti_line(DRIVES[0], 'image_02', 5),
        )
    )
    path = tmp_path / f'list{suffix}'
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith('gz') else text.encode())
    data = kitti(tmp_path, 'data_depth_annotated', ann_file=path.name)
    infos = [data.get_data_info(i) for i in range(len(data))]
    assert [(one['segment'], one['camera'], one['timestamp']) for one in infos] == [
        (DRIVES[1], 'image_02', 5),
        (DRIVES[0], 'image_03', 5),
        (DRIVES[0], 'image_02', 5),
    ]
    assert said == [f'{path}: 5 images, 2 of them left out: they have no depth map']
    for info, packed in zip(infos, data, strict=True):
        stored = np.asarray(Image.open(info['depth_path'])) / 256
        np.testing.assert_allclose(packed['data_samples'].gt_depth_map.data[0].numpy(), stored, rtol=1e-6)
        assert f'{info["segment"]}/{info["camera"]}' in info['img_path']
    assert len(kitti(tmp_path, 'data_depth_annotated', ann_file=path.name, cameras=['image_02'])) == 2
    subset = FewShotSubset(data, '1/2', seed=1)
    assert len({subset.get_data_info(i)['segment'] for i in range(len(subset))}) == 1


def test_a_list_that_does_not_fit_is_named(tmp_path):
    make_kitti(tmp_path)

    def read(content):
        (tmp_path / 'list.txt').write_bytes(content if isinstance(content, bytes) else content.encode())
        return kitti(tmp_path, 'data_depth_annotated', ann_file='list.txt')

    good = kitti_line(DRIVES[0], 'image_02', 5)
    assert len(read(good)) == 1
    with pytest.raises(DataError, match=r"list\.txt, line 2: 'a b'; expected are IMAGE DEPTH FOCAL_LENGTH"):
        read(f'{good}a b\n')
    with pytest.raises(DataError, match=r'list\.txt: names the drive 2011_09_28_drive_0009_sync, which is neither in'):
        read(good + kitti_line('2011_09_28_drive_0009_sync', 'image_02', 5))
    with pytest.raises(DataError, match=r'list\.txt: rgb/1\.png: not DRIVE/proj_depth'):
        read('a/b/image_02/data/1.png rgb/1.png 5\n')
    with pytest.raises(DataError, match='none of its 1 images has a depth map'):
        read(kitti_line(DRIVES[0], 'image_02', 5, depth=False))
    with pytest.raises(DataError, match='none of its 0 images'):
        read('')
    with pytest.raises(DataError, match='cannot be read as a list'):
        read(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=r'absent\.txt: no such list'):
        kitti(tmp_path, ann_file='absent.txt')
    (tmp_path / 'list.txt.gz').write_bytes(gzip.compress(good.encode())[:-9])
    with pytest.raises(DataError, match=r'list\.txt\.gz: cannot be read as a list'):
        kitti(tmp_path, ann_file='list.txt.gz')
    with pytest.raises(TypeError, match='ann_file'):
        WaymoDepthDataset(str(tmp_path), dict(img_path='training'), ann_file='list.txt')


@pytest.mark.parametrize(('name', 'images', 'without', 'drives'), [('test', 697, 45, 28), ('train', 23158, 0, 33)])
def test_eigens_split_as_it_is_distributed(shared_data, tmp_path, name, images, without, drives):
    path = shared_data('splits') / f'kitti_eigen_{name}.txt.gz'
    lines = [line.split() for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    assert len(lines) == images
    for _, depth, _ in lines:
        if depth != 'None':
            (tmp_path / 'depth/val' / depth.split('/')[0]).mkdir(parents=True, exist_ok=True)
    data = kitti(tmp_path, 'depth', ann_file=str(path))
    assert len(data) == images - without
    segments = [data.get_data_info(i)['segment'] for i in range(len(data))]
    assert len(set(segments)) == drives
    subset = FewShotSubset(data, '1/16')
    kept = {subset.get_data_info(i)['segment'] for i in range(len(subset))}
    assert len(kept) == round(drives / 16)
    assert len(subset) == sum(segment in kept for segment in segments)


def make_nyu(root: Path, scenes=('kitchen_0028b', 'study_0003', 'bath_1', 'bath_2')) -> Path:
    """Scenes of two frames of 48x64, depth in millimetres up to 12 m; the list's paths begin with a slash."""
    rng = np.random.default_rng(0)
    lines = []
    for scene in scenes:
        for frame in (7, 45):
            write_image(root / f'sync/{scene}/rgb_{frame:05d}.jpg', rng.integers(0, 256, (48, 64, 3), np.uint8))
            depth = rng.integers(0, 12_000, (48, 64)).astype(np.uint16)
            write_image(root / f'sync/{scene}/sync_depth_{frame:05d}.png', depth)
            lines.append(f'/{scene}/rgb_{frame:05d}.jpg /{scene}/sync_depth_{frame:05d}.png 518.8579\n')
    (root / 'nyu_train.txt').write_text(''.join(lines))
    return root


def nyu(root, **more) -> NYUDepthDataset:
    prefix = dict(img_path='sync', depth_path='sync')
    loading = [dict(type='LoadImage'), dict(type='LoadDepthPNG', scale=1000.0), dict(type='PackDepthInputs')]
    arguments = dict(ann_file='nyu_train.txt', pipeline=loading) | more
    return DATASETS.build(dict(type='NYUDepthDataset', data_root=str(root), data_prefix=prefix, **arguments))


def test_nyu_by_its_list(tmp_path):
    data = nyu(make_nyu(tmp_path))
    assert len(data) == 8
    packed = data[3]
    sample = packed['data_samples']
    assert sample.img_path == str(tmp_path / 'sync/study_0003/rgb_00045.jpg')
    assert sample.segment == 'study_0003'
    stored = np.asarray(Image.open(tmp_path / 'sync/study_0003/sync_depth_00045.png'))
    np.testing.assert_allclose(sample.gt_depth_map.data[0].numpy(), stored / 1000, rtol=1e-6)
    assert packed['inputs'].shape[1:] == (48, 64)
    halves = [FewShotSubset(data, fraction, seed=2) for fraction in ('1/4', '1/2')]
    kept = [{half.get_data_info(i)['segment'] for i in range(len(half))} for half in halves]
    assert [len(half) for half in halves] == [2, 4]
    assert kept[0] < kept[1]
    assert len(kept[1]) == 2
    with pytest.raises(TypeError, match='ann_file'):
        NYUDepthDataset(str(tmp_path), dict(img_path='sync', depth_path='sync'))


@pytest.mark.parametrize(('name', 'images', 'scenes'), [('test', 654, 16), ('train', 24231, 284)])
def test_nyus_lists_as_they_are_distributed(shared_data, tmp_path, name, images, scenes):
    path = shared_data('splits') / f'nyu_{name}.txt.gz'
    assert len(read_depth_list(path)) == images
    data = nyu(tmp_path, ann_file=str(path))
    assert len(data) == images
    found = [data.get_data_info(i) for i in range(0, images, 50)]
    assert all(str(tmp_path / 'sync' / info['segment']) == str(Path(info['img_path']).parent) for info in found)
    subset = FewShotSubset(data, '1/2')
    assert len({subset.get_data_info(i)['segment'] for i in range(len(subset))}) == scenes / 2
