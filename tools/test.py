#!/usr/bin/env python
"""Test a checkpoint: scores, compared with those of a constant prediction, and on request predictions and pictures.

The work dir gets scores.json (all scores, versions) and, in examples/, pictures of the best, median and worst image.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse

from vit22b_dense.engine.config import axes_of
from vit22b_dense.engine.record import draw_pictures, score_and_record
from vit22b_dense.engine.run import add_run_arguments, augment_test, leave, run_config
from vit22b_dense.engine.streaming import add_stream_argument, stream_weights
from vit22b_dense.errors import ToolParser, run_tool


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/test.py configs/camvid/linear.py work_dirs/run/iter_400.pth --show-dir pictures',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of a run, or a whole model as .pth or .safetensors')
    parser.add_argument('--out', metavar='DIR', help='write predictions there, as PNG: labels, or depth in 1/256 m')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures there: image, truth and prediction')
    parser.add_argument('--show', action='store_true', help='show those pictures in a window')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS', help='of --show, each (default: 2)')
    parser.add_argument('--tta', action='store_true', help="average over augmented images: the config's tta_pipeline")
    add_stream_argument(parser)
    add_run_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    axes = {axis: value for axis, value in axes_of(args).items() if value is not None}
    about = dict(config=args.config, axes=axes, tta=args.tta)
    cfg = run_config(args)
    if args.stream_weights:
        stream_weights(cfg, args.checkpoint)
    if args.tta:
        augment_test(cfg)
    if args.show or args.show_dir:
        draw_pictures(cfg, args.show_dir, args.show, args.wait_time)
    score_and_record(cfg, args.checkpoint, about, args.out)
    leave()


if __name__ == '__main__':
    run_tool(main)
