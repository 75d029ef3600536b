"""How often each class occurs in a segmentation data set."""

from collections.abc import Callable

import numpy as np

from ..datasets.loading import LoadLabels
from .subset import FewShotSubset


def count_classes(
    subset: FewShotSubset, num_classes: int, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read the label maps of a subset and count.

    Args:
        subset: of a segmentation data set; its label maps are read, its images are not.
        num_classes: K.
        progress: called with the number of label maps read and their number in all.

    Returns:
        Pixels of each class, and images that have it: both ``(K,)`` int64. Ignored pixels are not counted.

    Raises:
        DataError: a label map that cannot be used.
    """
    load = LoadLabels(num_classes)
    pixels, images = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for done in range(len(subset)):
        labels = load(subset.get_data_info(done))['gt_seg_map']
        counts = np.bincount(labels[labels != 255], minlength=num_classes)
        pixels += counts
        images += counts > 0
        if progress is not None:
            progress(done + 1, len(subset))
    return pixels, images
