"""Atomic writes of files and folders: under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file so that its final name never refers to a partial file, whenever the process dies.

    Args:
        path: the final name; its folder is made.
        content: bytes, or text written as UTF-8.

    Raises:
        OSError: as ``open`` and ``write`` raise it (a full disk, say); the previous file is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(beside, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, former = (path.with_name(f'.{path.name}.{os.getpid()}.{kind}') for kind in ('part', 'former'))
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
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
