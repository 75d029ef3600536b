"""Features of a frozen backbone on disk: a shard for each draw of a training image, and for each test image.

A folder holds ``index.json``, which says what made the features, and shards ``SECTION/NUMBER.safetensors``. Sections
are ``train0``, ``train1``, …, one a draw, and ``test``. A shard's number follows from the name of its image,
and its metadata repeat what made it, so that it can be checked by itself.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...checkpoint import Reference
from ...datasets.names import sample_names
from ...errors import UserError
from ...files import write_atomically
from ...models.backbones.contract import resolve_indices
from ..work_dir import SHOWN, differences

INDEX, FORMAT = 'index.json', 1
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32)
MAKE = 'run tools/cache_features.py with the arguments of this run'


class FeatureError(UserError):
    """Features that are missing, damaged or of something else, or that cannot be written."""


@dataclass(frozen=True)
class Sample:
    """An image of a data set, and a digest of the names and sizes of its files."""

    name: str
    data: str

    @property
    def number(self) -> int:
        """Of its shards: 48 bits of its name's hash."""
        return int(hashlib.sha256(self.name.encode()).hexdigest()[:12], 16)


def samples_of(dataset: Any, prefix: str = '') -> list[Sample]:
    """The samples of a data set, in its order; ``prefix`` goes in front of each name."""
    samples = []
    for i, name in enumerate(sample_names(dataset)):
        paths = [Path(path) for key, path in dataset.get_data_info(i).items() if key.endswith('_path') and path]
        files = ''.join(f'{path.name} {path.stat().st_size if path.exists() else -1}\n' for path in sorted(paths))
        samples.append(Sample(prefix + name, hashlib.sha256(files.encode()).hexdigest()[:16]))
    return samples


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features.

    Attributes:
        folder: where they lie.
        made: what made them, from `made_by`.
        dtype: ``'bf16'``, ``'fp16'`` or ``'fp32'``.
        levels: numbers of the blocks whose maps are stored.
        backbone: its ``embed_dims``, ``num_layers`` and ``patch_size``.
        label: the field of a data sample that has the labels, ``'gt_sem_seg'`` or ``'gt_depth_map'``.
        draws: of each training image.
        weights: of the backbone; see `Reference`.
    """

    folder: Path
    made: dict
    dtype: str
    levels: tuple[int, ...]
    backbone: dict
    label: str
    draws: int
    weights: Reference

    @classmethod
    def open(cls, folder: str | Path) -> 'FeatureStore':
        """Read a folder's index.

        Raises:
            FeatureError: there is none, or it is damaged or of another version.
        """
        path = Path(folder, INDEX)
        if not path.is_file():
            raise FeatureError(f'{folder}: no features there ({INDEX} is missing); {MAKE}, or name them: --features')
        try:
            index = json.loads(path.read_text('utf-8'))
            if index.pop('format') != FORMAT:
                raise FeatureError(f'{path}: of another version of vit22b_dense; remove the folder and {MAKE}')
            weights, levels = Reference(**index.pop('weights')), tuple(index.pop('levels'))
            return cls(Path(folder), weights=weights, levels=levels, **index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, FeatureError):
                raise
            raise FeatureError(f'{path}: damaged ({error!r}); remove the folder and {MAKE}') from error

    def write_index(self) -> None:
        """Write the index."""
        known = dict(made=self.made, dtype=self.dtype, levels=self.levels)
        known |= dict(backbone=self.backbone, label=self.label, draws=self.draws, weights=self.weights.to_dict())
        text = json.dumps(dict(format=FORMAT, **known), indent=2)
        write_atomically(self.folder / INDEX, text + '\n')

    @cached_property
    def digest(self) -> str:
        """Of what made the features, in the metadata of each shard."""
        return digest_of([self.made, self.dtype, self.levels, self.weights.seed])

    def resolve(self, out_indices: Sequence[int]) -> tuple[int, ...]:
        """Indices of blocks as their numbers, all of them among the levels.

        Raises:
            FeatureError: one is not stored.
        """
        levels = resolve_indices(out_indices, self.backbone['num_layers'])
        if not set(levels) <= set(self.levels):
            raise FeatureError(
                f'{self.folder}: has the maps of the blocks {self.levels}, and the decoder reads {levels}; {MAKE} '
                'and another --features'
            )
        return levels

    def check_made(self, made: dict) -> None:
        """Check that the features are of a configuration.

        Args:
            made: from `made_by`.

        Raises:
            FeatureError: of another one; names the first differences.
        """
        if found := differences({key: self.made.get(key) for key in made}, made):
            shown = '; '.join(f'{key} is {there!r} there and {asked!r} now' for key, there, asked in found[:SHOWN])
            more = f' (and {len(found) - SHOWN} more)' if len(found) > SHOWN else ''
            raise FeatureError(
                f'{self.folder}: features of other weights, data or settings: {shown}{more}. Name other features with '
                f'--features, or {MAKE}'
            )

    def path(self, section: str, number: int) -> Path:
        """The file of a shard."""
        return self.folder / section / f'{number:012x}.safetensors'

    def fault(self, section: str, sample: Sample) -> str | None:
        """What is wrong with the shard of a sample: ``'missing'`` or a sentence; None if nothing is."""
        path = self.path(section, sample.number)
        try:
            with safe_open(path, 'pt', backend='pread') as file:
                about = file.metadata() or {}
        except FileNotFoundError:
            return 'missing'
        except (SafetensorError, OSError) as error:
            return f'{path} ({sample.name}): not a whole file ({error})'
        if (about.get('image'), about.get('made')) != (sample.name, self.digest):
            return f'{path}: belongs to other features (of {about.get("image")}; expected {sample.name})'
        if about['data'] != sample.data:
            return f'{path}: the image {sample.name} or its labels have changed since'
        return None

    def check(self, section: str, samples: Iterable[Sample]) -> None:
        """Check that the shards of some samples are there and whole.

        Raises:
            FeatureError: names the first that is not, and says what to do.
        """
        samples = list(samples)
        faults = {sample.name: fault for sample in samples if (fault := self.fault(section, sample))}
        for fault in (fault for fault in faults.values() if fault != 'missing'):
            raise FeatureError(f'{fault}; {MAKE}: it makes this one again')
        if faults:
            raise FeatureError(
                f'{self.folder}: {len(faults)} of {len(samples)} images are not in {section} (the first is '
                f'{next(iter(faults))}); {MAKE}: it makes what is missing'
            )

    def read(self, section: str, number: int, names: Sequence[str]) -> list[Tensor]:
        """Tensors of a shard by name.

        Raises:
            FeatureError: it cannot be read, or lacks one.
        """
        path = self.path(section, number)
        try:
            with safe_open(path, 'pt', backend='pread') as file:
                return [file.get_tensor(name) for name in names]
        except (SafetensorError, OSError) as error:
            raise FeatureError(f'{path}: cannot be read ({error}); {MAKE}: it makes this one again') from error

    def write(self, section: str, sample: Sample, maps: dict[str, Tensor], labels: dict[str, Tensor]) -> None:
        """Write a shard.

        Args:
            section: where it belongs.
            sample: its image.
            maps: by name; stored in the store's dtype.
            labels: by name; stored as they are.

        Raises:
            FeatureError: values too large for the dtype, or the disk is full.
        """
        path, dtype = self.path(section, sample.number), DTYPES[self.dtype]
        stored = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in maps.items()}
        if dtype == torch.float16 and not all(tensor.isfinite().all() for tensor in stored.values()):
            raise FeatureError(f'{sample.name}: its features are too large for fp16; take --dtype bf16')
        about = dict(image=sample.name, data=sample.data, made=self.digest)
        try:
            write_atomically(path, save({**stored, **labels}, about))
        except OSError as error:
            raise FeatureError(
                f'{path}: cannot be written ({error}). What is there is kept: make room and run the same command again'
            ) from error


def digest_of(value: Any) -> str:
    """A short fingerprint of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
