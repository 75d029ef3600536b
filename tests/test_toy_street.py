"""The toy street: exact geometry, nothing lost by culling, a data set that mmsegmentation reads as ADE20K."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import ADE20KDataset

from vit22b_dense.demo import raycast
from vit22b_dense.demo.ade import ADE_VALUE, AdeSet
from vit22b_dense.demo.parts import BOX, CYLINDER, ELLIPSOID, Label, Material, Part, place
from vit22b_dense.demo.raycast import Street, noise
from vit22b_dense.demo.render import Camera, render, sample_light, sample_view, shade
from vit22b_dense.demo.scene import make_street
from vit22b_dense.errors import UserError

GROUND = Part(Label.ROAD).box((-500, -500, -1), (500, 500, 0))
SMALL = (56, 84)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def level_camera(height: float, yaw: float = 0.0) -> Camera:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[2, 3] = height
    return Camera(84, 56, 70.0, pose)


def reference_hit(street: Street, origin: np.ndarray, direction: np.ndarray) -> tuple[float, int]:
    """Nearest hit of one ray by trying every solid, with formulas of its own: quadrics and half spaces."""
    nearest, owner = np.inf, -1
    for p in range(len(street.kind)):
        to = origin - street.centre[p]
        # Each condition is a pair (near, far) of ray parameters between which it holds.
        spans = []
        inverse = np.linalg.inv(street.axes[p])
        if street.kind[p] != BOX:
            rows = inverse if street.kind[p] == ELLIPSOID else inverse[:2]
            form = rows.T @ rows
            roots = np.roots([direction @ form @ direction, 2 * direction @ form @ to, to @ form @ to - 1])
            if np.iscomplexobj(roots) or len(roots) < 2:
                continue
            spans.append(sorted(roots))
        for row in {BOX: inverse, ELLIPSOID: (), CYLINDER: inverse[2:]}[street.kind[p]]:
            spans.append(sorted([(-1 - row @ to) / (row @ direction), (1 - row @ to) / (row @ direction)]))
        near, far = max(s[0] for s in spans), min(s[1] for s in spans)
        for t in (near, far) if near <= far else ():
            leaves = street.material[p] == Material.LEAVES
            hole = leaves and noise((origin + t * direction)[None], 0.07)[0] < 0.36
            if 1e-6 < t < nearest and not hole:
                nearest, owner = t, p
    return nearest, owner


@pytest.fixture(scope='module')
def street() -> Street:
    return make_street(3)


@pytest.fixture(scope='module')
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('toy') / 'street'
    assert AdeSet(root, 3, 2, SMALL, seed=1).write() == 5
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def test_ground_is_hit_where_the_plane_is() -> None:
    rng = np.random.default_rng(0)
    directions = unit(rng.normal(size=(500, 3)) * (1, 1, 0.5) - (0, 0, 1.0))
    directions = directions[directions[:, 2] < -0.05]
    origins = rng.uniform((-5, -5, 0.5), (5, 5, 3), directions.shape)
    hits = Street([GROUND]).cast(origins, directions)
    np.testing.assert_allclose(hits.distance, origins[:, 2] / -directions[:, 2], rtol=1e-9)
    np.testing.assert_allclose(hits.points[:, 2], 0, atol=1e-9)
    np.testing.assert_allclose(hits.normal, np.broadcast_to((0.0, 0.0, 1.0), hits.normal.shape), atol=1e-12)
    assert (hits.label == Label.ROAD).all()


def test_depth_of_the_ground_is_that_of_a_pinhole_camera() -> None:
    camera = level_camera(1.7)
    rng = np.random.default_rng(0)
    frame = render(Street([GROUND]), camera, rng, sample_light(rng))
    below = np.arange(camera.height) + 0.5 - camera.height / 2
    # Below the horizon depth = height * f / rows below it, whatever the column.
    expected = np.where(below > 0, 1.7 * camera.f / np.where(below > 0, below, 1), 0)
    np.testing.assert_allclose(frame.depth, np.broadcast_to(expected[:, None], frame.depth.shape), rtol=1e-6)
    assert ((frame.label == Label.SKY) == (frame.depth == 0)).all()
    assert frame.image.dtype == frame.label.dtype == np.uint8
    assert frame.depth.dtype == np.float32


def test_turned_box_is_hit_where_the_slabs_say() -> None:
    yaw, half, centre = 0.4, np.array([2.0, 0.9, 0.7]), np.array([9.0, 1.0, 1.1])
    box = place([Part(Label.CAR).box(tuple(-half), tuple(half))], *centre, yaw, 1)
    rng = np.random.default_rng(1)
    directions = unit(np.array([1.0, 0.1, 0.0]) + rng.normal(0, 0.12, (400, 3)))
    origin = np.array([0.0, 0.0, 1.2])
    hits = Street(box).cast(np.broadcast_to(origin, directions.shape), directions)
    axes = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    o, d = axes @ (origin - centre), directions @ axes.T
    faces = np.sort(np.stack([(-half - o) / d, (half - o) / d]), axis=0)
    near, far = faces[0].max(axis=1), faces[1].min(axis=1)
    expected = np.where(near <= far, near, np.inf)
    assert 50 < np.isfinite(expected).sum() < 350
    np.testing.assert_allclose(hits.distance, expected, rtol=1e-9)
    hit = np.isfinite(expected)
    face = np.take_along_axis(axes, faces[0].argmax(axis=1)[:, None], axis=0)
    np.testing.assert_allclose(np.abs(np.einsum('ij,ij->i', hits.normal, face))[hit], 1, atol=1e-9)


@pytest.mark.parametrize('kind', [ELLIPSOID, CYLINDER])
def test_normals_of_round_solids_are_perpendicular_to_the_surface(kind: int) -> None:
    part = Part(Label.PERSON).rod((5, -0.3, 0.2), (5.5, 0.4, 2.0), 0.6, kind)
    rng = np.random.default_rng(2)
    directions = unit(part.centre + rng.normal(0, 0.6, (400, 3)))
    hits = Street([part]).cast(np.zeros_like(directions), directions)
    seen = np.flatnonzero(hits.primitive == 0)
    assert 100 < len(seen) < 390
    # A small step across the normal leaves the surface by a second order only.
    step = 1e-5
    side = unit(np.cross(hits.normal[seen], (0.3, 0.5, 0.8)))
    moved = np.linalg.solve(part.axes, (hits.points[seen] + step * side - part.centre).T).T
    radius = np.linalg.norm(moved[:, : 3 if kind == ELLIPSOID else 2], axis=1)
    if kind == CYLINDER:
        assert (np.abs(moved[:, 2]) > radius).sum() > 10
    level = radius if kind == ELLIPSOID else np.maximum(radius, np.abs(moved[:, 2]))
    assert np.abs(level - 1).max() < 1e-8
    assert (np.einsum('ij,ij->i', hits.normal, directions)[seen] < 0).all()


def test_depth_is_distance_along_the_optical_axis(street: Street) -> None:
    rng = np.random.default_rng(4)
    camera = sample_view(rng, SMALL)
    frame = render(street, camera, rng, sample_light(rng))
    rays = camera.rays()
    hits = street.cast(np.broadcast_to(camera.pose[:3, 3], rays.shape), rays)
    in_camera = np.einsum('ji,nj->ni', camera.pose[:3, :3], hits.points - camera.pose[:3, 3])
    expected = np.where(np.isfinite(hits.distance), in_camera[:, 0], 0).reshape(SMALL)
    np.testing.assert_allclose(frame.depth, expected, rtol=1e-5)
    assert (frame.label == hits.label.reshape(SMALL)).all()
    # And a hit lies on the ray through its pixel's centre.
    u = SMALL[1] / 2 - camera.f * in_camera[:, 1] / in_camera[:, 0]
    v = SMALL[0] / 2 - camera.f * in_camera[:, 2] / in_camera[:, 0]
    row, column = np.divmod(np.flatnonzero(hits.primitive >= 0), SMALL[1])
    np.testing.assert_allclose(u[hits.primitive >= 0], column + 0.5, atol=1e-6)
    np.testing.assert_allclose(v[hits.primitive >= 0], row + 0.5, atol=1e-6)


def test_left_is_left_and_up_is_up() -> None:
    left = Part(Label.CAR).box((9, 1, 2), (10, 2, 3))
    rng = np.random.default_rng(0)
    label = render(Street([GROUND, left]), level_camera(1.5), rng, sample_light(rng)).label
    rows, columns = np.nonzero(label == Label.CAR)
    assert len(rows)
    assert columns.max() < 42
    assert rows.max() < 28


def test_culling_loses_nothing(street: Street, monkeypatch) -> None:
    # So that many rays are cast in several goes.
    monkeypatch.setattr(raycast, '_BLOCKS_AT_ONCE', 20)
    rng = np.random.default_rng(5)
    count = 6000
    camera = sample_view(rng, (224, 320))
    view = camera.rays()[rng.choice(224 * 320, count, replace=False)]
    # A LiDAR's full turn, rays with nothing in common, and the sun's parallel rays.
    azimuth, inclination = rng.uniform(-np.pi, np.pi, count), rng.uniform(-0.4, 0.1, count)
    flat = np.cos(inclination)
    scan = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(inclination)], axis=1)
    spread = rng.uniform((-40, -15, 0.05), (120, 15, 12), (count, 3))
    casts = [
        (np.broadcast_to(camera.pose[:3, 3], view.shape), view),
        (np.array([1.4, 0, 2.1]) + rng.normal(0, 0.03, scan.shape), scan),
        (spread, unit(rng.normal(size=(count, 3)))),
        (spread, np.broadcast_to(unit(np.array([0.5, -0.4, 0.6])), spread.shape)),
    ]
    for origins, directions in casts:
        hits = street.cast(origins, directions)
        assert 0.1 < np.isfinite(hits.distance).mean() <= 1
        for i in rng.choice(count, 12, replace=False):
            distance, owner = reference_hit(street, origins[i], directions[i])
            assert hits.distance[i] == pytest.approx(distance, rel=1e-6, abs=1e-6)
            if owner >= 0 and hits.primitive[i] != owner:
                # Faces that lie in one plane: either may win.
                assert street.label[hits.primitive[i]] == street.label[owner]


def test_culling_changes_no_bit(street: Street, monkeypatch) -> None:
    rng = np.random.default_rng(6)
    rays = sample_view(rng, SMALL).rays()
    eye = np.broadcast_to((0.5, 0.2, 1.6), rays.shape)
    culled = street.cast(eye, rays)
    ground = np.flatnonzero(culled.primitive >= 0)
    start = culled.points[ground] + 2e-3 * culled.normal[ground]
    sun = np.broadcast_to(unit(np.array([0.5, -0.4, 0.6])), start.shape)
    blocked = street.blocked(start, sun)
    assert 0.1 < blocked.mean() < 0.9

    def everything(self, o, d, count):
        block, part = (v.ravel() for v in np.indices((count, len(self.kind))))
        return part, block, np.zeros(len(part))

    monkeypatch.setattr(Street, '_candidates', everything)
    whole = street.cast(eye, rays)
    np.testing.assert_array_equal(culled.distance, whole.distance)
    np.testing.assert_array_equal(culled.label, whole.label)
    np.testing.assert_array_equal(blocked, street.nearest(start, sun)[1] >= 0)


def test_a_ray_from_inside_hits_the_far_side_facing_it() -> None:
    room = Part(Label.BUILDING).box((-2, -3, 0), (4, 3, 5))
    hits = Street([room]).cast(np.array([[0.0, 0.0, 1.0]] * 2), np.array([[1.0, 0, 0], [0, 0, -1.0]]))
    np.testing.assert_allclose(hits.distance, [4, 1])
    np.testing.assert_allclose(hits.normal, [[-1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_a_ray_does_not_depend_on_its_neighbours(street: Street) -> None:
    rays = level_camera(1.6).rays()
    origins = np.broadcast_to((0.0, 0.0, 1.6), rays.shape)
    together = street.cast(origins, rays)
    some = np.random.default_rng(0).permutation(len(rays))[:777]
    alone = street.cast(origins[some], rays[some])
    np.testing.assert_array_equal(alone.distance, together.distance[some])
    np.testing.assert_array_equal(alone.label, together.label[some])
    for count in (1, 300):
        same = street.cast(*(np.repeat(v[3000:3001], count, axis=0) for v in (origins, rays)))
        assert set(same.distance) == {together.distance[3000]}


@pytest.mark.parametrize('count', [2, 64])
def test_few_rays_meet_leaves_as_many_do(street: Street, count: int) -> None:
    rng = np.random.default_rng(7)
    leaves = rng.permutation(np.flatnonzero(street.material == Material.LEAVES))[:128]
    origins = rng.uniform((0, -1, 1), (5, 1, 2), (len(leaves), 3))
    directions = unit(street.centre[leaves] - origins)
    many, few = street.cast(origins, directions), street.cast(origins[:count], directions[:count])
    assert (street.material[many.primitive] == Material.LEAVES).mean() > 0.1
    np.testing.assert_array_equal(few.distance, many.distance[:count])
    np.testing.assert_array_equal(few.primitive, many.primitive[:count])


def test_cast_refuses_what_are_not_rays(street: Street) -> None:
    with pytest.raises(ValueError, match=r'\(N, 3\)'):
        street.cast(np.zeros((4, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match='unit length'):
        street.cast(np.zeros((4, 3)), np.full((4, 3), 2.0))
    assert len(street.cast(np.zeros((0, 3)), np.zeros((0, 3))).distance) == 0


def test_shadow_falls_away_from_the_sun() -> None:
    block = Part(Label.BUILDING).box((9, -1, 0), (11, 1, 2))
    street = Street([GROUND, block])
    light = sample_light(np.random.default_rng(0))
    light = light._replace(sun=unit(np.array([0.0, 1.0, 1.0])), haze=0.0)
    # Both on the ground one metre beside the block: on the sun's side and on the other.
    targets = np.array([[10.0, 2.0, 0.0], [10.0, -2.0, 0.0]])
    eye = np.array([[10.0, 0.0, 30.0]] * 2)
    directions = unit(targets - eye)
    sunny, shaded = shade(street, light, directions, street.cast(eye, directions), 1e-3).sum(axis=1)
    assert sunny > 1.5 * shaded > 0


@pytest.mark.parametrize('seed', range(4))
def test_the_ego_vehicle_stands_free(seed: int) -> None:
    rng = np.random.default_rng(seed)
    origins = np.repeat(rng.uniform((-2, -1.2, 1.2), (3, 1.2, 2.2), (12, 3)), 100, axis=0)
    hits = make_street(seed).cast(origins, unit(rng.normal(size=origins.shape)))
    assert hits.distance.min() > 0.2


def test_views_vary_within_their_bounds() -> None:
    views = [sample_view(np.random.default_rng(i), SMALL) for i in range(200)]
    heights = np.array([v.pose[2, 3] for v in views])
    fields = np.degrees([2 * np.arctan(v.width / 2 / v.f) for v in views])
    assert 1.2 <= heights.min() < 1.3 < 2.1 < heights.max() <= 2.2
    assert 50 <= fields.min() < 53 < 77 < fields.max() <= 80
    for view in views[:20]:
        np.testing.assert_allclose(view.pose[:3, :3] @ view.pose[:3, :3].T, np.eye(3), atol=1e-12)


def test_all_classes_are_common() -> None:
    shares = []
    for index in range(1, 13):
        _, annotation = AdeSet(Path(), 1, 0, SMALL, 0).frame('training', index)
        shares.append(np.bincount(annotation.ravel(), minlength=22) / annotation.size)
    shares = np.array(shares)
    assert set(np.flatnonzero(shares.sum(axis=0))) <= set(ADE_VALUE.values())
    for label, value in ADE_VALUE.items():
        if label != Label.OTHER:
            assert shares[:, value].mean() > 0.005, label
            assert (shares[:, value] > 0).mean() > 0.7, label


def test_label_values_are_those_of_ade20k() -> None:
    classes = ADE20KDataset.METAINFO['classes']
    for label, value in ADE_VALUE.items():
        assert value == (0 if label == Label.OTHER else classes.index(label.name.lower()) + 1)


def test_files_do_not_depend_on_the_workers(small_set: Path, tmp_path: Path) -> None:
    seen = []
    assert AdeSet(tmp_path / 'two', 3, 2, SMALL, 1).write(workers=2, progress=lambda *at: seen.append(at)) == 5
    assert contents(tmp_path / 'two') == contents(small_set)
    assert seen == [(i, 5) for i in range(1, 6)]


def test_every_frame_has_its_own_scene(small_set: Path) -> None:
    files = contents(small_set)
    assert sorted(files) == sorted(
        [f'images/training/ADE_train_{i:08d}.jpg' for i in (1, 2, 3)]
        + [f'annotations/training/ADE_train_{i:08d}.png' for i in (1, 2, 3)]
        + [f'images/validation/ADE_val_{i:08d}.jpg' for i in (1, 2)]
        + [f'annotations/validation/ADE_val_{i:08d}.png' for i in (1, 2)]
        + ['toy_street.json']
    )
    assert len(set(files.values())) == len(files)
    again, other = (
        AdeSet(Path(), 1, 0, SMALL, 1).frame('training', 1),
        AdeSet(Path(), 1, 0, SMALL, 2).frame('training', 1),
    )
    stored = cv2.imread(str(small_set / 'annotations/training/ADE_train_00000001.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(again[1], stored)
    assert (other[1] != stored).mean() > 0.1


def test_mmseg_reads_it_as_ade20k(small_set: Path) -> None:
    data = ADE20KDataset(
        data_root=str(small_set),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    assert len(data) == 3
    for i in range(3):
        sample = data[i]
        image, annotation = AdeSet(Path(), 1, 0, SMALL, 1).frame('training', i + 1)
        # JPEG changes pixels, not pictures; mmseg reads BGR.
        assert np.abs(sample['img'][..., ::-1].astype(float) - image).mean() < 8
        expected = np.where(annotation == 0, 255, annotation.astype(int) - 1)
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)
        names = {data.metainfo['classes'][v] for v in np.unique(expected) if v != 255}
        assert {'road', 'building'} <= names


def test_a_complete_set_is_left_alone(small_set: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small_set.rglob('*')}
    assert AdeSet(small_set, 3, 2, SMALL, seed=1).write() == 0
    assert {p: p.stat().st_mtime_ns for p in small_set.rglob('*')} == before


def test_a_set_that_was_cut_off_is_completed(small_set: Path, tmp_path: Path) -> None:
    root = tmp_path / 'cut'

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AdeSet(root, 3, 2, SMALL, seed=1).write(progress=stop)
    assert len(contents(root)) == 1 + 2 * 2  # the parameters, two pictures and their labels
    with pytest.raises(UserError, match='other parameters'):
        AdeSet(root, 3, 2, SMALL, seed=2).write()
    assert AdeSet(root, 3, 2, SMALL, seed=1).write() == 3
    assert contents(root) == contents(small_set)


def test_other_contents_are_refused(small_set: Path, tmp_path: Path) -> None:
    foreign = tmp_path / 'ADEChallengeData2016'
    (foreign / 'images').mkdir(parents=True)
    (foreign / 'images/mine.jpg').write_bytes(b'mine')
    with pytest.raises(UserError, match='ADEChallengeData2016'):
        AdeSet(foreign, 1, 1, SMALL).write()
    assert contents(foreign) == {'images/mine.jpg': b'mine'}
    with pytest.raises(UserError, match='is a file'):
        AdeSet(foreign / 'images/mine.jpg', 1, 1, SMALL).write()
    before = contents(small_set)
    with pytest.raises(UserError, match='other parameters'):
        AdeSet(small_set, 4, 2, SMALL, seed=1).write()
    assert contents(small_set) == before
    broken = tmp_path / 'broken'
    broken.mkdir()
    (broken / 'toy_street.json').write_text('{')
    with pytest.raises(UserError, match='cannot be read'):
        AdeSet(broken, 1, 1, SMALL).write()


@pytest.mark.parametrize('wrong', [dict(num_train=-1), dict(size=(0, 5)), dict(workers=0), dict(seed=-1)])
def test_senseless_numbers_are_refused(tmp_path: Path, wrong: dict) -> None:
    arguments = dict(num_train=1, num_val=2, size=SMALL, workers=1) | wrong
    workers = arguments.pop('workers')
    with pytest.raises(UserError, match=next(iter(wrong))):
        AdeSet(tmp_path / 'never', **arguments).write(workers)
    assert not (tmp_path / 'never').exists()


def test_the_tool_says_what_it_wrote(tmp_path: Path, monkeypatch, capsys) -> None:
    path = Path(__file__).parents[1] / 'tools/make_toy_street.py'
    spec = importlib.util.spec_from_file_location('make_toy_street', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    out = tmp_path / 'street'
    command = [str(path), str(out), '--train', '1', '--val', '1', '--size', '28x42', '--workers', '1']
    monkeypatch.setattr(sys, 'argv', command)
    tool.main()
    printed = capsys.readouterr().out
    assert '2/2 frames, 0 s left' in printed
    assert str(out) in printed
    assert json.loads((out / 'toy_street.json').read_text())['size'] == [28, 42]
    assert cv2.imread(str(out / 'images/validation/ADE_val_00000001.jpg')).shape == (28, 42, 3)
    tool.main()
    assert 'already complete' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', [str(path), str(out), '--size', '28'])
    with pytest.raises(SystemExit):
        tool.main()
    assert 'HEIGHTxWIDTH' in capsys.readouterr().err
