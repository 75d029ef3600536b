"""A test and what it leaves: scores first, then pictures of the best and the worst image."""

import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmseg
import torch
from mmengine.config import Config

from ..checkpoint import read_checkpoint
from ..evaluation.companions import IOU, companions, summary
from ..evaluation.examples import clear_examples, draw_examples
from ..evaluation.grid import GridDepthMetric, GridIoUMetric
from ..evaluation.image_scores import ImageScores
from ..files import naming, sweep, write_atomically
from ..version import __version__
from .config import ConfigError
from .features.store import samples_of
from .hooks import training_loss
from .model import unwrapped
from .restore import reference_of
from .run import build_test
from .work_dir import lock_folder


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about scores, and the device."""
    packages = dict(torch=torch, mmseg=mmseg, mmengine=mmengine, mmcv=mmcv)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU ({platform.machine()})'
    found = {name: str(package.__version__) for name, package in packages.items()}
    return dict(python=platform.python_version(), vit22b_dense=__version__, **found, device=device)


def data_digest(dataset: Any) -> str | None:
    """A fingerprint of test data: of the names and file sizes of images and ground truth, wherever they lie.

    Args:
        dataset: mmengine's, or one of features in its place; None is returned for other kinds.
    """
    try:
        samples = samples_of(getattr(dataset, 'dataset', dataset))
    except (TypeError, KeyError):  # no list of images
        return None
    lines = sorted(f'{sample.name} {sample.data}\n' for sample in samples)
    return hashlib.sha256(''.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()[:16]


def draw_pictures(cfg: Config, folder: str | None, show: bool, wait_time: float) -> None:
    """Let a test draw every image, as mmseg's ``test.py`` does.

    Args:
        cfg: as `run_config` gives it.
        folder: where the pictures go, in a folder of the test's own; None for its work dir.
        show: in a window instead.
        wait_time: how long one is shown, seconds.

    Raises:
        ConfigError: the config has no hook or no visualizer that draws.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook or not cfg.get('visualizer'):
        raise ConfigError('--show, --show-dir: the config has no default_hooks.visualization or no visualizer')
    hook.draw = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if folder:
        cfg.visualizer.save_dir = folder


def score_and_record(cfg: Config, checkpoint: str, about: dict, out: str | None = None) -> None:
    """Test a checkpoint and leave scores.json and examples/ in the work dir.

    The scores are written as soon as they are known: a picture that cannot be drawn loses nothing.

    Args:
        cfg: as `run_config` gives it.
        checkpoint: the file.
        about: what else the record holds.
        out: folder for the predictions.

    Raises:
        UserError: see `build_test`; ``out`` for an evaluator that writes no predictions.
    """
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if out:
        writing = next((e for e in evaluators if e['type'] in (*IOU, 'SparseDepthMetric')), None)
        if writing is None:
            kinds = ', '.join(e['type'] for e in evaluators)
            raise ConfigError(
                f'--out {out}: neither IoUMetric nor SparseDepthMetric is among the evaluators ({kinds})'
            )
        writing.output_dir = out
    cfg.test_evaluator = [*evaluators, *companions(evaluators)]
    examples = Path(cfg.work_dir, 'examples')
    if int(os.environ.get('RANK', '0')) == 0:
        lock = lock_folder(cfg.work_dir, 'testing')
        os.register_at_fork(after_in_child=lock.close)
        sweep(cfg.work_dir)
        clear_examples(examples)
    runner = build_test(cfg, checkpoint)
    image_scores = next((m for m in runner.test_evaluator.metrics if isinstance(m, ImageScores)), None)
    if image_scores:
        image_scores.keep_predictions(examples)
    if not about.get('tta'):  # whose images have several sizes
        for metric in runner.test_evaluator.metrics:
            if isinstance(metric, GridIoUMetric | GridDepthMetric):
                metric.patch_size = getattr(unwrapped(runner.model).backbone, 'patch_size', None)
    hub = read_checkpoint(checkpoint).get('message_hub')
    start = time.time()
    with naming(out or cfg.work_dir):
        scores = runner.test()
    if runner.rank:
        return
    reference = reference_of(unwrapped(runner.model))
    record = dict(
        **about,
        checkpoint=str(Path(checkpoint).resolve()),
        backbone=reference and str(reference),
        images=len(runner.test_dataloader.dataset),
        data=data_digest(runner.test_dataloader.dataset),
        train_loss=training_loss(hub.get('log_scalars')) if isinstance(hub, dict) else None,
        seconds=round(time.time() - start, 1),
        scores={name: float(value) for name, value in scores.items()},
        examples=[],
        versions=versions(),
    )
    path = Path(cfg.work_dir, 'scores.json')
    write_atomically(path, json.dumps(record, indent=2) + '\n')
    print(f'{summary(record["scores"])}, written to {path}', flush=True)
    if image_scores:
        record['examples'] = draw_examples(image_scores, runner.visualizer, examples)
        write_atomically(path, json.dumps(record, indent=2) + '\n')
