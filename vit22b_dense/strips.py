"""Labels of a picture from the logits of its windows, made in strips of rows.

What comes out is what mmseg's `slide_inference` and `postprocess_result` give: each window's logits are resized to the
window, averaged where windows overlap, and resized to the picture's original size. All of this is linear, and rows and
columns are independent of each other, so it is two matrix products, one a side. A map of logits at the size of the
picture (12 megapixels of 150 classes take 7 GB) is never made, and a row of windows is let go as soon as the strips
have passed it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Logits of one strip. On the CPU they should stay in its cache; elsewhere fewer and larger steps are faster.
STRIP_NUMBERS = {'cpu': 2**20}
STRIP_NUMBERS_ELSEWHERE = 2**25


@dataclass(frozen=True)
class Side:
    """Height or width: where the windows lie, and how their pixels become those of the result.

    Attributes:
        size: of the picture that the windows are of, pixels.
        original: of the result.
        starts: first pixel of each window. window: their length.
        padding: pixels before and behind that the result leaves out.
        flipped: whether the picture is mirrored along this side, and the result is not.
        align_corners: of both resizings, as `torch.nn.functional.interpolate` has it.
    """

    size: int
    original: int
    starts: tuple[int, ...] = (0,)
    window: int = 0
    padding: tuple[int, int] = (0, 0)
    flipped: bool = False
    align_corners: bool = False

    def weights(self, cells: int) -> Tensor:
        """What each of a window's cells adds to each pixel of the result: ``(original, windows * cells)``."""
        window = self.window or self.size
        within = resized(torch.eye(cells), window, self.align_corners)
        placed, count = torch.zeros(self.size, len(self.starts), cells), torch.zeros(self.size, 1, 1)
        for i, start in enumerate(self.starts):
            placed[start : start + window, i] = within
            count[start : start + window] += 1
        placed = (placed / count).flatten(1)[self.padding[0] : self.size - self.padding[1]]
        return resized(placed.flip(0) if self.flipped else placed, self.original, self.align_corners)


class Mosaic:
    """The logits of a picture's windows, read strip by strip from top to bottom.

    Shapes: K classes, h and w cells of a window's logits, H0 and W0 pixels of the result.

    Args:
        rows, columns: height and width.
        decode: from the number of a row of windows to the logits of its windows, ``(windows, h, w, K)`` float32.
    """

    def __init__(self, rows: Side, columns: Side, decode: Callable[[int], Tensor]) -> None:
        self.rows, self.decode = rows, decode
        self.size = rows.original, columns.original
        first = len(rows.starts) - 1 if rows.flipped else 0
        self._decoded = {first: decode(first)}
        _, self._cells, width, self.classes = self._decoded[first].shape
        self.device = self._decoded[first].device
        self._row_weights = rows.weights(self._cells)
        self._wide: dict[int, Tensor] = {}  # rows of cells that the last strip used
        self._columns = []  # of each window: the pixels that it reaches, and its cells' part in them
        for part in columns.weights(width).split(width, dim=1):
            reached = part.any(1).nonzero()
            pixels = slice(int(reached[0]), int(reached[-1]) + 1)
            self._columns.append((pixels, part[pixels].to(self.device)))

    def strip(self, top: int, bottom: int) -> Tensor:
        """Logits of the rows from ``top`` to ``bottom``, ``(bottom - top, W0, K)``; ``top`` never goes back."""
        weights = self._row_weights[top:bottom]
        used = weights.any(0).nonzero()[:, 0]
        windows = {i // self._cells for i in used.tolist()}
        self._decoded = {i: self._decoded[i] if i in self._decoded else self.decode(i) for i in windows}
        with torch.autocast(self.device.type, enabled=False):
            self._wide = {i: self._wide[i] if i in self._wide else self._widened(i) for i in used.tolist()}
            wide = torch.stack(list(self._wide.values()))
            strip = weights[:, used].to(self.device) @ wide.flatten(1)
        return strip.unflatten(1, wide.shape[1:])

    def _widened(self, row: int) -> Tensor:
        """A row of cells, of all windows one below the other, at all pixels of the width: ``(W0, K)``."""
        logits = self._decoded[row // self._cells][:, row % self._cells]
        if len(self._columns) == 1:
            return self._columns[0][1] @ logits[0]
        wide = logits.new_zeros(self.size[1], self.classes)
        for (pixels, weights), part in zip(self._columns, logits, strict=True):
            wide[pixels] += weights @ part
        return wide


def labels_of(mosaics: Sequence[Mosaic]) -> Tensor:
    """Class numbers of a picture, ``(H0, W0)`` int64; of several mosaics from the mean of their probabilities."""
    height, width = mosaics[0].size
    numbers = STRIP_NUMBERS.get(mosaics[0].device.type, STRIP_NUMBERS_ELSEWHERE)
    rows = max(1, numbers // (mosaics[0].classes * width))
    # In one piece from the start: small results between the strips would keep the freed strips from being used again.
    labels = torch.empty(height, width, dtype=torch.int64, device=mosaics[0].device)
    for top in range(0, height, rows):
        strips = (mosaic.strip(top, min(top + rows, height)) for mosaic in mosaics)
        strip = next(strips) if len(mosaics) == 1 else sum(strip.softmax(-1) for strip in strips)
        labels[top : top + rows] = _argmax(strip)
    return labels


def _argmax(x: Tensor) -> Tensor:
    """Of the last dimension. NumPy's is vectorised and takes a third of PyTorch's, which uses all threads."""
    if x.device.type == 'cpu' and torch.get_num_threads() <= 3:
        return torch.from_numpy(x.detach().numpy().argmax(-1))
    return x.max(-1).indices  # `argmax` takes twice as long


def resized(x: Tensor, size: int, align_corners: bool = False) -> Tensor:
    """The first dimension resized linearly, with the coordinates of `torch.nn.functional.interpolate`."""
    stored, places = len(x), torch.arange(size, dtype=torch.float64)
    if align_corners:
        source = places * ((stored - 1) / max(size - 1, 1))
    else:
        source = ((places + 0.5) * (stored / size) - 0.5).clamp(min=0)
    before = source.long().clamp(max=stored - 1)
    weight = (source - before).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x[before], x[(before + 1).clamp(max=stored - 1)], weight)
