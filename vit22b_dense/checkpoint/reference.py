"""What a checkpoint holds in place of weights that were not trained: which they are and where they came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from .errors import CheckpointError, human
from .reading import weight_files

BLOCK, BLOCKS = 2**16, 64  # of `fingerprint`: bytes, number


@dataclass(frozen=True)
class Reference:
    """Weights that lie elsewhere.

    Attributes:
        kind: ``'file'`` (also a folder), ``'hub'`` or ``'random'``.
        name: path of the file or folder, or the hub's name.
        size, sha256: of a file; of a folder: all its weight files' bytes, and the hash of their names and hashes.
        revision: of the hub's model. seed: of random weights.
    """

    kind: str
    name: str = ''
    size: int | None = None
    sha256: str | None = None
    revision: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, source: Mapping) -> 'Reference':
        """From a backbone's ``weights_source``; a file is read for its hash.

        Raises:
            CheckpointError: no such file.
        """
        if source['kind'] == 'random':
            return cls('random', seed=source['seed'])
        if source['kind'] == 'hub':
            return cls('hub', source['name'], revision=source['revision'])
        path = Path(source['path']).expanduser().resolve()
        stats = {file: file.stat() for file in weight_files(path)}
        hashes = {file.name: _sha256(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}
        lines = ''.join(f'{name} {sha256}\n' for name, sha256 in sorted(hashes.items()))
        digest = hashlib.sha256(lines.encode()).hexdigest() if {*hashes} != {path.name} else hashes[path.name]
        return cls('file', str(path), sum(stat.st_size for stat in stats.values()), digest)

    def to_dict(self) -> dict:
        """As a checkpoint holds it: plain values."""
        return {key: value for key, value in asdict(self).items() if value not in (None, '')}

    def __str__(self) -> str:
        if self.kind == 'random':
            return f'random weights of seed {self.seed}'
        if self.kind == 'hub':
            return f'{self.name} of the hub, revision {self.revision}'
        return f'{self.name} ({human(self.size)}, SHA-256 {self.sha256[:12]}…)'

    def same_weights(self, other: 'Reference') -> bool:
        """Whether both are the same weights, wherever they lie."""
        return self.sha256 == other.sha256 if self.kind == other.kind == 'file' else self == other

    def found(self) -> bool:
        """Whether a file is still in its place, unchanged."""
        try:
            return self.kind == 'file' and self.same_weights(Reference.of(dict(kind='file', path=self.name)))
        except (CheckpointError, OSError):
            return False


def fingerprint(path: str | Path) -> str:
    """Six digits that tell weights apart by their content, wherever they lie, without reading all of it.

    They are of the SHA-256 of each file's size and of 64 blocks of 64 KiB, spread evenly over the file.

    Args:
        path: as for `weight_files`.

    Raises:
        CheckpointError: no such file.
    """
    found = hashlib.sha256()
    for file in weight_files(path):
        size = file.stat().st_size
        found.update(f'{size}\n'.encode())
        with open(file, 'rb') as opened:
            for n in range(BLOCKS if size > BLOCK else 1):
                opened.seek(max(size - BLOCK, 0) * n // (BLOCKS - 1))
                found.update(opened.read(BLOCK))
    return found.hexdigest()[:6]


@lru_cache(1024)
def _sha256(file: Path, size: int, changed: int) -> str:
    """Size and time of the last change are there so that a file is hashed again only after it has changed."""
    with open(file, 'rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()
