"""The toy street in Waymo's schema: through the preparer it gives the depth that its cameras see."""

import json
import sys

import cv2
import numpy as np
import pytest
from conftest import REPO

from vit22b_dense.demo.made_set import seeded_street
from vit22b_dense.demo.render import Camera, render, sample_light
from vit22b_dense.demo.waymo import CAMERA_AIM, WaymoSet, street_from_vehicle
from vit22b_dense.errors import UserError
from vit22b_dense.waymo.prepare import Job, prepare
from vit22b_dense.waymo.types import Settings

SIZE = (96, 144)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """One training segment with a front and a side camera."""
    root = tmp_path_factory.mktemp('toy') / 'street'
    assert WaymoSet(root, 1, 0, SIZE, cameras=('FRONT', 'SIDE_LEFT')).write() == 1
    return root


def test_prepared_depth_is_what_the_camera_sees(made, tmp_path):
    totals = prepare(Job(made, tmp_path, 'training', Settings((1, 4), (1, 2, 3, 4, 5), (1,))), lambda line: None)
    assert str(totals).startswith('6 frames written, 0 of these without LiDAR points, 0 skipped')
    base = tmp_path / 'training'
    index = json.loads(next(base.glob('*/index.json')).read_text())
    street, rng = seeded_street(0, 1, 1, 22)
    light = sample_light(rng)
    eyes, _ = WaymoSet(made, 1, 0, SIZE, cameras=('FRONT', 'SIDE_LEFT')).sensors()
    for place, frame in enumerate(index['frames']):
        number = frame['camera']
        eye = eyes[number]
        pose = street_from_vehicle(place // 2, CAMERA_AIM[number][1]) @ eye.extrinsic
        camera = Camera(SIZE[1], SIZE[0], eye.intrinsic[0], pose)
        view = render(street, camera, np.random.default_rng(0), light)
        with np.load(base / frame['depth']) as stored:
            y, x, depth = stored['y'], stored['x'], stored['depth']
        assert len(depth) > 0.05 * SIZE[0] * SIZE[1]
        # A pixel here is as wide as 13 of Waymo's: compare with the nearest of the pixel and its neighbours.
        seen = np.where(view.depth > 0, view.depth, np.inf)
        near, far = cv2.erode(seen, np.ones((3, 3))), cv2.dilate(view.depth, np.ones((3, 3)))
        assert ((depth > 0.98 * near[y, x]) & (depth < 1.02 * far[y, x])).mean() > 0.97
        middle = np.abs(depth / view.depth[y, x].clip(1e-6) - 1) < 0.05
        assert middle.mean() > 0.75
        image = cv2.imread(str(base / frame['image']))
        assert image.shape == (*SIZE, 3)
        # The same picture but for its grain and the JPEG: about 4; one from 30 cm higher differs by 13 and more.
        assert np.abs(image[..., ::-1].astype(float) - view.image).mean() < 7


def test_sweep_moves_and_far_or_lost_rays_have_no_return(tmp_path):
    frame = next(WaymoSet(tmp_path, 0, 1, SIZE).frames('validation', 1))
    top = frame.scans[1]
    assert np.linalg.norm(top.pixel_pose[0, 0, 3:] - top.pixel_pose[0, -1, 3:]) == pytest.approx(0.6, abs=0.02)
    ranges = top.range_images[1][..., 0]
    assert ranges.max() < 75
    assert 0.3 < (ranges > 0).mean() < 0.97
    assert set(np.unique(top.projections[1][ranges <= 0])) == {0.0}
    assert all(scan.pixel_pose is None for n, scan in frame.scans.items() if n > 1)


def test_files_depend_on_seed_alone_and_are_completed(made, tmp_path):
    again = tmp_path / 'again'
    assert WaymoSet(again, 1, 0, SIZE, cameras=('FRONT', 'SIDE_LEFT')).write() == 1
    files = sorted(made.rglob('*.parquet'))
    assert len(files) == 7
    assert all(path.read_bytes() == (again / path.relative_to(made)).read_bytes() for path in files)
    assert WaymoSet(again, 1, 0, SIZE, cameras=('FRONT', 'SIDE_LEFT')).write() == 0
    (again / files[0].relative_to(made)).unlink()
    assert WaymoSet(again, 1, 0, SIZE, cameras=('FRONT', 'SIDE_LEFT')).write() == 1
    with pytest.raises(UserError, match='other parameters'):
        WaymoSet(again, 1, 0, SIZE).write()
    with pytest.raises(UserError, match=r"cameras=\['BACK'\]"):
        WaymoSet(tmp_path / 'never', 1, 0, SIZE, cameras=('BACK',)).write()


def test_the_tool_makes_it(tmp_path, monkeypatch, capsys):
    import runpy

    out = tmp_path / 'street'
    call = ['make_toy_street.py', str(out), '--format', 'waymo', '--train', '1', '--val', '0', '--size', '28x42',
            '--workers', '1']  # fmt: skip
    monkeypatch.setattr(sys, 'argv', call)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPO / 'tools/make_toy_street.py'), run_name='__main__')
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert '1/1 segments' in said
    assert 'next, tools/prepare_waymo.py' in said
    assert len(list(out.rglob('*.parquet'))) == 7
