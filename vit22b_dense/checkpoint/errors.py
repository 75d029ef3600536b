"""The error of weight files, and how its messages list tensors."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import UserError


class CheckpointError(UserError):
    """A weight file that cannot be read or written, is not safe to read, or does not fit."""


def describe(name: str, tensor: Tensor) -> str:
    """``name (3, 4) bfloat16``."""
    return f'{name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix("torch.")}'


def shorten(items: Mapping[str, Tensor] | Iterable[str], most: int = 8) -> str:
    """The first of some names or tensors, and how many more there are."""
    texts = [describe(*item) for item in items.items()] if isinstance(items, Mapping) else list(items)
    return ', '.join(texts[:most]) + (f', … and {len(texts) - most} more' if len(texts) > most else '')


def itemise(problems: Mapping[str, Mapping[str, Tensor] | list[str]]) -> list[str]:
    """Of each kind of problem that there is: the kind, how many, and the first of them."""
    return [f'{kind} ({len(items)}): {shorten(items)}' for kind, items in problems.items() if items]


def human(nbytes: int) -> str:
    """A number of bytes with a unit that suits it, ``2.01 GB``."""
    power = min(len(str(nbytes)) - 1, 9) // 3
    return f'{nbytes / 1000**power:.2f} {("bytes", "kB", "MB", "GB")[power]}' if power else f'{nbytes} bytes'
