"""Pictures of depth: image, LiDAR points, prediction and error, with colour bars in metres."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmseg.registry import VISUALIZERS
from PIL import Image, ImageDraw, ImageFont

from .panels import INK, PAPER, PanelVisualizer, compose

WIDTH = 480  # of one panel, pixels; smaller images are enlarged, larger ones shrunk
BAR, TICK_FONT = 14, 13
NEAREST, ERROR = 2.0, 10.0  # metres at the near end of the depth's colours, and at the ends of the error's
BLUE, RED, MIDDLE = (np.array(colour, float) for colour in ((33, 102, 220), (215, 40, 40), (235, 235, 235)))

_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]  # (256, 3) RGB


def depth_colours(depth: np.ndarray, max_depth: float) -> np.ndarray:
    """Depth in metres, any shape, to RGB uint8 ``(…, 3)``: near is red, far is blue, in equal ratios."""
    share = np.log(np.clip(depth, NEAREST, max_depth) / NEAREST) / np.log(max_depth / NEAREST)
    return _TURBO[np.round(255 * (1 - share)).astype(np.uint8)]


def error_colours(error: np.ndarray) -> np.ndarray:
    """Prediction less ground truth in metres, any shape, to RGB: blue is too near, red too far."""
    share = np.clip(_bend(error) / _bend(ERROR), -1, 1)[..., None]
    side = np.where(share < 0, BLUE, RED)
    return (MIDDLE + np.abs(share) * (side - MIDDLE)).astype(np.uint8)


def _bend(error: np.ndarray | float) -> np.ndarray | float:
    """A scale that is even near 0 and logarithmic far from it."""
    return np.arcsinh(2 * np.asarray(error))


def depth_bar(width: int, max_depth: float) -> np.ndarray:
    """The colours of `depth_colours` with their metres."""
    marks = [m for m in (2, 5, 10, 20, 40, 80, 160) if m <= max_depth]
    if max_depth not in marks:
        marks = [m for m in marks if m < 0.8 * max_depth] + [max_depth]
    places = np.log(np.array(marks) / NEAREST) / np.log(max_depth / NEAREST)
    colours = depth_colours(np.geomspace(NEAREST, max_depth, width), max_depth)
    return _bar(colours, places, [f'{m:g}' for m in marks])


def error_bar(width: int) -> np.ndarray:
    """The colours of `error_colours` with their metres."""
    marks = np.array([-ERROR, -3, -1, 0, 1, 3, ERROR])
    places = (_bend(marks) / _bend(ERROR) + 1) / 2
    colours = error_colours(np.sinh(np.linspace(-1, 1, width) * _bend(ERROR)) / 2)
    return _bar(colours, places, [f'{m:+g}' if m else '0' for m in marks])


def _bar(colours: np.ndarray, places: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Colours ``(width, 3)`` as a bar ``(H, width, 3)`` with ticks below, at shares of the width, in metres."""
    width, font = len(colours), ImageFont.load_default(TICK_FONT)
    sheet = Image.new('RGB', (width, BAR + 24), PAPER)
    sheet.paste(Image.fromarray(np.repeat(colours[None], BAR, 0)), (0, 4))
    draw = ImageDraw.Draw(sheet)
    for place, text in zip(places, [*texts[:-1], f'{texts[-1]} m'], strict=True):
        x = round(place * (width - 1))
        draw.line((x, BAR + 4, x, BAR + 7), INK)
        half = font.getlength(text) / 2
        draw.text((min(max(x - half, 0), width - 2 * half - 1), BAR + 8), text, INK, font)
    return np.asarray(sheet)


def depth_panel(
    image: np.ndarray, prediction: np.ndarray | None, gt: np.ndarray | None, max_depth: float
) -> np.ndarray:
    """Image, LiDAR points, predicted depth and error, two in a row.

    Args:
        image: RGB uint8 ``(H, W, 3)``, and so is the result.
        prediction, gt: metres ``(H, W)``, 0 = none; None leaves its panels out.
        max_depth: the far end of the colours, metres.
    """
    height, width = image.shape[:2]
    size = (WIDTH, round(height * WIDTH / width))
    photo = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width > WIDTH else cv2.INTER_LINEAR)
    bar = depth_bar(WIDTH, max_depth)
    panels = [('image', np.concatenate([photo, np.full_like(bar, 255)]))]
    if gt is not None:
        y, x = np.nonzero(gt)
        order = np.argsort(-gt[y, x], kind='stable')  # the nearest are painted last, on top
        y, x = y[order], x[order]
        depth = gt[y, x]
        places = ((y + 0.5) * size[1] / height).astype(int), ((x + 0.5) * size[0] / width).astype(int)
        grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[:, :, None] // 3, 3, 2)
        lidar = _painted(grey, *places, depth_colours(depth, max_depth))
        panels.append((f'LiDAR, {len(depth)} points', np.concatenate([lidar, bar])))
    if prediction is not None:
        predicted = depth_colours(cv2.resize(prediction.astype(np.float32), size), max_depth)
        panels.append(('predicted depth', np.concatenate([predicted, bar])))
    if gt is not None and prediction is not None:
        error = prediction[y, x] - depth
        mean = f'{np.abs(error).mean():.2f} m' if len(depth) else 'none'
        painted = _painted(grey, *places, error_colours(error))
        title = f'error, mean {mean}: blue is too near, red too far'
        panels.append((title, np.concatenate([painted, error_bar(WIDTH)])))
    return np.concatenate([compose(panels[i : i + 2]) for i in range(0, len(panels), 2)])


def _painted(image: np.ndarray, y: np.ndarray, x: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A copy of an image with squares of 2 by 2 pixels in it, the last ones on top."""
    image = image.copy()
    for dy, dx in ((-1, -1), (-1, 0), (0, -1), (0, 0)):
        image[np.clip(y + dy, 0, image.shape[0] - 1), np.clip(x + dx, 0, image.shape[1] - 1)] = colours
    return image


@VISUALIZERS.register_module()
class DepthPanelVisualizer(PanelVisualizer):
    """Image, LiDAR points (``gt_depth_map``), predicted depth (``pred_depth_map``) and error.

    Args:
        max_depth: the far end of the colours, metres.
        name, settings: of mmengine's ``Visualizer``.
    """

    prediction, ground_truth = 'pred_depth_map', 'gt_depth_map'

    def __init__(self, max_depth: float = 80.0, name: str = 'visualizer', **settings: Any) -> None:
        super().__init__(name, **settings)
        self.max_depth = max_depth

    def draw(
        self,
        image: np.ndarray,
        prediction: np.ndarray | None,
        ground_truth: np.ndarray | None,
        with_labels: bool = True,
    ) -> np.ndarray:
        """See `depth_panel`; there are no classes to name."""
        return depth_panel(image, prediction, ground_truth, self.max_depth)
