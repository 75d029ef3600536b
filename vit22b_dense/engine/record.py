"""What a test leaves beside its scores: the versions it ran with, and pictures of the best and the worst image."""

import io
import platform
from pathlib import Path

import mmcv
import mmengine
import mmseg
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image

from ..datasets.loading import LoadImage
from ..evaluation.image_scores import ImageScores
from ..files import write_atomically
from ..version import __version__


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about scores, and the device."""
    packages = dict(torch=torch, mmseg=mmseg, mmengine=mmengine, mmcv=mmcv)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU ({platform.machine()})'
    found = {name: str(package.__version__) for name, package in packages.items()}
    return dict(python=platform.python_version(), vit22b_dense=__version__, **found, device=device)


def draw_examples(runner: Runner, metric: ImageScores, folder: Path) -> list[dict]:
    """Draw the best, the median and the worst image of a test that has just ended, by predicting them once more.

    Args:
        runner: after ``test()``.
        metric: which has scored the images of that test.
        folder: for the pictures, PNG.

    Returns:
        Of each picture: its rank, the image, its score with the score's name, and the picture's file name.
    """
    dataset = runner.test_dataloader.dataset
    examples = []
    for rank, index in metric.ranked().items():
        path, score = metric.images[index]
        with torch.no_grad():
            (sample,) = runner.model.test_step(pseudo_collate([dataset[index]]))
        image = LoadImage()(dict(img_path=path))['img'][..., ::-1].copy()
        buffer = io.BytesIO()
        Image.fromarray(runner.visualizer.draw(image, sample, True, True)).save(buffer, 'PNG')
        write_atomically(folder / f'{rank}.png', buffer.getvalue())
        examples.append(dict(rank=rank, image=path, metric=metric.title, score=score, picture=f'{rank}.png'))
    return examples
