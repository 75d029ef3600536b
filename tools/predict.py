#!/usr/bin/env python
"""Segment images: a picture with a legend and a label map (PNG) for each.

For every image NAME.jpg two files are written: NAME.png, the label map in the data set's own values (as its training
labels have them), and NAME_picture.png, the image beside the coloured prediction.
"""

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vit22b_dense.engine.config import add_config_arguments, config_of
from vit22b_dense.engine.predict import Segmenter
from vit22b_dense.errors import UserError, run_tool
from vit22b_dense.files import write_atomically

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/predict.py configs/ade20k/linear.py work_dirs/run/iter_80000.pth photos/ --out-dir out',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of the whole model, .pth or .safetensors')
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='image files and folders of them')
    parser.add_argument(
        '--out-dir', type=Path, default=Path('predictions'), metavar='DIR', help='default: predictions/'
    )
    add_config_arguments(parser)
    return parser.parse_args()


def find_images(given: list[Path]) -> list[tuple[Path, Path]]:
    """Each image with its place below the output folder, without suffix; folders are searched through."""
    found = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f'{path}: no images in this folder ({", ".join(sorted(SUFFIXES))})')
            found += [(p, p.relative_to(path).with_suffix('')) for p in inside]
        else:
            found.append((path, Path(path.stem)))
    places = [place for _, place in found]
    double = next((place for place in places if places.count(place) > 1), None)
    if double is not None:
        raise UserError(f'two images would be written as {double}.png: predict them into different --out-dir')
    return found


def save_png(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, 'PNG')
    write_atomically(path, buffer.getvalue())


def main() -> int:
    args = parse_args()
    images = find_images(args.images)
    segmenter = Segmenter(config_of(args), args.checkpoint)
    skipped, start = [], time.time()
    for done, (path, place) in enumerate(images, 1):
        try:
            image, labels = segmenter.predict(path)
        except UserError as error:
            skipped.append(path)
            print(f'skipped: {error}', file=sys.stderr)
            continue
        save_png(args.out_dir / f'{place}.png', segmenter.values[labels])
        save_png(args.out_dir / f'{place}_picture.png', segmenter.picture(image, labels))
        left = (time.time() - start) / done * (len(images) - done)
        print(f'{done}/{len(images)} {path}, {left:.0f} s left', flush=True)
    print(f'{len(images) - len(skipped)} of {len(images)} images written to {args.out_dir}, {len(skipped)} skipped')
    return 1 if skipped else 0


if __name__ == '__main__':
    run_tool(main)
