#!/usr/bin/env python3
"""Turn the Waymo Open Dataset v2 into images with sparse z-depth, for monocular depth.

Reads ROOT/SPLIT/COMPONENT/SEGMENT.parquet (camera_image, camera_calibration, lidar, lidar_calibration,
lidar_camera_projection, lidar_pose, vehicle_pose) and writes, under OUT/SPLIT/SEGMENT, TIMESTAMP_CAMERA.jpg
(the released bytes), TIMESTAMP_CAMERA.npz (x, y, depth in metres along the optical axis) and index.json. The
folder of a segment appears when all of it is written.

Run it again after an interruption, or when prepared files were lost or damaged: complete segments are left
alone, others start over. Frames that no LiDAR point reaches are written, with empty arrays, and counted.

Exit status: 0 all fine; 1 done, but frames or segments were skipped because of errors; 2 refused or stopped
(wrong arguments, missing components, disk full); 130 interrupted.
"""

from __future__ import annotations

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import sys
from pathlib import Path

from vit22b_dense.errors import ToolParser, run_tool
from vit22b_dense.waymo.types import CAMERAS, LASERS, SPLITS, Settings


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers with 0 <= i < n."""
    try:
        index, count = (int(part) for part in text.split('/'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form i/n') from None
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f'{text}: needs 0 <= i < n')
    return index, count


def parse_workers(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')
    return int(text)


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition('\n\n')
    parser = ToolParser(description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, metavar='ROOT', help='released data, ROOT/SPLIT/COMPONENT/SEGMENT.parquet')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to write to')
    parser.add_argument('--split', required=True, choices=SPLITS)
    parser.add_argument(
        '--cameras',
        nargs='+',
        choices=CAMERAS,
        default=['FRONT'],
        help="default: FRONT, the paper's front-facing images",
    )
    parser.add_argument('--lasers', nargs='+', choices=LASERS, default=list(LASERS), help='default: all five')
    parser.add_argument('--returns', nargs='+', type=int, choices=(1, 2), default=[1], help='default: 1')
    parser.add_argument('--workers', type=parse_workers, default=1, help='processes that share the segments')
    parser.add_argument(
        '--shard', type=parse_shard, default=(0, 1), metavar='i/n', help="one machine's share, 0 <= i < n"
    )
    parser.add_argument('--overwrite', action='store_true', help='prepare complete segments again')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    # Here, so that --help and the message about a missing pyarrow do not need pyarrow.
    from vit22b_dense.waymo.prepare import Job, prepare

    settings = Settings(
        cameras=tuple(sorted({CAMERAS[name] for name in args.cameras})),
        lasers=tuple(sorted({LASERS[name] for name in args.lasers})),
        returns=tuple(sorted(set(args.returns))),
    )
    job = Job(args.root, args.out, args.split, settings, args.workers, args.shard, args.overwrite)
    totals = prepare(job, lambda line: print(line, file=sys.stderr, flush=True))
    print(totals)
    return totals.status


if __name__ == '__main__':
    run_tool(main)
