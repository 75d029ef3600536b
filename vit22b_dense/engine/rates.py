"""The learning rate of a decoder on a frozen backbone, chosen on held-out training images: ``--lr auto``."""

import argparse
import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmseg.registry import DATASETS, MODELS
from torch.utils.data import DataLoader, Dataset

from ..datasets.plain import plain_pipeline
from ..datasets.seeding import Draw, SeededInfiniteSampler, random_state_of
from ..files import write_atomically
from ..progress import Progress
from .config import ConfigError
from .members import quiet, score_members, train_members

RECORD = 'lr.json'
SEARCH = 'lr_search=True'  # the override
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the decoder's own rate
FOLDS, ENOUGH = 5, 16  # a fifth is held out, then another one, until so many images were
NEAR = 0.03  # of the best score: rates this near to it count as equally good
BETTER = dict(mIoU=max, abs_rel=min)  # the score that decides


def add_rate_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--lr`` to a tool's arguments; its value is the override of the config that it stands for."""
    parser.add_argument(
        '--lr', type=_override, metavar='RATE|auto',
        help="learning rate; auto: the best of five around the decoder's own on held-out training images, for a "
        'frozen backbone (default: the config says)',
    )  # fmt: skip


def _override(text: str) -> str:
    """``KEY=VALUE`` of a learning rate."""
    if text == 'auto':
        return SEARCH
    try:
        if not 0 < float(text) < math.inf:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text}: give a number above 0, or auto') from None
    return f'optim_wrapper.optimizer.lr={text}'


def settle_rate(cfg: Config, data: Config) -> None:
    """Search around a config's learning rate and put what is found in its place; ``lr.json`` in the work dir keeps it.

    Args:
        cfg: with ``work_dir``.
        data: see `search`.

    Raises:
        ConfigError: see `search`.
    """
    found = search(cfg, data)
    write_atomically(Path(cfg.work_dir, RECORD), json.dumps(found, indent=2) + '\n')
    use_found_rate(cfg, cfg.work_dir)
    scores = ', '.join(f'{rate:g}: {score:.4g}' for rate, score in zip(found['rates'], found['scores'], strict=True))
    print(f'learning rate {found["lr"]:g} ({found["score"]} on held-out training images: {scores})', flush=True)


def use_found_rate(cfg: Config, work_dir: str | Path) -> bool:
    """Put the rate that a search has found for a run into its config; False where there is none."""
    found = read_rate(work_dir)
    if found is not None:
        cfg.optim_wrapper.optimizer.lr, cfg.lr_search = found['lr'], False
    return found is not None


def read_rate(work_dir: str | Path) -> dict | None:
    """What a search has found for a run: ``lr``, and the ``score``'s values ``scores`` of ``rates``; None if nothing.

    Raises:
        ConfigError: its record is damaged.
    """
    path = Path(work_dir, RECORD)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text('utf-8'))
        return dict(found, lr=float(found['lr']), rates=list(found['rates']), scores=list(found['scores']))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{path}: damaged ({error!r}); remove it, and the rate is searched again') from error


def search(cfg: Config, data: Config) -> dict:
    """Train a decoder at several rates side by side, and choose one by its score on training images held out.

    The backbone runs once for all of them. Each decoder starts from the same weights and sees the same images in the
    same order as a run with its rate alone. A fifth of the training subset is held out, whole units of it (a segment's
    images stay together); of small subsets another fifth after that, so that the choice does not rest on a few images.

    Args:
        cfg: of a frozen run, over iterations; its learning rate is the middle of those that are tried.
        data: the config as its runner takes it, which of cached features reads those.

    Returns:
        ``lr``, the chosen one; ``score``, the name of what decided; ``rates``, and ``scores`` of each.

    Raises:
        ConfigError: not a frozen run over iterations, several processes, or a subset that cannot be parted.
    """
    _check(cfg)
    own = cfg.optim_wrapper.optimizer.lr
    rates = [own * factor for factor in FACTORS]
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    device, seed = get_device(), cfg.get('randomness', {}).get('seed') or 0
    training = DATASETS.build(data.train_dataloader.dataset)
    training.full_init()
    plain = _plain(data)
    folds = held_out(training.dataset.units, FOLDS, ENOUGH)
    set_random_seed(seed)
    model = MODELS.build(data.model)
    model.init_weights()
    model.to(device).train()  # a frozen backbone stays in evaluation mode, and a cached one reads training images
    evaluator = cfg.get('val_evaluator') or cfg.test_evaluator
    evaluators = [Evaluator(copy.deepcopy(evaluator)) for _ in rates]
    for evaluator in evaluators:
        evaluator.dataset_meta = training.metainfo
    progress, length = Progress('iterations of the search for a learning rate'), cfg.train_cfg.max_iters
    for i, held in enumerate(folds):
        rest = sorted({*range(len(training))} - {*held})
        loader = data.train_dataloader
        batches = DataLoader(
            _Part(training, rest),
            batch_size=loader.batch_size,
            sampler=SeededInfiniteSampler(rest, seed=seed),
            num_workers=loader.num_workers,
            collate_fn=pseudo_collate,
        )
        report = lambda n, done=i * length: progress(done + n, len(folds) * length)  # noqa: E731
        members = train_members(model, cfg, rates, batches, seed, report)
        with quiet():
            for index in held:
                score_members(model, members, evaluators, plain[index])
    with quiet():
        found = [evaluator.evaluate(sum(map(len, folds))) for evaluator in evaluators]
    name = next((name for name in BETTER if name in found[0]), None)
    if name is None:
        raise ConfigError(f'{cfg.filename}: --lr auto: its evaluator gives neither of {", ".join(BETTER)}')
    scores = [float(one[name]) for one in found]
    return dict(lr=choose(rates, scores, BETTER[name]), score=name, rates=rates, scores=scores)


def choose(rates: Sequence[float], scores: Sequence[float], better: Callable = max) -> float:
    """The middle one from the lowest to the highest rate that is as good as the best, up to `NEAR` of its score.

    The best score on a few images is often one of several that differ by chance, as a dip between two of them does. Of
    two in the middle it is the higher: the decoder is then trained on more images in as many iterations.

    Args:
        rates: from low to high.
        scores: one a rate; NaN where it has diverged.
        better: ``max`` or ``min``.
    """
    best = better(score for score in scores if score == score)
    near = [i for i, score in enumerate(scores) if abs(score - best) <= NEAR * abs(best)]
    return rates[(near[0] + near[-1] + 1) // 2]


def held_out(units: Sequence[str], folds: int, enough: int) -> list[list[int]]:
    """Parts of a data set that are held out in turn: the positions of each.

    Args:
        units: one a sample; samples of one unit stay together.
        folds: into how many parts it is divided, as evenly as its units allow, at random but always alike.
        enough: no further parts once so many samples are held out.

    Raises:
        ConfigError: there are not two units.
    """
    order = sorted(
        set(units), key=lambda unit: hashlib.sha256(f'rate:{unit}'.encode(errors='surrogateescape')).digest()
    )
    if len(order) < 2:
        raise ConfigError(
            f'--lr auto: holds out a part of the training subset, which is one {units[0]!r} as a whole; take a larger '
            'fraction, or name a rate'
        )
    parts = []
    for i in range(min(folds, len(order))):
        kept = set(order[i::folds])
        parts.append([at for at, unit in enumerate(units) if unit in kept])
        if sum(map(len, parts)) >= enough:
            break
    return parts


class _Part(Dataset):
    """Some samples of a data set; an index keeps the seed of its draw."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Draw) -> dict:
        return self.dataset[Draw(self.indices[index], index.entropy)]


class _Plain:
    """The training images of a live run without what is random but the crop, by their positions in the subset."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict:
        with random_state_of((index,)):
            return self.dataset[index]


def _plain(cfg: Config) -> Any:
    """The training images of a run for scoring; of cached features the first draw, which is plain."""
    dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    if dataset.type == 'CachedTraining':
        dataset.draws = 1
        return DATASETS.build(dataset)
    inner = dataset.dataset.dataset
    inner.pipeline = plain_pipeline(inner.pipeline, cfg.test_dataloader.dataset.pipeline)
    return _Plain(DATASETS.build(dataset.dataset))


def _check(cfg: Config) -> None:
    if not (cfg.model.get('backbone') or {}).get('frozen'):
        raise ConfigError(
            f'{cfg.filename}: --lr auto is for a frozen backbone (--regime frozen or cached); name a rate'
        )
    if 'max_iters' not in cfg.train_cfg:
        raise ConfigError(f'{cfg.filename}: --lr auto: trains by epochs; give train_cfg max_iters, or name a rate')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise ConfigError(
            f'{cfg.filename}: --lr auto searches in one process; search there first (the rate is kept in the work '
            f'dir, in {RECORD}), or name a rate'
        )
