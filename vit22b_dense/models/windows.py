"""The windows of a picture: where they lie, and a model on several of them at a time."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UserError

# Pixels of one forward pass. On the CPU a window of 504 px is as fast alone as with others (docs/performance.md).
PIXELS_ON_CPU = 2**17
PIXELS_ELSEWHERE = 2**22

Model = Callable[[Tensor], Tensor]
Grid = tuple[list[int], list[int], tuple[int, int]]


def grid_of(size: tuple[int, int], test_cfg: Mapping) -> Grid:
    """The windows of mmseg's 'slide' mode: the last of a row or column is moved inside. In 'whole' mode there is one.

    Args:
        size: of the picture, (height, width). test_cfg: with ``mode``, and for slide ``crop_size`` and ``stride``.

    Returns:
        First pixels of the rows of windows and of the columns, and the windows' (height, width).

    Raises:
        UserError: windows that leave pixels out.
    """
    if not test_cfg.get('mode', 'whole').startswith('slide'):
        return [0], [0], size
    starts, sides = [], []
    for side, window, step in zip(size, test_cfg['crop_size'], test_cfg['stride'], strict=True):
        if not 0 < step <= window:
            stride, crop = tuple(test_cfg['stride']), tuple(test_cfg['crop_size'])
            raise UserError(
                f'test_cfg: stride={stride} for windows of crop_size={crop}: choose strides of at least 1 pixel and '
                'at most a window, so that every pixel lies in one'
            )
        count = max(side - window + step - 1, 0) // step + 1
        starts.append([max(min(i * step + window, side) - window, 0) for i in range(count)])
        sides.append(min(window, side))
    return *starts, tuple(sides)


def on_windows(model: Model, image: Tensor, corners: Sequence[tuple[int, int]], window: tuple[int, int]) -> Tensor:
    """A model's answers to windows, a number of them in each forward pass.

    Args:
        model: from ``(B, 3, h, w)`` to a tensor of B.
        image: ``(3, H, W)``.
        corners: top and left of each window. window: (height, width).

    Returns:
        The answers to all windows in their order.
    """
    height, width = window
    pixels = PIXELS_ON_CPU if image.device.type == 'cpu' else PIXELS_ELSEWHERE
    together = max(1, pixels // (height * width))
    parts = [image[:, top : top + height, left : left + width] for top, left in corners]
    batches = [torch.stack(parts[i : i + together]) for i in range(0, len(parts), together)]
    return torch.cat([model(batch) for batch in batches])


def mean_map(model: Model, image: Tensor, grid: Grid) -> Tensor:
    """The mean of a model's answers at each pixel, ``(1, H, W)``: each row of windows is added in place.

    Args:
        model: from ``(B, 3, h, w)`` to ``(B, 1, h, w)``.
        image: ``(3, H, W)``.
        grid: of `grid_of`.
    """
    tops, lefts, (height, width) = grid
    total, count = image.new_zeros(2, 1, *image.shape[1:])
    for top in tops:
        answers = on_windows(model, image, [(top, left) for left in lefts], grid[2])
        for left, answer in zip(lefts, answers, strict=True):
            place = slice(top, top + height), slice(left, left + width)
            total[:, *place] += answer
            count[:, *place] += 1
    return total.div_(count)
