"""Logits of windows at the resolution of a decoder, put together to labels in strips of rows.

A map of logits at the size of the picture is never made: 12 megapixels of 150 classes would take 7 GB. What comes out
is what mmseg's `slide_inference` and `postprocess_result` give: each window's logits are resized to the window,
averaged where windows overlap, and resized to the picture's original size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP_NUMBERS = 2**24  # logits of one strip: 64 MB in float32


@dataclass(frozen=True)
class Window:
    """A part of a picture and its logits.

    Attributes:
        top, left: of its first pixel. height, width: in pixels.
        logits: ``(K, h, w)`` at the resolution of the decoder; None where they are yet to be computed.
    """

    top: int
    left: int
    height: int
    width: int
    logits: Tensor | None = None


def split(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> Iterator[Window]:
    """The windows of mmseg's 'slide' mode, row by row: the last of a row or column is moved inside.

    Args:
        size: of the picture, (height, width). crop: of a window. stride: between two.
    """
    starts = []
    for side, window, step in zip(size, crop, stride, strict=True):
        count = max(side - window + step - 1, 0) // step + 1
        starts.append([max(min(i * step + window, side) - window, 0) for i in range(count)])
    for top in starts[0]:
        for left in starts[1]:
            yield Window(top, left, min(crop[0], size[0]), min(crop[1], size[1]))


def labels_of(windows: list[Window], size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Class numbers of a picture.

    Args:
        windows: with logits; they cover the picture.
        size: of the picture that the windows are of, (height, width).
        original: of the result.

    Returns:
        ``(H, W)`` int64, of the size ``original``.
    """
    classes = windows[0].logits.shape[0]
    rows = max(1, STRIP_NUMBERS // (classes * max(size[1], original[1])))
    labels = [
        _strip(windows, size, original, top, min(top + rows, original[0])) for top in range(0, original[0], rows)
    ]
    return torch.cat(labels)


def _strip(windows: list[Window], size: tuple[int, int], original: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Labels of the rows ``top`` to ``bottom`` of the result."""
    if size == original:
        logits = _rows(windows, size[1], top, bottom)
    else:
        before, behind, weight = _neighbours(torch.arange(top, bottom), size[0], original[0])
        first = int(before[0])
        logits = _rows(windows, size[1], first, int(behind[-1]) + 1)
        logits = _mixed(logits, before - first, behind - first, weight)
    if logits.shape[2] != original[1]:
        logits = F.interpolate(
            logits[None], size=(logits.shape[1], original[1]), mode='bilinear', align_corners=False
        )[0]
    return logits.argmax(0)


def _rows(windows: list[Window], width: int, top: int, bottom: int) -> Tensor:
    """The mean logits ``(K, bottom - top, width)`` of some rows of the windows' picture."""
    whole = len(windows) == 1
    total = count = None
    for window in windows:
        start, stop = max(top, window.top), min(bottom, window.top + window.height)
        if start >= stop:
            continue
        places = torch.arange(start, stop) - window.top
        part = _mixed(window.logits, *_neighbours(places, window.logits.shape[1], window.height))
        part = F.interpolate(part[None], size=(part.shape[1], window.width), mode='bilinear', align_corners=False)[0]
        if whole:
            return part
        if total is None:
            total = part.new_zeros(part.shape[0], bottom - top, width)
            count = part.new_zeros(bottom - top, width)
        place = slice(start - top, stop - top), slice(window.left, window.left + window.width)
        total[:, *place] += part
        count[place] += 1
    return total.div_(count)


def _neighbours(places: Tensor, stored: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of pixels of a side: the stored rows before and behind, and the weight of the latter (corners not aligned)."""
    source = ((places.double() + 0.5) * (stored / side) - 0.5).clamp(min=0)
    before = source.long().clamp(max=stored - 1)
    return before, (before + 1).clamp(max=stored - 1), (source - before).float()


def _mixed(logits: Tensor, before: Tensor, behind: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``(K, h, w)`` between two stored ones."""
    before, behind = before.to(logits.device), behind.to(logits.device)
    weight = weight.to(logits)[:, None]
    return torch.lerp(logits.index_select(1, before), logits.index_select(1, behind), weight)
