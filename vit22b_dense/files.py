"""Atomic writes of files and folders: under a temporary name, then renamed; and what dead processes left of them.

While NAME is being written, its content goes to ``.NAME.PID.part``, a folder that it replaces is kept as
``.NAME.PID.former``, and ``.NAME.PID.owner`` is locked. The system releases the lock when the process dies, however it
dies. The next process that writes into the folder then removes all three, or puts the former folder back.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LEFT = re.compile(r'(?P<owner>\.(?P<name>.+)\.\d+)\.(?P<kind>part|former|owner)')
_swept: set[Path] = set()  # folders that this process has looked through


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file so that its final name never refers to a partial file, whenever the process dies.

    Args:
        path: the final name; its folder is made.
        content: bytes, or text written as UTF-8.

    Raises:
        OSError: as ``open`` and ``write`` raise it (a full disk, say); the previous file is then untouched.
    """
    path = Path(path)
    with naming(path, instead=True), _parts_of(path) as (beside, _):
        try:
            with open(beside, 'wb') as file:
                file.write(content.encode(errors='surrogateescape') if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def written_whole(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Write a file or folder too large for `write_atomically`: under a temporary name, renamed if the block succeeds.

    Args:
        path: the final name; its parent folder is made.
        overwrite: replace what is there; otherwise it is an error if something has appeared there meanwhile.

    Yields:
        The name to write to. Nothing exists there yet; if the block fails, nothing is left there.

    Raises:
        FileExistsError: something is there, without ``overwrite``.
        OSError: as writing raises it; what was there before is then untouched.
    """
    path = Path(path)
    with naming(path), _parts_of(path) as (beside, former):
        try:
            yield beside
            for file in beside.iterdir() if beside.is_dir() else [beside]:
                with open(file, 'rb') as written:
                    os.fsync(written.fileno())
            if not overwrite and os.path.lexists(path):
                raise FileExistsError(f'{path} exists')
            if path.is_dir():
                os.rename(path, former)  # a folder cannot be replaced in one step
                try:
                    os.rename(beside, path)
                except BaseException:
                    os.rename(former, path)
                    raise
                shutil.rmtree(former)
            else:
                os.replace(beside, path)
        finally:
            _remove(beside)


@contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside a path for the time of the block."""
    with _parts_of(Path(path)) as (folder, _):
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def remove(path: str | Path) -> None:
    """Remove a file or folder, if it is there; of a folder, no part is left under its name when the process dies."""
    path = Path(path)
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with _parts_of(path) as (beside, _):
        os.rename(path, beside)
        _remove(beside)


def sweep(folder: str | Path) -> None:
    """Remove what dead processes left in a folder, and put back what they were about to replace.

    What cannot be removed stays; that is no reason to stop.
    """
    folder, left = Path(folder), {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := LEFT.fullmatch(entry.name):
                left.setdefault(match['owner'], {})[match['kind']] = match['name']
    for owner, kinds in left.items():
        with suppress(OSError):
            lock = take_lock(folder / f'{owner}.owner')
            if lock is None:  # its owner lives
                continue
            with lock:
                former = folder / f'{owner}.former'
                if 'former' in kinds and not os.path.lexists(folder / kinds['former']):
                    os.rename(former, folder / kinds['former'])  # cut off between the two renames
                _remove(former)
                _remove(folder / f'{owner}.part')
                os.unlink(folder / f'{owner}.owner')


def take_lock(path: str | Path) -> BinaryIO | None:
    """Lock a file until it is closed or the process dies; the file is made.

    Returns:
        The open file; None where another process has it.

    Raises:
        OSError: it cannot be opened or locked.
    """
    path = Path(path)
    while True:
        file = open(path, 'ab')  # noqa: SIM115 (the caller closes it)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file  # and not one that has been removed in between
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()


@contextmanager
def naming(path: str | Path, instead: bool = False) -> Iterator[None]:
    """Give errors of the system the name of a path where they have none, as a full disk's; or instead of theirs."""
    try:
        yield
    except OSError as error:
        if error.errno and (instead or error.filename is None):
            error.filename = str(path)
        raise


@contextmanager
def _parts_of(path: Path) -> Iterator[tuple[Path, Path]]:
    """Names for the parts of what is written to a path, while this process owns them."""
    own = f'.{path.name}.{os.getpid()}'
    with naming(path, instead=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file, where the folder should be
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
        if (folder := path.parent.absolute()) not in _swept:
            _swept.add(folder)
            sweep(folder)
        lock = take_lock(path.with_name(f'{own}.owner'))
    if lock is None:
        raise FileExistsError(f'{path}: being written by another process of the same number')
    with lock:
        try:
            yield path.with_name(f'{own}.part'), path.with_name(f'{own}.former')
        finally:
            path.with_name(f'{own}.owner').unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
