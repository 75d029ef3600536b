#!/usr/bin/env python
"""Copy a config that comes with the package, so that the copy can be changed.

The copy inherits from the parts in the package, wherever it lies and wherever the package is installed.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import re
from pathlib import Path

from vit22b_dense.engine.config import find_config
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.files import write_atomically


def main() -> None:
    parser = ToolParser(
        description=__doc__,
        epilog='Example: tools/copy_config.py own_data/linear.py my_data.py',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='name of the config, such as own_data/linear.py')
    parser.add_argument('copy', metavar='FILE', type=Path, help='where to write the copy')
    args = parser.parse_args()
    if args.copy.exists():
        raise UserError(f'{args.copy}: exists already; name another file')
    source = find_config(args.config)
    text = re.sub(r"'\.\.(/_base_/[^']*)'", r"__import__('vit22b_dense').CONFIGS + '\1'", source.read_text('utf-8'))
    try:
        write_atomically(args.copy, text)
    except OSError as error:
        raise UserError(f'{args.copy}: cannot be written ({error}); name another place') from error
    print(f'{source} copied to {args.copy}')


if __name__ == '__main__':
    run_tool(main)
