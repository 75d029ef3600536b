"""Writing a checkpoint by all processes: each its own shards, in a folder that gets its name when it is whole."""

from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from mmengine.dist import is_main_process
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ...checkpoint import CheckpointError
from ...checkpoint.reading import BESIDE
from ...files import written_whole
from .mesh import from_first, together


def write_distributed(path: str | Path, tensors: dict[str, Tensor], beside: dict) -> None:
    """Write a checkpoint; every process calls this.

    Args:
        path: the final name. Nothing is there until all processes have written all that is theirs.
        tensors: by name; those that are not sharded are the same on every process.
        beside: what is no tensor, of the first process.

    Raises:
        CheckpointError: the disk is full, say; what was there before is then untouched.
    """
    with ExitStack() as stack:
        with together():
            folder = stack.enter_context(written_whole(path, overwrite=True)) if is_main_process() else None
        folder = Path(from_first(str(folder)))
        try:
            with together():
                dcp.save(tensors, checkpoint_id=folder)
                if is_main_process():
                    _save(beside, folder / BESIDE)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            raise CheckpointError(f'{path}: cannot be written ({first}); nothing is left of the attempt') from error
        with together():
            stack.close()


def _save(content: dict, path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # how it reports a full disk
        raise CheckpointError(f'{path}: cannot be written ({error}); nothing is left of the attempt') from error
