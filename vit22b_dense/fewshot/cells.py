"""The cells of a few-shot table: the commands that run each, and its state."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

from ..checkpoint.reading import DISTRIBUTED
from ..engine.rates import read_rate, use_found_rate
from ..engine.work_dir import check_same_run, is_whole
from ..errors import UserError
from ..evaluation.runs import RECORD, TEST, read_record
from ..files import write_atomically
from .subset import digest
from .table import LOSS, CellResult, fraction_name, from_csv

FAILURE, SUBSET, TABLE = 'failed.txt', 'subset.txt', 'table.csv'


@dataclass(frozen=True)
class Cell:
    """One training and its test."""

    entry: CellResult  # its entry in the table before it is run
    cfg: Config = field(repr=False)  # as tools/train.py will load it
    work_dir: Path  # its own folder
    arguments: tuple[str, ...]  # axes and overrides, as both tools take them
    train_names: tuple[str, ...] = field(repr=False)  # of its subset's images
    tools: Path  # folder of train.py and test.py
    launch: tuple[str, ...] = ()  # what starts a tool in several processes, in front of it

    def __str__(self) -> str:
        return f'{self.entry.backbone} {fraction_name(self.entry.fraction)} seed {self.entry.seed}'

    @property
    def finished(self) -> bool:
        """Trained and tested."""
        return (self.work_dir / TEST / RECORD).exists()

    def commands(self) -> dict[str, list[str]]:
        """The commands that remain to be run, by the name of the tool."""
        last = self.work_dir / f'iter_{self.entry.iterations}{DISTRIBUTED if self.launch else ".pth"}'
        checkpoint = next((path for path in self.checkpoints if path.stem == last.stem and is_whole(path)), last)
        # without a validation, which would be the test once more
        own = {'train': ['--resume', '--no-validate', '--work-dir', self.work_dir]} if not is_whole(checkpoint) else {}
        own['test'] = [checkpoint, '--work-dir', self.work_dir / TEST]
        start = sys.executable, *self.launch
        return {
            name: [*map(str, [*start, self.tools / f'{name}.py', self.cfg.filename, *some, *self.arguments])]
            for name, some in own.items()
        }

    @property
    def checkpoints(self) -> list[Path]:
        """All that have been written so far."""
        return [path for suffix in ('.pth', DISTRIBUTED) for path in self.work_dir.glob(f'*{suffix}')]

    def result(self) -> CellResult:
        """Its current entry in the table."""
        return _now(self.entry, self.work_dir)

    def write_subset(self) -> None:
        """Write the names of the training images to the folder."""
        write_atomically(self.work_dir / SUBSET, ''.join(f'{name}\n' for name in self.train_names))

    def check_folder(self) -> None:
        """Check that the folder may be used.

        Raises:
            UserError: it contains checkpoints or scores of another configuration (names the first differences) or of
                other training images.
        """
        cfg = copy.deepcopy(self.cfg)
        if cfg.get('lr_search'):
            use_found_rate(cfg, self.work_dir)
        check_same_run(self.work_dir, cfg)
        listed, trained = self.work_dir / SUBSET, bool(self.checkpoints)
        names = listed.read_text('utf-8', 'surrogateescape').splitlines() if listed.is_file() else None
        if trained and names is not None and digest(names) != self.entry.subset_digest:
            raise UserError(
                f'{self.work_dir}: trained on other images, listed in {SUBSET}: the data have changed since. '
                'Choose another --work-dir, or remove that folder'
            )


def _now(entry: CellResult, work_dir: Path) -> CellResult:
    if found := read_rate(work_dir):
        entry = replace(entry, lr=f'{found["lr"]:g}')
    if record := read_record(work_dir / TEST):
        loss = record.get('train_loss')
        scores = record['scores'] | ({} if loss is None else {LOSS: loss})
        return replace(entry, status='finished', test_data=record.get('data') or '', scores=scores)
    begun = 'unfinished' if any(work_dir.glob('*.py')) else 'not run'
    return replace(entry, status='failed' if (work_dir / FAILURE).exists() else begun, scores={})


def results(cells: Sequence[Cell], work_dir: Path) -> list[CellResult]:
    """The results of some cells, preceded by the other rows of the folder's table.

    Raises:
        UserError: the folder's table is of another protocol.
    """
    former = from_csv(work_dir / TABLE) if (work_dir / TABLE).exists() else []
    asked = cells[0].entry.protocol
    if other := next((entry.protocol for entry in former if entry.protocol != asked), None):
        raise UserError(
            f'{work_dir}: contains a table of another configuration: "{other}" there and "{asked}" now. Choose '
            'another --work-dir'
        )
    ours = {cell.entry.folder for cell in cells}
    others = [_now(entry, work_dir / entry.folder) for entry in former if entry.folder not in ours]
    return [*others, *(cell.result() for cell in cells)]
