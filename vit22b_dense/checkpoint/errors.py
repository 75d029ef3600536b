"""The error of weight files, and how its messages list tensors."""

from collections.abc import Iterable
from typing import Protocol

import torch

from ..errors import UserError


class CheckpointError(UserError):
    """A weight file that cannot be read or written, is not safe to read, or does not fit."""


class HasDtype(Protocol):
    """A tensor, or what describes one."""

    dtype: torch.dtype


def describe(name: str, shape: Iterable[int], dtype: torch.dtype | None = None) -> str:
    """``name (3, 4)`` or ``name (3, 4) bfloat16``."""
    text = f'{name} {tuple(shape)}'
    return f'{text} {str(dtype).removeprefix("torch.")}' if dtype else text


def human(nbytes: int) -> str:
    """A number of bytes with a unit that suits it, ``2.01 GB``."""
    for unit, size in (('GB', 10**9), ('MB', 10**6), ('kB', 10**3)):
        if nbytes >= size:
            return f'{nbytes / size:.2f} {unit}'
    return f'{nbytes} bytes'


def listing(tensors: dict) -> str:
    """The first names and shapes of what has shapes: tensors or their descriptions."""
    return shorten([describe(name, tensor.shape) for name, tensor in tensors.items()])


def shorten(items: list[str], most: int = 8) -> str:
    """The first of a list, and how many more there are."""
    rest = f', … and {len(items) - most} more' if len(items) > most else ''
    return ', '.join(items[:most]) + rest


def is_weight(tensor: HasDtype) -> bool:
    """Whether a tensor or its description holds floating-point numbers."""
    return tensor.dtype.is_floating_point
