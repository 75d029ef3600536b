"""Writing files whole: beside, then renamed."""

import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file so that its final name never holds a part of it, whenever the process dies.

    Args:
        path: the final name; its folder is made.
        content: bytes, or text written as UTF-8.

    Raises:
        OSError: as ``open`` and ``write`` raise it (a full disk, say); the former file is then untouched.
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
