"""The results that runs leave in their folders: scores, losses, pictures, configurations."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

RECORD, TEST = 'scores.json', 'test'  # a test may have a folder of its own below the training's


def read_record(folder: Path) -> dict:
    """Content of the ``scores.json`` of a test; empty where there is none.

    Raises:
        UserError: the file is not a valid one.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        Path(record['checkpoint'])
        {name: float(value) for name, value in record['scores'].items()}
        dict(record.get('versions') or {})
        float(record.get('train_loss') or 0)
        for example in record.get('examples', ()):
            Path(example['picture'], example['rank'], example['image'], example['metric'])
            float(example['score'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: not written by tools/test.py ({error!r})') from error
    return record


def logged_losses(folder: Path) -> Iterator[tuple[int, float]]:
    """Iteration and loss as a training has logged them; a resumed run may log an iteration again."""
    for path in filter(Path.is_file, sorted(folder.glob('*/vis_data/scalars.json'))):
        for line in path.read_text('utf-8', 'replace').splitlines():
            try:
                entry = json.loads(line)
                step, loss = int(entry['step']), float(entry['loss'])
            except (ValueError, KeyError, TypeError):  # a validation's, or a line that a kill cut off
                continue
            yield step, loss


@dataclass(frozen=True)
class RunRecord:
    """A training, its test, or both."""

    folder: Path  # where the training is, or else the test
    record: dict  # content of scores.json; empty where it was not tested
    record_folder: Path  # where that lies, or would lie

    @property
    def scores(self) -> dict[str, float]:
        """All scores by name."""
        return self.record.get('scores', {})

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Iteration and loss, as logged; of iterations logged twice (a resumed run) the later ones."""
        return sorted(dict(logged_losses(self.folder)).items())

    @property
    def config(self) -> str:
        """The configuration that the run dumped; empty where there is none."""
        files = filter(Path.is_file, sorted(self.folder.glob('*.py')))
        return next((path.read_text('utf-8', 'replace') for path in files), '')


def read_run(folder: Path) -> RunRecord | None:
    """The run of a folder, trained or tested there; None if there is neither.

    Raises:
        UserError: an invalid ``scores.json``.
    """
    place = folder if (folder / RECORD).is_file() else folder / TEST
    run = RunRecord(folder, read_record(place), place)
    if run.losses or not run.record:
        return run if run.losses else None
    elsewhere = RunRecord(Path(run.record['checkpoint']).parent, run.record, place)
    return elsewhere if elsewhere.losses else run


def find_runs(folder: Path) -> list[RunRecord]:
    """The runs in a folder and below it.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    places = {path.parent for path in folder.rglob(RECORD)}
    places = {place.parent if place.name == TEST and place != folder else place for place in places}
    places |= {path.parents[2] for path in folder.glob('**/vis_data/scalars.json')}
    runs = [run for place in sorted(places) if (run := read_run(place))]
    tested = {run.folder.resolve() for run in runs if run.record}
    runs = [run for run in runs if run.record or run.folder.resolve() not in tested]
    if not runs:
        raise UserError(f'{folder}: contains no run: neither scores.json of tools/test.py nor a log of tools/train.py')
    return runs
