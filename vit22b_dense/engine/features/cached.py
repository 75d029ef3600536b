"""A run from features: data sets that give addresses in place of images, and a backbone that reads what lies there.

An address is a tensor ``(4, H, W)``: channels 0 and 1 hold the number of the image's shards, 2 and 3 the row and
column of each pixel in testing, so that any window of it knows its place; in training it is ``(4, 1, 1)`` with the
draw in channel 2. mmseg's data preprocessor, windows and flips work on it as on images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ...checkpoint import CheckpointError
from ...datasets.seeding import Draw
from .store import FeatureStore, samples_of

HALF = 2**24  # float32 holds whole numbers up to here


def address(number: int, size: tuple[int, int]) -> Tensor:
    """The address ``(4, *size)`` of a whole test image; ``number`` as in `Sample`."""
    rows, columns = torch.arange(size[0], dtype=torch.float32), torch.arange(size[1], dtype=torch.float32)
    halves = torch.tensor(divmod(number, HALF), dtype=torch.float32)
    return torch.stack([*halves.view(2, 1, 1).expand(2, *size), *torch.meshgrid(rows, columns, indexing='ij')])


def window_name(window: Tensor) -> str:
    """The name of a part of an address in its shard: ``TOP_LEFT_HEIGHTxWIDTH``, and ``_flipped`` if it is mirrored."""
    (top, left), right = window[2:, 0, 0].tolist(), float(window[3, 0, -1])
    mirrored = '_flipped' if right < left else ''
    return f'{int(top)}_{int(min(left, right))}_{window.shape[1]}x{window.shape[2]}{mirrored}'


@MODELS.register_module()
class CachedBackbone(BaseModule):
    """Stands for a frozen backbone and returns its stored maps. It has no weights, and its checkpoints refer to those.

    Args:
        folder: of the features.
        out_indices: blocks whose maps are returned; negative ones count from the last.

    Attributes:
        embed_dims, num_layers, patch_size, weights_source, reference: of the backbone that made them; see
            `PlainBackbone`.

    Raises:
        FeatureError: no features there, or not of these blocks.
    """

    def __init__(self, folder: str, out_indices: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.store = FeatureStore.open(folder)
        self.embed_dims, self.num_layers, self.patch_size = (
            self.store.backbone[name] for name in ('embed_dims', 'num_layers', 'patch_size')
        )
        self.reference = self.store.weights
        self.weights_source = dict(kind=self.reference.kind)
        self.levels = self.store.resolve(out_indices)
        if self.reference.kind == 'random':
            # as the backbone draws its seed, so that the decoder begins with the same weights
            torch.randint(2**62, ())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Addresses ``(B, 4, H, W)`` to maps ``(B, D, h, w)`` in float32, one for each of ``out_indices``.

        Raises:
            FeatureError: a map is not stored.
        """
        per_image = [self._read(one) for one in x.cpu()]
        # on a CPU converted while they are copied; elsewhere only there, since half as much has to be sent
        kept = dict(dtype=torch.float32) if x.device.type == 'cpu' else {}
        batches = [of_level.new_empty(len(x), *of_level.shape, **kept) for of_level in per_image[0]]
        for i, maps in enumerate(per_image):
            for batch, of_level in zip(batches, maps, strict=True):
                batch[i] = of_level
        return tuple(batch.to(x.device, torch.float32) for batch in batches)

    def _read(self, one: Tensor) -> list[Tensor]:
        high, low, draw = (int(value) for value in one[:3, 0, 0].tolist())
        number = high * HALF + low
        if self.training:
            return self.store.read(f'train{draw}', number, [f'level{level}' for level in self.levels])
        window = window_name(one)
        return self.store.read('test', number, [f'{window}/level{level}' for level in self.levels])

    def draw_weights(self, seed: int) -> None:
        """Check that a checkpoint of random weights is of those of the features.

        Raises:
            CheckpointError: it is of other ones.
        """
        if seed != self.reference.seed:
            raise CheckpointError(
                f'the checkpoint is of random weights of seed {seed}, and {self.store.folder} has features of '
                f'{self.reference}; test with --regime frozen'
            )

    def load_pretrained(self, path: str | Path) -> None:
        """Refuse a checkpoint of a backbone with weights: the features are of random ones.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f'the checkpoint is of the weights {path}, and {self.store.folder} has features of {self.reference}'
        )

    def layer_id(self, name: str) -> int:
        """Of its parameters, of which there are none."""
        raise KeyError(name)


class _Cached:
    """What both data sets are: those of a run, with addresses as images.

    Args:
        dataset: the data set, or its config.
        folder: of the features.
        prefix: of the samples' names there.
    """

    def __init__(self, dataset: Any, folder: str, prefix: str = '') -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.store, self.samples = FeatureStore.open(folder), samples_of(self.dataset, prefix)

    @property
    def metainfo(self) -> dict:
        """Of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """There is nothing left to load."""

    def __len__(self) -> int:
        return len(self.samples)


@DATASETS.register_module()
class CachedTraining(_Cached):
    """A training set whose images are addresses and whose labels are those of the stored draws.

    In the n-th pass through the data an image is seen in its draw ``n + i mod draws``, ``i`` being its place.

    Args:
        dataset: the few-shot subset, or its config.
        folder: of the features.
        draws: how many of each image are used.
        label_bytes: whether classes stay in the bytes in which they are stored, as `DenseSegmentor` reads them;
            otherwise they are int64, as in mmseg.

    Raises:
        FeatureError: a shard is missing, damaged or of something else.
    """

    def __init__(self, dataset: Any, folder: str, draws: int, label_bytes: bool = False) -> None:
        super().__init__(dataset, folder)
        self.draws, self.label_bytes = draws, label_bytes
        for draw in range(draws):
            self.store.check(f'train{draw}', self.samples)

    def __getitem__(self, index: Draw) -> dict:
        place = index.entropy[1] if isinstance(index, Draw) else 0
        draw, sample = (place // len(self) + int(index)) % self.draws, self.samples[index]
        (label,) = self.store.read(f'train{draw}', sample.number, [self.store.label])
        found = SegDataSample(metainfo=dict(img_path=sample.name))
        as_stored = self.label_bytes or label.is_floating_point()
        found.set_data({self.store.label: PixelData(data=label if as_stored else label.long())})
        high, low = divmod(sample.number, HALF)
        return dict(inputs=torch.tensor([high, low, draw, 0], dtype=torch.float32).view(4, 1, 1), data_samples=found)


@DATASETS.register_module()
class CachedTesting(_Cached):
    """A test set whose images are addresses; all else is as it was.

    Args:
        dataset: the test set, or its config.
        folder: of the features.
        prefix: of the samples' names there.

    Raises:
        FeatureError: as for `CachedTraining`.
    """

    def __init__(self, dataset: Any, folder: str, prefix: str = '') -> None:
        super().__init__(dataset, folder, prefix)
        self.store.check('test', self.samples)

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[index]
        return dict(item, inputs=address(self.samples[index].number, tuple(item['inputs'].shape[1:])))
