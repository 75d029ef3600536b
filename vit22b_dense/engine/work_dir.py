"""Work dirs: each belongs to one run."""

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from mmengine.config import Config

from ..checkpoint import CheckpointError, open_weights
from ..checkpoint.reading import DISTRIBUTED, is_distributed
from ..errors import UserError
from ..files import sweep, take_lock
from .config import read_config

# Where a run is stored, how it is launched and what it displays: runs that differ only in these are the same. Weights
# may have moved: the checkpoint identifies them by their hash.
NO_MATTER = re.compile(
    r'(work_dir|resume|load_from|launcher|log_level|log_processor|visualizer|experiment_name|custom_imports|lr_search'
    r'|default_hooks\.(logger|checkpoint|visualization|complete_data|finite_loss|stability)|(val|test|tta)_\w+'
    r'|train_cfg\.val_interval|\w+_dataloader\.(num_workers|persistent_workers|pin_memory|prefetch_factor)'
    r'|strategy\.(?!dtype)\w+|features\.folder|model\.backbone\.(init_cfg\.checkpoint|checkpoint_path|model))(\..*)?'
)
SHOWN = 3  # differences in a message
ITERATION = re.compile(rf'(?:iter|epoch)_(\d+)\.(?:pth|{DISTRIBUTED[1:]})')


class WorkDirError(UserError):
    """A work dir that contains another run, or that another process is using."""


def differences(there: dict, asked: dict) -> list[tuple[str, Any, Any]]:
    """The settings in which two configurations differ, those of `NO_MATTER` apart: key and both values of each."""
    one, other = (
        dict(_flat({k: v for k, v in _whole_batch(cfg).items() if not k.startswith('_')})) for cfg in (there, asked)
    )
    pairs = ((key, one.get(key, 'absent'), other.get(key, 'absent')) for key in {**other, **one})
    found = [(key, a, b) for key, a, b in pairs if a != b and not NO_MATTER.fullmatch(key)]
    return sorted(found, key=lambda one: one[0].startswith('param_scheduler'))  # it follows from other settings


def _whole_batch(cfg: dict) -> dict:
    """A configuration with the batch of all processes of a sharded run in place of each one's."""
    loader, strategy = cfg.get('train_dataloader') or {}, cfg.get('strategy') or {}
    if 'batch_size' not in loader or 'data' not in strategy:
        return cfg
    return cfg | {'train_dataloader': loader | {'batch_size': loader['batch_size'] * strategy['data']}}


def _flat(value: Any, key: str = '') -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None or not value:
        return [(key, list(value) if isinstance(value, tuple) else value)]
    return [pair for name, part in items for pair in _flat(part, f'{key}.{name}' if key else str(name))]


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that a run continues from: the latest, whether or not ``last_checkpoint`` names it yet.

    Only file names count, so that a work dir may be moved.
    """
    work_dir = Path(work_dir)
    numbered = [(int(match[1]), path) for path in work_dir.glob('*') if (match := ITERATION.fullmatch(path.name))]
    for _, path in sorted(numbered, reverse=True):
        if is_whole(path):
            return path
    told = work_dir / 'last_checkpoint'
    if told.is_file():
        last = Path(told.read_text('utf-8', 'replace').strip())
        return next((path for path in (work_dir / last.name, last) if path.suffix and is_whole(path)), None)
    return None


def is_whole(path: Path) -> bool:
    """Whether there is a checkpoint, a file or a folder that is complete."""
    if not is_distributed(path):
        return path.is_file()
    try:
        return bool(open_weights(path))
    except CheckpointError:
        return False


def check_same_run(work_dir: Path, cfg: Config) -> None:
    """Check that the contents of a work dir belong to a configuration.

    Raises:
        WorkDirError: it contains a checkpoint or scores of another one; names what differs and both values.
    """
    kinds = ('*.pth', f'*{DISTRIBUTED}', 'test/scores.json')
    holds = next((path.name for pattern in kinds for path in work_dir.glob(pattern)), None)
    if holds is None:
        return
    dumped = work_dir / Path(cfg.filename).name
    if not dumped.is_file():
        raise WorkDirError(
            f'{work_dir}: contains {holds} of another configuration (there is no {dumped.name}); choose another '
            '--work-dir'
        )
    found = differences(read_config(dumped).to_dict(), cfg.to_dict())
    if found:
        shown = '; '.join(f'{key} is {there!r} there and {asked!r} now' for key, there, asked in found[:SHOWN])
        more = f' (and {len(found) - SHOWN} more)' if len(found) > SHOWN else ''
        raise WorkDirError(
            f'{work_dir}: contains {holds} of another configuration: {shown}{more}, says its {dumped.name}. Choose '
            'another --work-dir, or remove that folder'
        )


def lock_folder(folder: str | Path, work: str) -> BinaryIO:
    """Lock a folder for a kind of work, ``'training'`` or ``'testing'``, until the file is closed or the process ends.

    Raises:
        WorkDirError: it cannot be written, or another process does the same there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = take_lock(Path(folder, f'.{work}'))
    except OSError as error:
        raise WorkDirError(f'{folder}: cannot be written ({error}); choose another --work-dir') from error
    if lock is None:
        raise WorkDirError(f'{folder}: another process is {work} there; choose another --work-dir')
    return lock


def claim(cfg: Config) -> BinaryIO:
    """Claim a work dir for a training: it is empty, or contains the run to resume, and no other process uses it.

    Args:
        cfg: with ``work_dir`` and ``resume``.

    Returns:
        The open lock; it is released when the process ends.

    Raises:
        WorkDirError: another process is training there; it contains a run and ``resume`` is off, or a run of
            another configuration.
    """
    work_dir = Path(cfg.work_dir)
    lock = lock_folder(work_dir, 'training')
    try:
        sweep(work_dir)
        found = find_checkpoint(work_dir)
        if found is not None and not cfg.resume:
            raise WorkDirError(
                f'{work_dir}: already contains a run ({found.name}). Continue it with --resume, or choose another '
                '--work-dir'
            )
        check_same_run(work_dir, cfg)
    except UserError:
        lock.close()
        raise
    # a data loader's worker that outlives a killed run must not keep the lock
    os.register_at_fork(after_in_child=lock.close)
    return lock
