"""Scores of depth against sparse ground truth, by running sums: memory does not grow with the images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable

from ..files import write_atomically

# How each score is better, in the order of the table.
SCORES = {
    'mse_log': 'lower',
    'abs_rel': 'lower',
    'sq_rel': 'lower',
    'rmse': 'lower',
    'rmse_log': 'lower',
    'log10': 'lower',
    'delta_1.1': 'higher',
    'delta_1.25': 'higher',
    'delta_1.25^2': 'higher',
    'delta_1.25^3': 'higher',
    'silog': 'lower',
}
_DELTAS = (1.1, 1.25, 1.25**2, 1.25**3)
# Top, bottom, left, right as shares of height and width. KITTI: Garg et al., arXiv 1603.04992, and Eigen et al., arXiv
# 1406.2283, with the numbers that monodepth's evaluation gives them. NYU Depth v2: Eigen et al., of 480x640 pixels.
CROPS = {
    'garg': (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    'eigen': (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    'nyu': (45 / 480, 471 / 480, 41 / 640, 601 / 640),
}
AVERAGES = ('pixel', 'image')
_SUMS = 12  # of `pixel_sums`


def pixel_sums(pred: np.ndarray, gt: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Sums over pixels from which `scores_of` makes all scores.

    Args:
        pred, gt: ``(N,)`` float64 metres, above 0.
        weight: ``(N,)``, how often each pixel counts.

    Returns:
        ``(12,)`` float64: count; squared error of ``log(1 + depth)``; relative error, squared error by depth, squared
        error in metres; absolute difference of the common logarithms; ratio below 1.1, 1.25, 1.25^2, 1.25^3;
        difference of the natural logarithms, and its square.
    """
    log = np.log(pred) - np.log(gt)
    ratio = np.maximum(pred / gt, gt / pred)
    rows = [
        np.ones_like(gt),
        (np.log1p(pred) - np.log1p(gt)) ** 2,
        np.abs(pred - gt) / gt,
        (pred - gt) ** 2 / gt,
        (pred - gt) ** 2,
        np.abs(log) / np.log(10),
        *(np.where(np.isnan(ratio), np.nan, ratio < limit) for limit in _DELTAS),
        log,
        log**2,
    ]
    return np.array([(row * weight).sum() for row in rows])


def scores_of(sums: np.ndarray) -> dict[str, float]:
    """The scores that `pixel_sums` stand for; NaN where no pixel was counted.

    ``silog`` is KITTI's: 100 times the standard deviation of the logarithms' difference.
    """
    count = sums[0]
    if not count:
        return dict.fromkeys(SCORES, float('nan'))
    mse_log, abs_rel, sq_rel, square, log10, *deltas, log, log_square = sums[1:] / count
    silog = 100 * max(log_square - log**2, 0) ** 0.5
    values = [mse_log, abs_rel, sq_rel, square**0.5, log_square**0.5, log10, *deltas, silog]
    return {name: float(value) for name, value in zip(SCORES, values, strict=True)}


class Protocol:
    """Which pixels are compared, with which bounds, and how their scores are averaged.

    Args:
        min_depth, max_depth: ground truth outside ``(min_depth, max_depth]`` is not compared, metres; predictions are
            cut to it.
        crop: None, or a key of `CROPS`.
        average: of `AVERAGES`: over all pixels together, or over the images' own scores (papers on KITTI and NYU).

    Raises:
        ValueError: an unknown crop or average, or bounds that are no range.
    """

    def __init__(self, min_depth: float, max_depth: float, crop: str | None, average: str = 'pixel') -> None:
        if average not in AVERAGES:
            raise ValueError(f'average={average!r}: choose one of {", ".join(AVERAGES)}')
        if crop is not None and crop not in CROPS:
            raise ValueError(f'crop={crop!r}: choose one of {", ".join(CROPS)}, or None')
        if not 0 < min_depth < max_depth < np.inf:
            raise ValueError(f'min_depth={min_depth}, max_depth={max_depth}: must be 0 < min < max, in metres, finite')
        self.min_depth, self.max_depth, self.crop, self.average = min_depth, max_depth, crop, average

    def ground_truth(self, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which pixels of a map ``(H, W)`` count, as flat indices, and their depth as float64, both ``(N,)``."""
        valid = (depth > self.min_depth) & (depth <= self.max_depth)
        if self.crop:
            top, bottom, left, right = CROPS[self.crop]
            height, width = depth.shape
            inside = np.zeros_like(valid)
            inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
            valid &= inside
        index = np.flatnonzero(valid)
        return index, depth.ravel()[index].astype(np.float64)

    def __str__(self) -> str:
        crop = f'{self.crop} crop' if self.crop else 'no crop'
        return f'{crop}; ground truth in ({self.min_depth:g}, {self.max_depth:g}] m, predictions cut to it'


class Sums:
    """Running sums of one group of pixels: pooled over pixels, and one score an image added up."""

    def __init__(self) -> None:
        self.pixels, self.images, self.count = np.zeros(_SUMS), np.zeros(len(SCORES)), 0

    def add_image(self, pred: np.ndarray, gt: np.ndarray) -> None:
        """Add an image's pixels, ``(N,)`` metres each."""
        if len(gt):
            sums = pixel_sums(pred, gt)
            self.pixels += sums
            self.images += list(scores_of(sums).values())
            self.count += 1

    def add(self, other: 'Sums') -> None:
        """Add another's sums."""
        self.pixels += other.pixels
        self.images += other.images
        self.count += other.count

    def scores(self) -> dict[str, float]:
        """``pixel/NAME`` and ``image/NAME``."""
        mean = self.images / self.count if self.count else np.full(len(SCORES), np.nan)
        per_image = {f'image/{name}': float(value) for name, value in zip(SCORES, mean, strict=True)}
        return {f'pixel/{name}': value for name, value in scores_of(self.pixels).items()} | per_image


class _State:
    """What a process has seen.

    Attributes:
        groups: sums by name: ``''`` for all pixels, ``'0-20m'`` and so on, ``'camera FRONT'`` and so on.
        images, empty: how many images, and how many of them without ground truth.
        sizes: smallest and largest (height, width) of the ground truth.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Sums] = {}
        self.images = self.empty = 0
        self.sizes: list[tuple[int, int]] = []

    def add(self, other: '_State') -> None:
        for name, sums in other.groups.items():
            self.groups.setdefault(name, Sums()).add(sums)
        self.images += other.images
        self.empty += other.empty
        sizes = sorted([*self.sizes, *other.sizes])
        self.sizes = [sizes[0], sizes[-1]] if sizes else []


class RunningMetric(BaseMetric):
    """A metric that keeps a sum instead of every image, and leaves out the images that a sampler repeats.

    mmengine's sampler deals images out in turn and fills up the last turn with repeated ones. So each process
    keeps its last image apart until `evaluate` tells how many there are.

    Attributes:
        data_rank: which part of the images is this process's, of how many; None for a part for each process.
    """

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.data_rank: tuple[int, int] | None = None
        self._reset()

    def new_state(self):
        """An empty sum; it has ``add(other)``."""
        raise NotImplementedError

    def _reset(self) -> None:
        self._sum, self._last, self._seen = self.new_state(), None, 0

    def add_image(self, state) -> None:
        """Count an image's own sum."""
        if self._last is not None:
            self._sum.add(self._last)
        self._last, self._seen = state, self._seen + 1

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores, the same on every process, and a fresh start.

        Args:
            size: of the data set; images that the sampler repeated beyond it are left out.
        """
        rank, world = self.data_rank or get_dist_info()
        if self._last is not None and (self._seen - 1) * world + rank < size:
            self._sum.add(self._last)
        parts = all_gather_object(self._sum)
        self._reset()
        scores = self.compute_metrics(parts)
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in scores.items()}


@METRICS.register_module()
class SparseDepthMetric(RunningMetric):
    """Depth against sparse ground truth, with the protocol printed beside the scores.

    Compared at the ground truth's own resolution; ``pred_depth_map`` has it already. Every score has two averages:
    ``pixel/NAME`` over all pixels of all images, ``image/NAME`` over the images' own scores, without those that have
    no ground truth. Their number is ``images_without_gt``. ``NAME`` alone is the average that the protocol names.
    ``20-40m/pixel/NAME`` counts the ground truth between 20 and 40 m, ``camera FRONT/pixel/NAME`` a camera's images.

    Args:
        max_depth, min_depth, crop, average: see `Protocol`; depths in metres.
        distances: bounds of the distance groups, metres; those beyond ``max_depth`` are cut to it.
        output_dir: write predictions there as KITTI's 16-bit PNG (metres times 256), a folder for each segment, below
            it as the images lie there.
        collect_device, prefix: as in mmengine.
        keep_results: mmseg's ``test.py --out`` sets it to True; what is in ``output_dir`` stays there in any case.

    Source: ViT-22B, arXiv 2302.05442 (mse_log, abs_rel, delta); Eigen et al., arXiv 1406.2283 (sq_rel, rmse_log);
    Laina et al., arXiv 1606.00373 (log10); KITTI's devkit (silog).
    """

    def __init__(
        self,
        max_depth: float = 80.0,
        min_depth: float = 1e-3,
        crop: str | None = None,
        average: str = 'pixel',
        distances: Sequence[float] = (0, 20, 40, 80),
        output_dir: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        keep_results: bool = True,
    ) -> None:
        if not keep_results:
            raise ValueError('keep_results=False: for no predictions on disk, leave output_dir out')
        self.protocol = Protocol(min_depth, max_depth, crop, average)
        self.distances = tuple(sorted({min(bound, max_depth) for bound in distances}))
        self.output_dir = output_dir
        super().__init__(collect_device, prefix)

    def new_state(self) -> _State:
        """Nothing seen."""
        return _State()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add images.

        Args:
            data_batch: unused.
            data_samples: each with ``pred_depth_map`` and ``gt_depth_map``, ``(1, H, W)`` of one size; the latter may
                be missing. ``camera`` names its camera.

        Raises:
            ValueError: maps of two sizes.
        """
        for sample in data_samples:
            state = _State()
            state.images = 1
            gt_map = sample['gt_depth_map']['data'].squeeze(0).cpu().numpy() if 'gt_depth_map' in sample else None
            pred_map = sample['pred_depth_map']['data'].squeeze(0).float().cpu().numpy()
            if self.output_dir is not None:
                self._write(sample, pred_map)
            if gt_map is not None:
                if pred_map.shape != gt_map.shape:
                    raise ValueError(
                        f'{sample.get("img_path")}: prediction {pred_map.shape} and ground truth {gt_map.shape} '
                        'differ in size: load the depth after resizing the image'
                    )
                self._compare(state, pred_map, gt_map, sample.get('camera'))
            state.empty = int('' not in state.groups)
            self.add_image(state)

    def _write(self, sample: dict, depth: np.ndarray) -> None:
        stored = np.clip(np.round(depth * 256), 0, 65535).astype(np.uint16)
        image, segment = Path(sample['img_path']), str(sample.get('segment', ''))
        # As the image lies below its segment: KITTI's cameras have a folder each, with the same names.
        folders = image.parent.parts
        below = folders[folders.index(segment) + 1 :] if segment in folders else ()
        path = Path(self.output_dir, segment, *below, f'{image.stem}.png')
        write_atomically(path, cv2.imencode('.png', stored)[1].tobytes())

    def _compare(self, state: _State, pred_map: np.ndarray, gt_map: np.ndarray, camera: str | None) -> None:
        state.sizes = [gt_map.shape]
        index, gt = self.protocol.ground_truth(gt_map)
        if not len(gt):
            return
        pred = pred_map.ravel()[index].astype(np.float64).clip(self.protocol.min_depth, self.protocol.max_depth)
        chosen = {'': slice(None)}
        for low, high in zip(self.distances, self.distances[1:], strict=False):
            chosen[f'{low:g}-{high:g}m'] = (gt > low) & (gt <= high)
        if camera is not None:
            chosen[f'camera {camera}'] = slice(None)
        for name, pixels in chosen.items():
            state.groups.setdefault(name, Sums()).add_image(pred[pixels], gt[pixels])

    def compute_metrics(self, results: list[_State]) -> dict[str, float]:
        """All scores from the processes' sums; printed with the protocol."""
        state = self.new_state()
        for part in results:
            state.add(part)
        everything = state.groups.pop('', Sums())
        scores = everything.scores()
        scores = {name: scores[f'{self.protocol.average}/{name}'] for name in SCORES} | scores
        for name in sorted(state.groups):
            scores |= {f'{name}/{key}': value for key, value in state.groups[name].scores().items()}
        scores |= dict(images=state.images, images_without_gt=state.empty, pixels=int(everything.pixels[0]))
        print_log(self._report(state, everything), logger='current')
        return scores

    def _report(self, state: _State, everything: Sums) -> str:
        sizes = ' to '.join(dict.fromkeys(f'{width}x{height}' for height, width in state.sizes)) or 'none'
        table = PrettyTable(['pixels', 'average', 'count', *SCORES], align='r')
        for name, sums in {'all': everything, **dict(sorted(state.groups.items()))}.items():
            values = list(sums.scores().values())
            for kind, count, part in (
                ('pixel', int(sums.pixels[0]), values[: len(SCORES)]),
                ('image', sums.count, values[len(SCORES) :]),
            ):
                table.add_row([name, kind, count, *(f'{value:.4g}' for value in part)])
        return (
            f'Depth. Protocol: {self.protocol}; at the resolution of the ground truth ({sizes} pixels); '
            "'pixel' averages over all pixels together, 'image' over the images' own scores; a score without either "
            f"is '{self.protocol.average}'. "
            f'{state.images} images, {state.empty} of them without ground truth.\n{table}'
        )
