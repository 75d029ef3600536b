"""Pictures of depth: image, LiDAR points, prediction and error, with colour bars in metres."""

import cv2
import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from PIL import Image, ImageDraw, ImageFont

from .panels import INK, PAPER, PanelVisualizer, compose, field_of

WIDTH = 480  # of one panel, pixels; smaller images are enlarged, larger ones shrunk
BAR, TICK_FONT = 14, 13
NEAREST, ERROR = 2.0, 10.0  # metres at the near end of the depth's colours, and at the ends of the error's
BLUE, RED, MIDDLE = (np.array(colour, float) for colour in ((33, 102, 220), (215, 40, 40), (235, 235, 235)))

_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]  # (256, 3) RGB


def depth_colours(depth: np.ndarray, max_depth: float, min_depth: float = NEAREST) -> np.ndarray:
    """Depth in metres, any shape, to RGB uint8 ``(…, 3)``: near is red, far is blue, in equal ratios."""
    share = np.log(np.clip(depth, min_depth, max_depth) / min_depth) / np.log(max_depth / min_depth)
    return _TURBO[np.round(255 * (1 - share)).astype(np.uint8)]


def error_colours(error: np.ndarray) -> np.ndarray:
    """Prediction less ground truth in metres, any shape, to RGB: blue is too near, red too far."""
    share = np.clip(_bend(error) / _bend(ERROR), -1, 1)[..., None]
    side = np.where(share < 0, BLUE, RED)
    return (MIDDLE + np.abs(share) * (side - MIDDLE)).astype(np.uint8)


def _bend(error: np.ndarray | float) -> np.ndarray | float:
    """A scale that is even near 0 and logarithmic far from it."""
    return np.arcsinh(2 * np.asarray(error))


def _splat(image: np.ndarray, x: np.ndarray, y: np.ndarray, colours: np.ndarray, order: np.ndarray, size: int) -> None:
    """Paint squares into an image, in an order: the last ones stay on top."""
    for dy in range(size):
        for dx in range(size):
            rows = np.clip(y[order] + dy - size // 2, 0, image.shape[0] - 1)
            image[rows, np.clip(x[order] + dx - size // 2, 0, image.shape[1] - 1)] = colours[order]


def _bar(width: int, colours: np.ndarray, ticks: list[tuple[float, str]]) -> np.ndarray:
    """A colour bar with ticks below, ``(H, width, 3)``; tick places are shares of the width."""
    font = ImageFont.load_default(TICK_FONT)
    sheet = Image.new('RGB', (width, BAR + 24), PAPER)
    sheet.paste(Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours[None], (BAR, width, 3)))), (0, 4))
    draw = ImageDraw.Draw(sheet)
    for place, text in ticks:
        x = round(place * (width - 1))
        draw.line((x, BAR + 4, x, BAR + 7), INK)
        half = font.getlength(text) / 2
        draw.text((min(max(x - half, 0), width - 2 * half - 1), BAR + 8), text, INK, font)
    return np.asarray(sheet)


def depth_bar(width: int, max_depth: float) -> np.ndarray:
    """The colours of `depth_colours` with their metres."""
    metres = np.geomspace(NEAREST, max_depth, width)
    marks = [m for m in (2, 5, 10, 20, 40, 80, 160) if m <= max_depth]
    if max_depth not in marks:
        marks = [m for m in marks if m < 0.8 * max_depth] + [max_depth]
    span = np.log(max_depth / NEAREST)
    ticks = [(float(np.log(m / NEAREST) / span), f'{m:g} m' if m == marks[-1] else f'{m:g}') for m in marks]
    return _bar(width, depth_colours(metres, max_depth), ticks)


def error_bar(width: int) -> np.ndarray:
    """The colours of `error_colours` with their metres."""
    error = np.sinh(np.linspace(-1, 1, width) * _bend(ERROR)) / 2
    marks = (-ERROR, -3, -1, 0, 1, 3, ERROR)
    ticks = [
        (float(_bend(m) / _bend(ERROR) + 1) / 2, f'{m:+g} m' if m == ERROR else f'{m:+g}' if m else '0') for m in marks
    ]
    return _bar(width, error_colours(error), ticks)


def depth_panel(
    image: np.ndarray, prediction: np.ndarray | None, gt: np.ndarray | None, max_depth: float
) -> np.ndarray:
    """Image, LiDAR points, predicted depth and error, two in a row.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        prediction: metres ``(H, W)``; None leaves its panels out.
        gt: metres ``(H, W)``, 0 = none; None leaves its panels out.
        max_depth: the far end of the colours, metres.

    Returns:
        RGB uint8.
    """
    height, width = image.shape[:2]
    size = (WIDTH, round(height * WIDTH / width))
    photo = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width > WIDTH else cv2.INTER_LINEAR)
    blank = np.full((BAR + 24, WIDTH, 3), 255, np.uint8)
    bar = depth_bar(WIDTH, max_depth)
    panels = [('image', np.concatenate([photo, blank]))]
    if gt is not None:
        y, x = np.nonzero(gt)
        depth = gt[y, x]
        places = ((x + 0.5) * size[0] / width).astype(int), ((y + 0.5) * size[1] / height).astype(int)
        order = np.argsort(-depth, kind='stable')  # the nearest on top
        grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[:, :, None] // 3, 3, 2)
        lidar = grey.copy()
        _splat(lidar, *places, depth_colours(depth, max_depth), order, 2)
        panels.append((f'LiDAR, {len(depth)} points', np.concatenate([lidar, bar])))
    if prediction is not None:
        predicted = depth_colours(cv2.resize(prediction.astype(np.float32), size), max_depth)
        panels.append(('predicted depth', np.concatenate([predicted, bar])))
    if gt is not None and prediction is not None:
        error, too_far = grey, prediction[y, x] - depth
        _splat(error, *places, error_colours(too_far), order, 2)
        mean = f'{np.abs(too_far).mean():.2f} m' if len(depth) else 'none'
        title = f'error, mean {mean}: blue is too near, red too far'
        panels.append((title, np.concatenate([error, error_bar(WIDTH)])))
    return np.concatenate([compose(panels[i : i + 2]) for i in range(0, len(panels), 2)])


@VISUALIZERS.register_module()
class DepthPanelVisualizer(PanelVisualizer):
    """Image, LiDAR points (``gt_depth_map``), predicted depth (``pred_depth_map``) and error.

    Args:
        max_depth: the far end of the colours, metres.
        name, vis_backends, save_dir: as in mmengine.
    """

    def __init__(
        self,
        max_depth: float = 80.0,
        name: str = 'visualizer',
        vis_backends: list[dict] | None = None,
        save_dir: str | None = None,
    ) -> None:
        super().__init__(name, vis_backends=vis_backends, save_dir=save_dir)
        self.max_depth = max_depth

    def draw(
        self, image: np.ndarray, sample: SegDataSample, with_gt: bool, with_pred: bool, with_labels: bool = True
    ) -> np.ndarray:
        """See `depth_panel`; there are no classes to name."""
        return depth_panel(
            image,
            field_of(sample, 'pred_depth_map', with_pred),
            field_of(sample, 'gt_depth_map', with_gt),
            self.max_depth,
        )
