"""The depth metric against brute force, over processes, and in bounded memory; the constant answers beside it."""

import os
import warnings

import cv2
import numpy as np
import pytest
import torch
from mmseg.evaluation import DepthMetric
from mmseg.registry import METRICS

from vit22b_dense.evaluation import MeanDepthMetric, SparseDepthMetric
from vit22b_dense.evaluation.companions import companions, summary
from vit22b_dense.evaluation.depth_metric import SCORES
from vit22b_dense.warm import warm_context

NAMES = list(SCORES)


def brute_force(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """The scores of some pixels, by their definitions."""
    ratio = np.maximum(pred / gt, gt / pred)
    log = np.log(pred) - np.log(gt)
    return {
        'mse_log': np.mean((np.log(1 + pred) - np.log(1 + gt)) ** 2),
        'abs_rel': np.mean(np.abs(pred - gt) / gt),
        'sq_rel': np.mean((pred - gt) ** 2 / gt),
        'rmse': np.sqrt(np.mean((pred - gt) ** 2)),
        'rmse_log': np.sqrt(np.mean(log**2)),
        'log10': np.mean(np.abs(np.log10(pred) - np.log10(gt))),
        'delta_1.1': np.mean(ratio < 1.1),
        'delta_1.25': np.mean(ratio < 1.25),
        'delta_1.25^2': np.mean(ratio < 1.25**2),
        'delta_1.25^3': np.mean(ratio < 1.25**3),
        'silog': 100 * np.std(log),
    }


def sample(pred: np.ndarray, gt: np.ndarray | None, **meta) -> dict:
    found = dict(pred_depth_map=dict(data=torch.from_numpy(pred)[None]), **meta)
    if gt is not None:
        found['gt_depth_map'] = dict(data=torch.from_numpy(gt)[None])
    return found


def random_case(rng: np.random.Generator, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps with few points, one, or none; zero and inf in both; beyond the range."""
    shape = tuple(rng.integers(1, 9, 2))
    gt = rng.uniform(0.1, 100, shape) * (rng.random(shape) < rng.choice([0.1, 0.5, 1]))
    pred = gt * rng.lognormal(0, 0.3, shape) + (gt == 0) * rng.uniform(0, 90, shape)
    if i % 7 == 0:
        gt[:] = 0
    if i % 5 == 0:
        gt[rng.integers(shape[0]), rng.integers(shape[1])] = np.inf
        pred[rng.integers(shape[0]), rng.integers(shape[1])] = rng.choice([0, np.inf])
    if i % 3 == 0:
        keep = gt.flat[0]
        gt[:], gt.flat[0] = 0, keep
    return pred.astype(np.float32), gt.astype(np.float32)


def test_equals_brute_force_on_a_thousand_cases():
    rng = np.random.default_rng(0)
    metric = SparseDepthMetric(max_depth=80, min_depth=0.5)
    pixels, images, cameras = [], [], {'FRONT': [], 'SIDE': []}
    empty = 0
    for i in range(1000):
        pred, gt = random_case(rng, i)
        camera = ('FRONT', 'SIDE')[i % 2]
        metric.process({}, [sample(pred, gt, camera=camera)])
        valid = np.isfinite(gt) & (gt > 0.5) & (gt <= 80)
        p, g = np.clip(pred[valid].astype(np.float64), 0.5, 80), gt[valid].astype(np.float64)
        empty += not len(g)
        if len(g):
            pixels.append((p, g))
            cameras[camera].append((p, g))
            images.append(brute_force(p, g))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = metric.evaluate(1000)
    assert empty > 150
    assert sum(len(g) == 1 for _, g in pixels) > 100
    assert (found['images'], found['images_without_gt']) == (1000, empty)
    p, g = (np.concatenate(x) for x in zip(*pixels, strict=True))
    assert found['pixels'] == len(g)
    expected = {f'pixel/{k}': v for k, v in brute_force(p, g).items()}
    expected |= {f'image/{k}': np.mean([one[k] for one in images]) for k in NAMES}
    expected |= {k: expected[f'pixel/{k}'] for k in NAMES}
    for low, high in ((0, 20), (20, 40), (40, 80)):
        near = (g > low) & (g <= high)
        expected |= {f'{low}-{high}m/pixel/{k}': v for k, v in brute_force(p[near], g[near]).items()}
        own = [brute_force(a[m], b[m]) for a, b in pixels if (m := (b > low) & (b <= high)).any()]
        expected |= {f'{low}-{high}m/image/{k}': np.mean([one[k] for one in own]) for k in NAMES}
    for camera, parts in cameras.items():
        a, b = (np.concatenate(x) for x in zip(*parts, strict=True))
        expected |= {f'camera {camera}/pixel/{k}': v for k, v in brute_force(a, b).items()}
        own = [brute_force(*part) for part in parts]
        expected |= {f'camera {camera}/image/{k}': np.mean([one[k] for one in own]) for k in NAMES}
    del found['images'], found['images_without_gt'], found['pixels']
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert abs(expected['pixel/abs_rel'] - expected['image/abs_rel']) > 1e-3


def test_nothing_to_compare_with_is_reported_not_scored():
    metric = SparseDepthMetric()
    metric.process({}, [sample(np.ones((3, 4), np.float32), gt) for gt in (None, np.zeros((3, 4), np.float32))])
    found = metric.evaluate(2)
    assert (found['images'], found['images_without_gt'], found['pixels']) == (2, 2, 0)
    assert np.isnan(found['pixel/abs_rel'])
    assert np.isnan(found['image/rmse'])


def test_a_prediction_that_is_no_number_is_not_hidden():
    metric = SparseDepthMetric()
    metric.process({}, [sample(np.full((2, 2), np.nan, np.float32), np.ones((2, 2), np.float32))])
    found = metric.evaluate(1)
    assert all(np.isnan(found[f'pixel/{name}']) for name in NAMES)


@pytest.mark.parametrize('cap', [80, 50])
@pytest.mark.parametrize(('crop', 'inside'), [('garg', np.s_[153:371, 44:1197]), ('eigen', np.s_[124:342, 44:1197])])
def test_kittis_crops_and_caps(crop, inside, cap):
    """The slices of a 375x1242 image as KITTI's evaluations write them."""
    rng = np.random.default_rng(0)
    gt = rng.uniform(1, 100, (375, 1242)).astype(np.float32)
    pred = (gt * rng.lognormal(0, 0.2, gt.shape)).astype(np.float32)
    metric = SparseDepthMetric(crop=crop, max_depth=cap)
    metric.process({}, [sample(pred, gt)])
    p, g = pred[inside].ravel(), gt[inside].ravel()
    p, g = np.clip(p[g <= cap], 1e-3, cap).astype(float), g[g <= cap].astype(float)
    found = metric.evaluate(1)
    assert found['pixels'] == len(g)
    assert {k: found[f'pixel/{k}'] for k in NAMES} == pytest.approx(brute_force(p, g))
    far = g > 40
    assert found[f'40-{cap}m/pixel/rmse'] == pytest.approx(brute_force(p[far], g[far])['rmse'])
    with pytest.raises(ValueError, match='differ in size'):
        metric.process({}, [sample(pred[:5], gt)])


def test_a_protocol_that_does_not_exist_is_refused():
    for kind in (SparseDepthMetric, MeanDepthMetric):
        with pytest.raises(ValueError, match="crop='gart': choose one of garg, eigen, nyu"):
            kind(crop='gart')
        with pytest.raises(ValueError, match="average='images': choose one of pixel, image"):
            kind(average='images')


def test_nyu_equals_mmsegs_metric():
    """Crop, cap and the average over images; mmseg's silog is another one."""
    rng = np.random.default_rng(0)
    ours, theirs = (
        SparseDepthMetric(crop='nyu', max_depth=10, average='image'),
        DepthMetric(crop_type='nyu_crop', min_depth_eval=1e-3, max_depth_eval=10),
    )
    for share in (0.05, 0.3, 1):
        gt = (rng.uniform(0.5, 12, (480, 640)) * (rng.random((480, 640)) < share)).astype(np.float32)
        pred = np.clip(gt * rng.lognormal(0, 0.2, gt.shape) + share, 0.1, 10).astype(np.float32)
        for metric in (ours, theirs):
            metric.process({}, [sample(pred, gt)])
    found, expected = ours.evaluate(3), theirs.evaluate(3)
    names = {f'd{i}': f'delta_1.25{power}' for i, power in enumerate(('', '^2', '^3'), 1)}
    for name in set(expected) - {'silog'}:
        assert found[names.get(name, name)] == pytest.approx(expected[name], rel=1e-4), name
    assert found['pixel/sq_rel'] != pytest.approx(found['sq_rel'], rel=0.05)


@pytest.mark.parametrize('average', ['pixel', 'image'])
def test_a_bare_score_is_the_protocols_average(average, monkeypatch):
    said = []
    monkeypatch.setattr('vit22b_dense.evaluation.depth_metric.print_log', lambda text, logger: said.append(text))
    metric = SparseDepthMetric(average=average)
    near, far = np.full((2, 3), 5, np.float32), np.full((20, 30), 50, np.float32)
    metric.process({}, [sample(near + 5, near), sample(far + 5, far)])
    found = metric.evaluate(2)
    assert found['pixel/abs_rel'] == pytest.approx((6 * 1 + 600 * 0.1) / 606)
    assert found['image/abs_rel'] == pytest.approx((1 + 0.1) / 2)
    assert {name: found[name] for name in NAMES} == {name: found[f'{average}/{name}'] for name in NAMES}
    assert f"a score without either is '{average}'" in said[0]
    config = dict(type='SparseDepthMetric', max_depth=80, average=average)
    beside = METRICS.build(next(c for c in companions([config]) if c['type'] == 'MeanDepthMetric'))
    beside.process({}, [sample(near, near), sample(far, far)])
    constant = beside.evaluate(2)
    line = summary(found | constant)
    assert line.startswith(f'abs_rel {found["abs_rel"]:.3f} ({constant["mean_depth/abs_rel"]:.3f}), rmse 5.000')
    assert line.endswith({'pixel': 'over all pixels', 'image': "mean of the images' own scores"}[average])


def test_the_protocol_is_printed(monkeypatch):
    said = []
    monkeypatch.setattr('vit22b_dense.evaluation.depth_metric.print_log', lambda text, logger: said.append(text))
    metric = SparseDepthMetric(crop='garg', max_depth=80)
    ones = np.ones((20, 30), np.float32)
    metric.process({}, [sample(ones, ones, camera='image_02'), sample(ones, 0 * ones)])
    metric.evaluate(2)
    assert 'garg crop; ground truth in (0.001, 80] m, predictions cut to it' in said[0]
    assert 'resolution of the ground truth (30x20 pixels)' in said[0]
    assert '2 images, 1 of them without ground truth' in said[0]
    assert "'pixel' averages over all pixels" in said[0]
    assert 'camera image_02' in said[0]


@pytest.mark.parametrize(
    ('images', 'segment', 'written'),
    [
        (['d/raw/D/S/image_02/data/5.png', 'd/raw/D/S/image_03/data/5.png'], 'S', 'S/image_0{}/data/5.png'),
        (['d/training/S/9_2.jpg', 'd/training/S/9_3.jpg'], 'S', 'S/9_{}.png'),
        (['d/2.jpg', 'd/3.jpg'], None, '{}.png'),
    ],
)
def test_each_prediction_is_written_to_a_file_of_its_own(tmp_path, images, segment, written):
    metric = SparseDepthMetric(output_dir=str(tmp_path))
    for depth, image in enumerate(images, 2):
        meta = dict(img_path=image) if segment is None else dict(img_path=image, segment=segment)
        metric.process({}, [sample(np.full((4, 5), depth, np.float32), None, **meta)])
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.png')} == {written.format(i) for i in (2, 3)}
    for depth in (2, 3):
        stored = cv2.imread(str(tmp_path / written.format(depth)), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, np.full((4, 5), depth * 256, np.uint16))


def test_memory_does_not_grow_with_images():
    def held(value, seen) -> int:
        """Bytes of everything reachable."""
        if id(value) in seen:
            return 0
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            return value.nbytes
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            parts = value
        else:
            parts = vars(value).values() if hasattr(value, '__dict__') else []
        return 64 + sum(held(part, seen) for part in parts)

    limits = ((SparseDepthMetric(), 10**5), (MeanDepthMetric(), 2 * 10**5), (MeanDepthMetric(average='image'), 10**6))
    for metric, limit in limits:
        sizes = []
        for i in range(60):
            gt = np.full((50, 60), 1 + i % 60, np.float32)
            metric.process({}, [sample(gt, gt, camera='FRONT')])
            sizes.append(held(vars(metric), set()))
        assert abs(sizes[-1] - sizes[45]) < 500
        assert sizes[-1] < limit


@pytest.mark.parametrize('average', ['pixel', 'image'])
def test_mean_depth_equals_the_metric_of_a_constant_map(average):
    rng = np.random.default_rng(0)
    maps = [np.round(rng.uniform(1, 2 + 11 * i, (20, 30)) * (rng.random((20, 30)) < i / 10), 2) for i in range(9)]
    maps = [m.astype(np.float32) for m in maps]
    metric = MeanDepthMetric(max_depth=80, average=average)
    for gt in maps:
        metric.process({}, [sample(gt, gt)])
    found = metric.evaluate(9)
    seen = [m[(m > 0) & (m <= 80)].astype(float) for m in maps]
    seen = [gt for gt in seen if len(gt)]
    assert len(seen) == 8
    mean, mean_log = np.concatenate(seen).mean(), np.log1p(np.concatenate(seen)).mean()
    if average == 'image':
        mean, mean_log = np.mean([gt.mean() for gt in seen]), np.mean([np.log1p(gt).mean() for gt in seen])
    for name, constant in (('mean_depth', mean), ('mean_log_depth', np.expm1(mean_log))):
        assert found[f'{name}/metres'] == pytest.approx(constant, abs=0.02)
        own = SparseDepthMetric(max_depth=80, average=average)
        for m in maps:
            own.process({}, [sample(np.full_like(m, found[f'{name}/metres']), m)])
        expected = own.evaluate(9)
        for key in NAMES:
            assert found[f'{name}/{key}'] == pytest.approx(expected[key], rel=0.01, abs=1e-3), key
    assert found['mean_log_depth/mse_log'] < found['mean_depth/mse_log']


def cases(count: int) -> list[dict]:
    rng = np.random.default_rng(3)
    return [sample(*random_case(rng, i), camera=f'C{i % 3}') for i in range(count)]


def _evaluate_in_a_process(rank: int, world: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world)
    turns = -(-count // world)
    places = [(i * world + rank) % count for i in range(turns)]  # as mmengine's sampler deals them out
    data, found = cases(count), []
    for metric in (SparseDepthMetric(), MeanDepthMetric(), MeanDepthMetric(average='image')):
        for place in places:
            metric.process({}, [data[place]])
        found.append(metric.evaluate(count))
    torch.save(found, f'{folder}/{rank}.pt')
    torch.distributed.barrier()
    os._exit(0)


@pytest.mark.parametrize(('world', 'count'), [(2, 7), (2, 1)])
def test_processes_give_what_one_gives(tmp_path, world, count):
    alone = []
    for metric in (SparseDepthMetric(), MeanDepthMetric(), MeanDepthMetric(average='image')):
        metric.process({}, cases(count))
        alone.append(metric.evaluate(count))
    context = warm_context()
    workers = [
        context.Process(target=_evaluate_in_a_process, args=(rank, world, count, str(tmp_path)))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    for rank in range(world):
        for found, expected in zip(torch.load(tmp_path / f'{rank}.pt'), alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_the_sampler_deals_as_the_metric_assumes(monkeypatch):
    from mmengine.dataset import DefaultSampler

    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        assert list(DefaultSampler(range(5), shuffle=False)) == [(i * 2 + rank) % 5 for i in range(3)]
