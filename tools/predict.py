#!/usr/bin/env python
"""Predict images with a trained model: class numbers or depth, and a picture of each.

The checkpoint of a training knows its config, so a checkpoint and images are all it takes. For every image NAME.jpg:

  segmentation  NAME.png, the label map in the values of the data set's own label files
  depth         NAME.png, 16 bit in 1/256 metre, and NAME.npz with `depth` in metres (float32)
  both          NAME_picture.png, the image beside the coloured prediction
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import sys
import time
from pathlib import Path

from vit22b_dense.engine.config import add_config_arguments, axes_of, config_of, merge_overrides, name_weights
from vit22b_dense.engine.predict import predictor_of
from vit22b_dense.engine.restore import config_in
from vit22b_dense.engine.strategies import add_strategy_arguments, use_strategy
from vit22b_dense.engine.streaming import add_stream_argument, stream_weights
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.files import write_atomically
from vit22b_dense.progress import duration

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Example: tools/predict.py work_dirs/run/iter_80000.pth photos/ --out-dir predictions',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s [-h] [--out-dir DIR] [axes] [--cfg-options KEY=VALUE ...] [CONFIG] CHECKPOINT IMAGE ...',
    )
    parser.add_argument(
        'paths', nargs='+', metavar='PATH',
        help='a config (.py) where the checkpoint holds weights alone; the checkpoint; images and folders of them',
    )  # fmt: skip
    parser.add_argument(
        '--out-dir', type=Path, default=Path('predictions'), metavar='DIR', help='default: predictions/'
    )
    add_stream_argument(parser)
    add_config_arguments(parser)
    add_strategy_arguments(parser)
    args = parser.parse_args()
    args.config = args.paths.pop(0) if args.paths[0].endswith('.py') else None
    if len(args.paths) < 2:
        parser.error('give a checkpoint and at least one image')
    args.checkpoint, *args.images = args.paths
    return args


def find_images(given: list[Path]) -> list[tuple[Path, Path]]:
    """Each image with its place below the output folder, without suffix; folders are searched through."""
    if not any(path.exists() for path in given):
        raise UserError(f'{given[0]}: no such image or folder')
    found = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f'{path}: no images in this folder ({", ".join(sorted(SUFFIXES))})')
            found += [(p, p.relative_to(path).with_suffix('')) for p in inside]
        else:
            found.append((path, Path(path.stem)))
    return found


def outputs_of(images: list[tuple[Path, Path]], folder: Path, endings: tuple[str, ...]) -> list[list[Path]]:
    """The files of each image.

    Raises:
        UserError: two of them would be the same, or one would overwrite an image that is read.
    """
    outputs = [[folder / f'{place}{ending}' for ending in endings] for _, place in images]
    sources = {path.resolve() for path, _ in images}
    seen: dict[Path, Path] = {}
    for (image, _), files in zip(images, outputs, strict=True):
        for file in files:
            if file.resolve() in sources:
                raise UserError(f'{image}: its prediction {file} would overwrite an image; choose another --out-dir')
            if file in seen:
                raise UserError(f'{seen[file]} and {image} would both be written as {file}: predict them separately')
            seen[file] = image
    return outputs


def config_for(args: argparse.Namespace):
    """The config that is given, or the one in the checkpoint."""
    if args.config:
        return config_of(args)
    axes = {axis: value for axis, value in axes_of(args).items() if value is not None}
    weights = axes.pop('weights', None)
    if axes:
        raise UserError(f'--{next(iter(axes))}: the checkpoint knows its config; name a config file to change it')
    cfg = config_in(args.checkpoint)
    if weights:
        name_weights(cfg, weights)
    return merge_overrides(cfg, args.cfg_options)


def main() -> int:
    args = parse_args()
    images = find_images([Path(path) for path in args.images])
    cfg = config_for(args)
    use_strategy(cfg, args)
    if args.stream_weights:
        stream_weights(cfg, args.checkpoint)
    predictor = predictor_of(cfg, args.checkpoint)
    first, step = predictor.part
    images, outputs = images[first::step], outputs_of(images, args.out_dir, predictor.endings)[first::step]
    skipped, start = [], time.time()
    with predictor.in_step():
        for done, ((path, _), files) in enumerate(zip(images, outputs, strict=True), 1):
            try:
                if path.exists() and not path.is_file():
                    raise UserError(f'{path}: not a file')
                contents = predictor.files(*predictor.predict(path))
            except UserError as error:
                skipped.append(path)
                print(f'skipped: {error}', file=sys.stderr)
                continue
            if not predictor.counts:
                continue
            for file, content in zip(files, contents, strict=True):
                write_atomically(file, content)
            left = (time.time() - start) / done * (len(images) - done)
            print(f'{done}/{len(images)} {path}, {duration(left)} left', flush=True)
    print(f'{len(images) - len(skipped)} of {len(images)} images written to {args.out_dir}, {len(skipped)} skipped')
    return 1 if skipped else 0


if __name__ == '__main__':
    run_tool(main)
