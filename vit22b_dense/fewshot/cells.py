"""The cells of a few-shot table: which commands run each, and what is there of it already."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

from ..engine.config import weights_name
from ..engine.work_dir import check_same_run
from ..errors import UserError
from ..files import write_atomically
from .subset import digest
from .table import CellResult, from_csv

RANDOM = ':random'
# the test has a folder of its own below the cell's, since every run dumps its configuration
TEST, SCORES, FAILURE, SUBSET = 'test', 'test/scores.json', 'failed.txt', 'subset.txt'


@dataclass(frozen=True)
class Backbone:
    """A row of the table, from ``NAME``, ``NAME=WEIGHTS``, and either with ``:random`` behind it.

    Attributes:
        name: a file of ``configs/_base_/backbones``.
        weights: pretrained weights, or None for the default.
        random: leave the weights random all the same.
    """

    name: str
    weights: str | None = None
    random: bool = False

    @classmethod
    def parse(cls, text: str) -> 'Backbone':
        """From the command line.

        Raises:
            UserError: no name, or ``=`` without weights.
        """
        name, equals, weights = text.removesuffix(RANDOM).partition('=')
        if not name or (equals and not weights):
            raise UserError(f'--backbones {text}: give NAME or NAME=WEIGHTS, with {RANDOM} behind it for random ones')
        return cls(name, weights or None, text.endswith(RANDOM))

    def random_options(self, cfg: Config) -> list[str]:
        """What ``:random`` adds to the overrides of a config.

        Raises:
            UserError: random weights and a file of weights, for a backbone whose sizes do not come from there.
        """
        if not self.random:
            return []
        kind = cfg.model.backbone.type
        if self.weights and kind != 'HFBackbone':
            raise UserError(f'--backbones {self.name}={self.weights}{RANDOM}: random weights are not in a file')
        return ['model.backbone.pretrained=False'] if kind in ('HFBackbone', 'TIMMViT') else []

    def row(self, cfg: Config) -> tuple[str, str]:
        """Names of its row, which says where the weights are random, and of its folder; both tell the same apart."""
        backbone = cfg.model.backbone
        default = backbone.type == 'HFBackbone' or bool(backbone.get('init_cfg'))
        if not (backbone.get('pretrained', default) or backbone.get('checkpoint_path')):
            return f'{self.name} (random weights)', f'{self.name}_random'
        if self.weights:
            weights = weights_name(self.weights)
            return f'{self.name} ({weights})', f'{self.name}_{weights}'
        return self.name, self.name


@dataclass(frozen=True)
class Cell:
    """One training and its test.

    Attributes:
        backbone, fraction, seed: which.
        label: name of the table's row.
        config: file.
        cfg: as tools/train.py will load it.
        work_dir: its own folder.
        folder: the same, relative to the table's.
        regime, data_root: axes that all cells share; None for the config's default.
        options: ``KEY=VALUE`` strings.
        protocol: what all cells of the table have in common, in words.
        train_names: names of its subset's images.
        tools: folder of train.py and test.py.
    """

    backbone: Backbone
    fraction: str
    seed: int
    label: str
    config: str
    cfg: Config = field(repr=False)
    work_dir: Path
    folder: Path
    regime: str | None
    data_root: str | None
    options: tuple[str, ...]
    protocol: str
    train_names: tuple[str, ...] = field(repr=False)
    tools: Path

    def __str__(self) -> str:
        return f'{self.label} {self.fraction} seed {self.seed}'

    @property
    def iterations(self) -> int:
        """Of the training."""
        return self.cfg.train_cfg.max_iters

    @property
    def checkpoint(self) -> Path:
        """What the training ends with."""
        return self.work_dir / f'iter_{self.iterations}.pth'

    @property
    def finished(self) -> bool:
        """Trained and tested."""
        return (self.work_dir / SCORES).exists()

    def commands(self) -> dict[str, list[str]]:
        """The commands that are still to be run, by the name of the tool."""
        axes = dict(backbone=self.backbone.name, weights=self.backbone.weights, regime=self.regime)
        axes |= {'fraction': self.fraction, 'seed': str(self.seed), 'data-root': self.data_root}
        common = [part for axis, value in axes.items() if value is not None for part in (f'--{axis}', value)]
        if self.options:
            common += ['--cfg-options', *self.options]
        train, test = ([sys.executable, str(self.tools / f'{name}.py'), self.config] for name in ('train', 'test'))
        commands = {}
        if not self.checkpoint.exists():
            # the test follows, so a validation at the end would be the same scores twice
            commands['train'] = [*train, '--resume', '--no-validate', '--work-dir', str(self.work_dir), *common]
        commands['test'] = [*test, str(self.checkpoint), '--work-dir', str(self.work_dir / TEST), *common]
        return commands

    def shell_line(self) -> str:
        """`commands` as one line for a shell."""
        return ' && '.join(shlex.join(command) for command in self.commands().values())

    def result(self) -> CellResult:
        """What there is of it, for the table."""
        status, scores = _state(self.work_dir)
        return CellResult(
            backbone=self.label,
            fraction=self.fraction,
            seed=self.seed,
            train_images=len(self.train_names),
            iterations=self.iterations,
            status=status,
            data_set=_data_set(self.cfg.test_dataloader.dataset),
            subset_digest=digest(self.train_names),
            folder=str(self.folder),
            protocol=self.protocol,
            scores=scores,
        )

    def write_subset(self) -> None:
        """Leave the names of the training images in the folder."""
        write_atomically(self.work_dir / SUBSET, ''.join(f'{name}\n' for name in self.train_names))

    def check_folder(self) -> None:
        """Look whether the folder may be used.

        Raises:
            UserError: it holds checkpoints or scores of another configuration (names the first difference) or of
                other training images.
        """
        check_same_run(self.work_dir, self.cfg)
        listed = self.work_dir / SUBSET
        if (
            listed.exists()
            and any(self.work_dir.glob('*.pth'))
            and digest(listed.read_text(encoding='utf-8').splitlines()) != digest(self.train_names)
        ):
            raise UserError(
                f'{self.work_dir}: trained on other images, listed in {SUBSET}: the data have changed since. '
                'Choose another --work-dir, or remove that folder'
            )


def _state(folder: Path) -> tuple[str, dict[str, float]]:
    """Status and scores of a cell's folder."""
    if (folder / SCORES).exists():
        return 'finished', json.loads((folder / SCORES).read_text(encoding='utf-8'))['scores']
    if (folder / FAILURE).exists():
        return 'failed', {}
    return 'unfinished' if any(folder.glob('*.py')) else 'not run', {}


def results(cells: Sequence[Cell], work_dir: Path) -> list[CellResult]:
    """What there is of some cells, after those of the folder's table that are not among them.

    Raises:
        UserError: the folder's table is of another protocol.
    """
    ours = [cell.result() for cell in cells]
    table = work_dir / 'table.csv'
    former = from_csv(table) if table.exists() else []
    for result in former:
        if result.protocol != ours[0].protocol:
            raise UserError(
                f'{work_dir}: holds a table of another configuration: "{result.protocol}" there and '
                f'"{ours[0].protocol}" now. Choose another --work-dir'
            )
    folders = {result.folder for result in ours}
    others = [result for result in former if result.folder not in folders]
    states = [_state(work_dir / result.folder) for result in others]
    kept = [replace(result, status=s, scores=v) for result, (s, v) in zip(others, states, strict=True)]
    return [*kept, *ours]


def _data_set(dataset: dict) -> str:
    """A data set's type, and how many classes it is read with where these are not the type's own."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    classes = (dataset.get('metainfo') or {}).get('classes')
    return f'{dataset["type"]} ({len(classes)} classes)' if classes else dataset['type']
