"""Writing pictures: each is there, whole, or there is an error with its name."""

from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from ..files import write_atomically


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture in the format of its name's suffix; OpenCV's own ``imwrite`` fails without a word.

    Args:
        path: the file; its folder is made.
        picture: RGB uint8 ``(H, W, 3)``.

    Raises:
        UserError: no known format, or a size that it cannot hold.
        OSError: it cannot be written.
    """
    try:
        encoded, content = cv2.imencode(Path(path).suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        encoded, content = False, error
    if not encoded:
        height, width = picture.shape[:2]
        raise UserError(f'{path}: a picture of {width}x{height} pixels cannot be stored like this ({content})')
    write_atomically(path, content.tobytes())
