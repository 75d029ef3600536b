"""Making features: a frozen backbone runs once over draws of the training images and over the test images."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmseg.registry import DATASETS, MODELS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...checkpoint.errors import human
from ...datasets.plain import plain_pipeline
from ...datasets.seeding import random_state_of
from ...errors import run_tool
from ...models.backbones.contract import resolve_indices
from ...models.windows import grid_of
from ...progress import Progress
from ..sharding.loading import mesh_of, shard_backbone
from ..sharding.lockstep import Lockstep
from ..sharding.mesh import data_rank_of, from_first
from ..sharding.parallel import build
from .cached import address, window_name
from .made import folder_of, made_by, subset_config, test_sets
from .store import DTYPES, INDEX, FeatureError, FeatureStore, Sample, samples_of

LABELS = ('gt_sem_seg', 'gt_depth_map')
BATCH = 8  # images of a forward pass


@dataclass(frozen=True)
class Shard:
    """One to be made.

    Attributes:
        section: of the store. sample: its image.
        load: gives what the pipeline makes of it, under random state of its own.
        draw: of a training image; None for a test image.
    """

    section: str
    sample: Sample
    load: Callable[[], dict]
    draw: int | None = None


class _Loading(Dataset):
    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> dict:
        shard = self.shards[index]
        with random_state_of((shard.sample.number, shard.draw or 0)):
            return shard.load()


class FeatureMaker:
    """Makes the features that a config's decoder learns from and is tested on, those that are not there yet.

    Args:
        cfg: of a frozen or cached run; its fraction decides which training images are taken.
        folder: where they go.
        draws: of each training image. The first is plain, see `plain_pipeline`; the others are of the config's own
            augmentation, each under a seed that follows from the image's name and the number of the draw.
        dtype: a key of `DTYPES`; None for that of the features which are there, or bf16.
        names: training images to take instead of the fraction's.
        part: which part of how many is made here, of several processes.

    Raises:
        FeatureError: the folder has features of something else; see also `made_by`.
    """

    def __init__(
        self,
        cfg: Config,
        folder: Path,
        draws: int = 4,
        dtype: str | None = None,
        names: Collection[str] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.cfg, self.folder, self.part = cfg, Path(folder), part
        self.made = made_by(cfg)
        self.store = None
        if (self.folder / INDEX).exists():
            self.store = FeatureStore.open(folder)
            self.store.check_made(self.made)
            self.store.resolve(cfg.model.backbone.out_indices)
            if self.store.dtype != (dtype or self.store.dtype):
                raise FeatureError(
                    f'{folder}: has features in {self.store.dtype}; take --dtype {self.store.dtype}, or another '
                    '--features'
                )
        self.dtype = self.store.dtype if self.store else dtype or 'bf16'
        self.draws = max(draws, self.store.draws if self.store else 0)
        self.shards = [*self._training(draws, names), *self._testing()]

    def _training(self, draws: int, names: Collection[str] | None) -> Iterator[Shard]:
        subset = subset_config(self.cfg)
        pipeline = subset.dataset.pipeline
        plain = plain_pipeline(pipeline, self.cfg.test_dataloader.dataset.pipeline)
        config = dict(subset, dataset=dict(subset.dataset, pipeline=[]))
        if names is not None:
            config['fraction'] = 1
        dataset = DATASETS.build(config)
        pipelines = [Compose(plain), *[Compose(pipeline)] * (draws - 1)]
        samples = samples_of(dataset)
        for draw, steps in enumerate(pipelines):
            for i, sample in enumerate(samples):
                if names is None or sample.name in names:
                    load = lambda i=i, steps=steps: steps(dataset.get_data_info(i))  # noqa: E731
                    yield Shard(f'train{draw}', sample, load, draw)

    def _testing(self) -> Iterator[Shard]:
        for section, config in test_sets(self.cfg).items():
            dataset = DATASETS.build(config)
            for i, sample in enumerate(samples_of(dataset, '' if section == 'test' else section)):
                yield Shard('test', sample, lambda i=i, dataset=dataset: dataset[i])

    def missing(self) -> list[Shard]:
        """The shards that are not there yet, or damaged."""
        if self.store is None:
            return self.shards
        return [shard for shard in self.shards if self.store.fault(shard.section, shard.sample)]

    def make(self, progress: Callable[[int, int], None], say: Callable[[str], None] = print) -> None:
        """Make this process's part of what is missing.

        Args:
            progress: called with shards done and shards in all.
            say: told the size of what is missing, before it is begun.

        Raises:
            FeatureError: the disk cannot hold it.
        """
        missing = self.missing()
        if self.cfg.get('strategy'):
            missing = self._agreed(missing)
        if not missing:
            return
        lockstep = self._build()
        rank, count = self.part
        if rank == 0:
            self._check_size(missing, say)
            replace(self.store, draws=self.draws).write_index()
        mine = [shard for shard in self.shards[rank::count] if shard in missing]
        with lockstep.step() if lockstep else nullcontext():
            self._make(mine, progress)

    def _agreed(self, missing: list[Shard]) -> list[Shard]:
        """What is missing, as the first process of a sharded backbone sees it."""
        mesh_of(self.cfg)
        places = set(from_first([self.shards.index(shard) for shard in missing]))
        return [shard for i, shard in enumerate(self.shards) if i in places]

    def _make(self, mine: list[Shard], progress: Callable[[int, int], None]) -> None:
        done = 0
        workers = min(4, len(mine)) if torch.cuda.is_available() else 0
        for section in dict.fromkeys(shard.section for shard in mine):  # of one section, images are of one size
            shards = [shard for shard in mine if shard.section == section]
            size = 1 if section == 'test' else BATCH
            loader = DataLoader(_Loading(shards), size, num_workers=workers, collate_fn=pseudo_collate)
            for data in loader:
                batch, shards = shards[:size], shards[size:]
                self._write(batch, data)
                done += len(batch)
                progress(done, len(mine))

    def _build(self) -> Lockstep | None:
        """The model as a run builds it, with the weights of the features that are there."""
        set_random_seed(self.cfg.get('randomness', {}).get('seed') or 0)
        self.device = (
            torch.device('cuda', self.part[0] % torch.cuda.device_count()) if torch.cuda.is_available() else 'cpu'
        )
        if self.cfg.get('strategy'):
            self.device = get_device()
        random = self.store is not None and self.store.weights.kind == 'random'
        seed, lockstep = self.store.weights.seed if random else None, None
        if self.cfg.get('strategy'):
            self.model = build(self.cfg.model)
            lockstep = shard_backbone(self.cfg, self.model, seed)
            backbone = self.model.backbone
        else:
            self.model = MODELS.build(self.cfg.model)
            backbone = self.model.backbone
            backbone.init_weights()
            if random:
                backbone.draw_weights(seed)
        self.model.to(self.device).eval()
        if self.store is None:
            about = {name: getattr(backbone, name) for name in ('embed_dims', 'num_layers', 'patch_size')}
            first = next(shard for shard in self.shards if shard.draw is not None).load()
            label = next(name for name in LABELS if name in first['data_samples'])
            levels = resolve_indices(backbone.out_indices, backbone.num_layers)
            self.store = FeatureStore(
                self.folder, self.made, self.dtype, levels, about, label, self.draws, backbone.reference
            )
        return lockstep

    def _check_size(self, missing: list[Shard], say: Callable[[str], None]) -> None:
        """Say how large the features will be, from the first image of each kind, and see if the disk can hold them."""
        total = 0
        for training in (True, False):
            shards = [shard for shard in missing if (shard.draw is not None) == training]
            if shards:
                total += len(shards) * self._size(_Loading(shards)[0], training)
        room = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(room).free
        say(f'{len(missing)} sets of features in {self.dtype}, about {human(total)}, go to {self.folder}')
        if total > free:
            raise FeatureError(
                f'{self.folder}: about {human(total)} of features do not fit on its disk, which has {human(free)} '
                'left; take fewer --draws, a smaller --dtype or fraction, or another --features'
            )

    def _size(self, item: dict, training: bool) -> int:
        data = self.model.data_preprocessor(pseudo_collate([item]), training)
        label = next(iter(self._labels(data['data_samples'][0]).values())).nbytes if training else 0
        sides = [tuple(data['inputs'].shape[2:])] if training else [w[-2:] for w in self._windows(data['inputs'])]
        patch, width = self.model.backbone.patch_size, self.model.backbone.embed_dims * len(self.store.levels)
        cells = sum(-(-height // patch) * -(-wide // patch) for height, wide in sides)
        return cells * width * DTYPES[self.dtype].itemsize + label

    def _windows(self, image: Tensor) -> list[tuple[int, int, bool, int, int]]:
        """Of a test image: top, left, mirrored, height and width of all that the backbone will be asked for."""
        size, inference = tuple(image.shape[2:]), self.cfg.model.get('test_cfg') or {}
        tops, lefts, window = grid_of(size, inference)
        flips = (False, True) if inference.get('mode', 'whole').endswith('flip') else (False,)
        return [(top, left, flip, *window) for top in tops for left in lefts for flip in flips]

    @torch.no_grad()
    def _write(self, batch: list[Shard], data: dict) -> None:
        training = batch[0].draw is not None
        data = self.model.data_preprocessor(data, training)
        inputs, samples = data['inputs'], data['data_samples']
        names = [f'level{level}' for level in self.store.levels]
        if training:
            maps = self.model.backbone(inputs)
            for i, (shard, sample) in enumerate(zip(batch, samples, strict=True)):
                of_image = {name: level[i] for name, level in zip(names, maps, strict=True)}
                self.store.write(shard.section, shard.sample, of_image, self._labels(sample))
            return
        (shard,) = batch
        places, of_image = address(shard.sample.number, tuple(inputs.shape[2:])), {}
        for top, left, flip, height, width in self._windows(inputs):
            rows, columns = slice(top, top + height), slice(left, left + width)
            window, place = inputs[..., rows, columns], places[..., rows, columns]
            if flip:
                window, place = window.flip(3), place.flip(2)
            maps = self.model.backbone(window)
            of_image |= {f'{window_name(place)}/{n}': level[0] for n, level in zip(names, maps, strict=True)}
        self.store.write(shard.section, shard.sample, of_image, {})

    def _labels(self, sample: object) -> dict[str, Tensor]:
        data = sample.get(self.store.label).data.cpu()
        return {self.store.label: data if data.is_floating_point() else data.to(torch.uint8)}


def make_features(
    cfg: Config, draws: int, dtype: str | None = None, names: Collection[str] | None = None, jobs: int = 1
) -> None:
    """Make the features of a config that are not there yet, with progress.

    Args:
        cfg, draws, dtype, names: as for `FeatureMaker`; they go to the config's folder.
        jobs: processes on this machine; under torchrun its processes share the work besides.

    Raises:
        FeatureError: see `FeatureMaker`; or one of the processes failed.
    """
    if draws < 1 or jobs < 1:
        raise FeatureError(f'--draws {draws}, --jobs {jobs}: give at least 1')
    folder = folder_of(cfg, made_by(cfg))
    rank, world = int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1'))
    if cfg.get('strategy'):
        if jobs > 1:
            raise FeatureError(f'--jobs {jobs}: a sharded backbone takes the processes of torchrun; leave it out')
        rank, world = data_rank_of(mesh_of(cfg))

    def part(job: int) -> None:
        if jobs > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
        maker = FeatureMaker(cfg, folder, draws, dtype, names, (rank * jobs + job, world * jobs))
        maker.make((lambda done, total: None) if job or rank else Progress('sets of features'))

    if jobs > 1:
        # All in copies of this process: once it has computed something itself, its copies could not.
        fork = multiprocessing.get_context('fork')
        processes = [fork.Process(target=_child, args=(part, job), daemon=True) for job in range(jobs)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if failed := [process.exitcode for process in processes if process.exitcode]:
            raise FeatureError(f'{folder}: {len(failed)} of {jobs} processes failed; run the same command again')
    else:
        part(0)
    print(f'{folder}: complete', flush=True)


def _child(part: Callable[[int], None], job: int) -> None:
    run_tool(lambda: part(job))
