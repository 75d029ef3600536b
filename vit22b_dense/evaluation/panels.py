"""Pictures of results: titled panels side by side over a legend."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image, ImageDraw, ImageFont

from ..files import write_atomically

INK, PAPER = (32, 32, 32), (255, 255, 255)
MARGIN, LINE, FONT_SIZE = 8, 22, 15


def compose(panels: Sequence[tuple[str, np.ndarray]], legend: Sequence[tuple[Sequence[int], str]] = ()) -> np.ndarray:
    """Put titled pictures of one height side by side, with a legend below.

    Args:
        panels: title and RGB uint8 picture ``(H, W, 3)`` of each; the same H.
        legend: RGB colour and text of each entry, wrapped into as many lines as needed.

    Returns:
        RGB uint8 ``(H', W', 3)``.
    """
    font = ImageFont.load_default(FONT_SIZE)
    width = sum(picture.shape[1] for _, picture in panels) + MARGIN * (len(panels) + 1)
    entries = _lay_out(legend, font, width)
    rows = entries[-1][1] + 1 if entries else 0
    top = MARGIN + LINE
    height = top + panels[0][1].shape[0] + MARGIN + rows * LINE + (MARGIN if rows else 0)
    sheet = Image.new('RGB', (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = MARGIN
    for title, picture in panels:
        draw.text((x, MARGIN), title, INK, font)
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, top))
        x += picture.shape[1] + MARGIN
    base = top + panels[0][1].shape[0] + MARGIN
    for (x, row), (colour, text) in zip(entries, legend, strict=True):
        y = base + row * LINE
        draw.rectangle((x, y + 2, x + 14, y + 16), tuple(colour), (128, 128, 128))
        draw.text((x + 20, y), text, INK, font)
    return np.asarray(sheet)


def _lay_out(legend: Sequence[tuple], font: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int]]:
    places, x, row = [], MARGIN, 0
    for _, text in legend:
        needed = 20 + round(font.getlength(text)) + 2 * MARGIN
        if x > MARGIN and x + needed > width:
            x, row = MARGIN, row + 1
        places.append((x, row))
        x += needed
    return places


def colour_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map ``(H, W)`` to RGB uint8 ``(H, W, 3)``; values outside the palette (255, ignored) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels.astype(np.uint8)]


def segmentation_panel(
    image: np.ndarray,
    prediction: np.ndarray | None,
    label: np.ndarray | None,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float = 0.8,
    with_labels: bool = True,
) -> np.ndarray:
    """Image, label and prediction side by side with a legend of the classes that occur, largest first.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        prediction: class numbers ``(H, W)``; None leaves the panel out.
        label: class numbers ``(H, W)`` with 255 for ignored; None leaves the panel out.
        classes: names.
        palette: RGB of each class.
        opacity: of the class colours over the image.
        with_labels: whether there is a legend.

    Returns:
        RGB uint8.
    """
    panels = [('image', image)]
    counts = np.zeros(256, np.int64)
    for title, labels in (('label', label), ('prediction', prediction)):
        if labels is None:
            continue
        counts += np.bincount(labels.astype(np.uint8).ravel(), minlength=256)
        mixed = opacity * colour_labels(labels, palette) + (1 - opacity) * image
        mixed[labels == 255] = 0
        panels.append((title, mixed.astype(np.uint8)))
    present = [int(i) for i in np.argsort(-counts[: len(classes)], kind='stable') if counts[i]]
    legend = [(palette[i], classes[i]) for i in present]
    if counts[255]:
        legend.append(((0, 0, 0), 'ignored'))
    return compose(panels, legend if with_labels else ())


class PanelVisualizer(SegLocalVisualizer):
    """mmseg's ``SegLocalVisualizer`` with other pictures: those of `draw`.

    mmseg's ``SegVisualizationHook``, ``MMSegInferencer`` and ``browse_dataset.py`` call `add_datasample`.
    """

    def draw(
        self, image: np.ndarray, sample: SegDataSample, with_gt: bool, with_pred: bool, with_labels: bool = True
    ) -> np.ndarray:
        """The picture of a sample: RGB uint8, from the image, RGB uint8 ``(H, W, 3)``; classes are named or not."""
        raise NotImplementedError

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw one sample; the arguments are those of mmseg's ``SegLocalVisualizer``.

        Args:
            image: RGB uint8 ``(H, W, 3)``.
            data_sample: with ground truth and prediction of the image's size, either may be missing.
        """
        drawn = self.draw(image, data_sample or SegDataSample(), draw_gt, draw_pred, with_labels)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_atomically(out_file, cv2.imencode(Path(out_file).suffix, drawn[..., ::-1])[1].tobytes())
        else:
            self.add_image(name, drawn, step)


def field_of(sample: SegDataSample, name: str, wanted: bool = True) -> np.ndarray | None:
    """A sample's map ``(1, H, W)`` as an array ``(H, W)``; None where it is missing or not wanted."""
    return np.asarray(sample.get(name).cpu().data).squeeze(0) if wanted and name in sample else None


@VISUALIZERS.register_module()
class SegPanelVisualizer(PanelVisualizer):
    """Image, label (``gt_sem_seg``) and prediction (``pred_sem_seg``) side by side, with a legend."""

    def draw(
        self, image: np.ndarray, sample: SegDataSample, with_gt: bool, with_pred: bool, with_labels: bool = True
    ) -> np.ndarray:
        """See `segmentation_panel`; ``alpha`` is the opacity."""
        return segmentation_panel(
            image,
            field_of(sample, 'pred_sem_seg', with_pred),
            field_of(sample, 'gt_sem_seg', with_gt),
            self.dataset_meta['classes'],
            self.dataset_meta['palette'],
            self.alpha,
            with_labels,
        )
