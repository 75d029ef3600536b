"""Run as a script: a backbone streamed under a limit of its memory, against the same one loaded as a whole.

Arguments: the sizes as JSON, the limit in bytes, whether it holds for the whole process (`all`) or for what it takes
from here on (`more`), and a folder for the weights. Prints JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import LazyWeights, write_weights
from vit22b_dense.models.backbones import vit22b


def status(entry):
    """Of this process, bytes: VmData is what RLIMIT_DATA limits, VmHWM the peak of resident memory."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def write(sizes, folder):
    """Random weights in bf16, each block the first one turned a little: drawing them all would take minutes."""
    with torch.device('meta'):
        state = ViT22B(sizes, frozen=True, dtype='bfloat16').state_dict()
    drawn = {}

    def read(name):
        number, leaf = name.split('.', 2)[1:] if name.startswith('blocks.') else (0, name)
        if leaf not in drawn:
            drawn[leaf] = (torch.randn(state[name].shape) * 0.02 + ('norm' in leaf)).to(torch.bfloat16)
        return drawn[leaf].roll(int(number), 0)

    write_weights(folder, LazyWeights(folder, state, read), 10**9)
    return sum(tensor.nbytes for tensor in state.values())


def run(sizes, folder, image, streamed):
    init_cfg = dict(type='Pretrained', checkpoint=str(folder))
    backbone = ViT22B(sizes, frozen=True, dtype='bfloat16', init_cfg=init_cfg, streamed=streamed, out_indices=(0, -1))
    start = time.time()
    backbone.init_weights()
    return torch.stack(backbone(image)), time.time() - start


def main():
    torch.set_num_threads(1)
    vit22b.FOLDED_BYTES = 0  # blocks as they are stored, in memory too
    sizes, limit, folder = json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[4])
    total = write(sizes, folder / 'all')
    image = torch.randn(1, 3, 56, 56)
    write(dict(sizes, num_layers=1), folder / 'one')
    run(dict(sizes, num_layers=1), folder / 'one', image, False)  # what a first pass takes once
    base = status('VmData')
    resource.setrlimit(resource.RLIMIT_DATA, (limit + (base if sys.argv[3] == 'more' else 0), resource.RLIM_INFINITY))
    before = status('VmRSS')
    streamed, seconds = run(sizes, folder / 'all', image, True)
    resident = status('VmHWM') - before
    try:
        run(sizes, folder / 'all', image, False)
        fails = False
    except (MemoryError, RuntimeError) as error:
        fails = 'memory' in str(error).lower() or isinstance(error, MemoryError)
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    loaded, loaded_seconds = run(sizes, folder / 'all', image, False)
    print(json.dumps(dict(
        equal=torch.equal(streamed, loaded), varied=float(loaded.float().std()), loading_all_fails=fails, total=total,
        base=base, resident=resident, seconds=seconds, loaded_seconds=loaded_seconds,
    )))  # fmt: skip


if __name__ == '__main__':
    main()
