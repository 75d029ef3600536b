"""What runs have left in their folders: scores, losses, pictures, configurations."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

RECORD = 'scores.json'


@dataclass(frozen=True)
class RunRecord:
    """A training, its test, or both.

    Attributes:
        folder: where the training is, or else the test.
        record: content of ``scores.json``; empty where it was not tested.
        record_folder: where that lies.
    """

    folder: Path
    record: dict
    record_folder: Path | None

    @property
    def scores(self) -> dict[str, float]:
        """All scores by name."""
        return self.record.get('scores', {})

    @property
    def of_depth(self) -> bool:
        """Whether its scores are of depth."""
        return 'pixel/abs_rel' in self.scores

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Iteration and loss, as logged; of iterations logged twice (a resumed run) the later ones."""
        found = {}
        for path in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in path.read_text(encoding='utf-8').splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line that a kill cut off
                    continue
                if 'loss' in entry:
                    found[entry['step']] = entry['loss']
        return sorted(found.items())

    @property
    def config(self) -> str:
        """The configuration that the run dumped; empty where there is none."""
        dumped = sorted(self.folder.glob('*.py'))
        return dumped[0].read_text(encoding='utf-8') if dumped else ''

    def picture(self, example: dict) -> Path:
        """The file of one of ``record['examples']``."""
        return self.record_folder / 'examples' / example['picture']


def read_run(folder: Path) -> RunRecord | None:
    """The run of a folder: trained there or tested there; None where there is neither.

    Raises:
        UserError: a ``scores.json`` that is not one.
    """
    # a test may have a folder of its own below the training's
    place = next((place for place in (folder, folder / 'test') if (place / RECORD).is_file()), None)
    if place is None:
        run = RunRecord(folder, {}, None)
        return run if run.losses else None
    try:
        record = json.loads((place / RECORD).read_text(encoding='utf-8'))
        record['scores'], record['checkpoint']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{place / RECORD}: not written by tools/test.py ({error!r})') from error
    trained = Path(record['checkpoint']).parent
    here = RunRecord(folder, record, place)
    elsewhere = RunRecord(trained, record, place)
    return elsewhere if elsewhere.losses and not here.losses else here


def find_runs(folder: Path) -> list[RunRecord]:
    """The runs in a folder and below it.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    places = {path.parent for path in folder.rglob(RECORD)}
    places = {place.parent if place.name == 'test' and place != folder else place for place in places}
    places |= {path.parents[2] for path in folder.glob('**/vis_data/scalars.json')}
    runs = [run for place in sorted(places) if (run := read_run(place)) is not None]
    covered = {run.folder.resolve() for run in runs if run.record}
    runs = [run for run in runs if run.record or run.folder.resolve() not in covered]
    if not runs:
        raise UserError(
            f'{folder}: no run in it: neither the scores.json of tools/test.py nor the log of tools/train.py'
        )
    return runs
