#!/usr/bin/env python
"""Show which images a few-shot subset contains: their number, a digest to publish, rare and missing classes."""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from prettytable import PrettyTable

from vit22b_dense.datasets.complete import check_complete
from vit22b_dense.datasets.loading import LoadLabels
from vit22b_dense.engine.config import AXES, add_config_arguments, check_data, load_config
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.fewshot.subset import FewShotSubset, digest
from vit22b_dense.files import write_atomically
from vit22b_dense.progress import Progress

RARE = 10  # images


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__, epilog='Example: tools/subset.py configs/ade20k/linear.py --fraction 1/16 --seed 0'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--write', type=Path, metavar='LIST', help='write the names of the images to this file, one per line'
    )
    parser.add_argument(
        '--verify', type=Path, metavar='LIST', help='compare with such a list; the exit status is 1 if they differ'
    )
    add_config_arguments(parser)
    return parser.parse_args()


def class_table(subset: FewShotSubset, num_classes: int) -> str:
    load, progress = LoadLabels(num_classes), Progress('label maps')
    pixels, images = np.zeros((2, num_classes), np.int64)
    for done in range(len(subset)):
        labels = load(subset.get_data_info(done))['gt_seg_map']
        counts = np.bincount(labels[labels != 255], minlength=num_classes)
        pixels += counts
        images += counts > 0
        progress(done + 1, len(subset))
    table = PrettyTable(['class', 'pixels', 'share %', 'images', ''], align='r')
    total = max(int(pixels.sum()), 1)
    for name, p, n in zip(subset.metainfo['classes'], pixels, images, strict=True):
        remark = 'missing' if not n else 'rare' if n < RARE else ''
        table.add_row([name, f'{p:,}', f'{100 * p / total:.2f}', n, remark])
    missing, rare = int((images == 0).sum()), int(((images > 0) & (images < RARE)).sum())
    return f'{table}\n{missing} of {num_classes} classes missing, {rare} rare (in fewer than {RARE} images)'


def verify(path: Path, names: list[str]) -> bool:
    """Compare with a list and print the differences."""
    if not path.is_file():
        raise UserError(f'{path}: no such list')
    listed = {line for line in path.read_text('utf-8', 'surrogateescape').splitlines() if line}
    for title, some in (('only in the list', listed - set(names)), ('not in the list', set(names) - listed)):
        if some:
            print(f'{title} ({len(some)}): {", ".join(sorted(some)[:5])}{", …" if len(some) > 5 else ""}')
    same = listed == set(names)
    print(f'{path}: {"the same subset" if same else "another subset"}')
    return same


def main() -> int:
    args = parse_args()
    cfg = load_config(args.config, {axis: getattr(args, axis) for axis in AXES}, args.cfg_options)
    check_data(cfg, ('train_dataloader',))
    init_default_scope(cfg.default_scope)
    subset = DATASETS.build(cfg.train_dataloader.dataset.dataset)
    check_complete(subset)
    names = subset.names
    print(f'{len(names)} of {len(subset.dataset)} images (fraction {subset.fraction}, seed {subset.seed})')
    print(f'digest {digest(names)}')
    num_classes = cfg.model.get('decode_head', {}).get('num_classes')
    if num_classes:
        print(class_table(subset, num_classes))
    if args.write:
        write_atomically(args.write, ''.join(f'{name}\n' for name in names))
        print(f'names written to {args.write}')
    return 0 if args.verify is None or verify(args.verify, names) else 1


if __name__ == '__main__':
    run_tool(main)
