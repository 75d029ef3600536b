"""Pictures of results: titled panels side by side over a legend."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.visualization import LocalVisBackend
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image, ImageDraw, ImageFont

from .pictures import write_picture

INK, PAPER = (32, 32, 32), (255, 255, 255)
MARGIN, LINE, FONT_SIZE = 8, 22, 15


def compose(panels: Sequence[tuple[str, np.ndarray]], legend: Sequence[tuple[Sequence[int], str]] = ()) -> np.ndarray:
    """Put titled pictures, RGB uint8 ``(H, W, 3)`` of one H, side by side: RGB uint8 ``(H', W', 3)``.

    The legend below, RGB colours and texts, is wrapped into as many lines as needed.
    """
    font = ImageFont.load_default(FONT_SIZE)
    width = sum(picture.shape[1] for _, picture in panels) + MARGIN * (len(panels) + 1)
    top = MARGIN + LINE
    bottom = top + panels[0][1].shape[0] + MARGIN
    entries, x, y = [], MARGIN, bottom
    for colour, text in legend:
        needed = 20 + round(font.getlength(text)) + 2 * MARGIN
        if x > MARGIN and x + needed > width:
            x, y = MARGIN, y + LINE
        entries.append((x, y, tuple(colour), text))
        x += needed
    sheet = Image.new('RGB', (width, y + LINE + MARGIN if legend else bottom), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, y, colour, text in entries:
        draw.rectangle((x, y + 2, x + 14, y + 16), colour, (128, 128, 128))
        draw.text((x + 20, y), text, INK, font)
    x = MARGIN
    for title, picture in panels:
        draw.text((x, MARGIN), title, INK, font)
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, top))
        x += picture.shape[1] + MARGIN
    return np.asarray(sheet)


def segmentation_panel(
    image: np.ndarray,
    prediction: np.ndarray | None,
    label: np.ndarray | None,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float = 0.8,
    with_labels: bool = True,
) -> np.ndarray:
    """Image, label and prediction side by side with a legend of the classes that occur, in their order.

    Args:
        image: RGB uint8 ``(H, W, 3)``, and so is the result.
        prediction, label: class numbers ``(H, W)``, 255 for ignored, drawn black; None leaves the panel out.
        classes, palette: name and RGB of each class.
        opacity: of the class colours over the image.
        with_labels: whether there is a legend.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    panels, counts = [('image', image)], np.zeros(256, np.int64)  # of each label
    for title, labels in (('label', label), ('prediction', prediction)):
        if labels is not None:
            labels = labels.astype(np.uint8)
            counts += np.bincount(labels.ravel(), minlength=256)
            mixed = opacity * colours[labels] + (1 - opacity) * image
            mixed[labels == 255] = 0
            panels.append((title, np.rint(mixed).astype(np.uint8)))
    legend = [(colour, name) for colour, name, count in zip(palette, classes, counts, strict=False) if count]
    legend += [((0, 0, 0), 'ignored')] if counts[255] else []
    return compose(panels, legend if with_labels else ())


class PanelVisualizer(SegLocalVisualizer):
    """mmseg's ``SegLocalVisualizer`` with other pictures: those of `draw`, from the fields of a sample named here.

    mmseg's ``SegVisualizationHook``, ``MMSegInferencer`` and ``browse_dataset.py`` call `add_datasample`.
    """

    prediction: str
    ground_truth: str
    _drawn: np.ndarray | None = None  # the last picture; Matplotlib, which is slow, gets it when it is asked for

    def set_image(self, image: np.ndarray) -> None:
        """See mmengine's ``Visualizer``."""
        self._drawn = None
        super().set_image(image)

    def get_image(self) -> np.ndarray:
        """The last picture, RGB."""
        if self._drawn is not None:
            self.set_image(self._drawn)
        return super().get_image()

    @abstractmethod
    def draw(
        self,
        image: np.ndarray,
        prediction: np.ndarray | None,
        ground_truth: np.ndarray | None,
        with_labels: bool = True,
    ) -> np.ndarray:
        """The picture, RGB uint8, of an image ``(H, W, 3)`` and maps ``(H, W)``: None where missing or not wanted.

        Args:
            image, prediction, ground_truth: what is drawn.
            with_labels: whether classes are named.
        """

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
        """Draw one sample, of whose maps any may be missing; the arguments are mmseg's ``SegLocalVisualizer``'s."""
        sample = data_sample or SegDataSample()
        prediction, ground_truth = (
            np.asarray(sample.get(field).cpu().data).squeeze(0) if wanted and field in sample else None
            for field, wanted in ((self.prediction, draw_pred), (self.ground_truth, draw_gt))
        )
        drawn = self.draw(image, prediction, ground_truth, with_labels)
        self._drawn = drawn
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_picture(out_file, drawn)
        else:
            self.add_image(name, drawn, step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        """Hand a picture to the backends; into local files it is written so that a failure is noticed."""
        for backend in self._vis_backends.values():
            if isinstance(backend, LocalVisBackend):
                write_picture(Path(backend.experiment._img_save_dir, f'{name}_{step}.png'), image)
            else:
                backend.add_image(name, image, step)


@VISUALIZERS.register_module()
class SegPanelVisualizer(PanelVisualizer):
    """Image, label (``gt_sem_seg``) and prediction (``pred_sem_seg``) side by side, with a legend."""

    prediction, ground_truth = 'pred_sem_seg', 'gt_sem_seg'

    def draw(
        self,
        image: np.ndarray,
        prediction: np.ndarray | None,
        ground_truth: np.ndarray | None,
        with_labels: bool = True,
    ) -> np.ndarray:
        """See `segmentation_panel`; ``alpha`` is the opacity."""
        classes, palette = self.dataset_meta['classes'], self.dataset_meta['palette']
        return segmentation_panel(image, prediction, ground_truth, classes, palette, self.alpha, with_labels)
