"""Run as a script: the `vit22b` preset in bf16 with a linear decoder predicts one picture of 224 px, streamed.

One block's random weights are stored and stand for all 48, so 0.9 GB of disk are enough. Its file is in the page cache
then: the time is without a disk. Argument: a folder for the weights. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from streamed_probe import status, write

from vit22b_dense.checkpoint import InPlaceReader, LazyWeights
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.predict import predictor_of
from vit22b_dense.engine.streaming import stream_weights
from vit22b_dense.models.backbones import streamed
from vit22b_dense.models.backbones.vit22b import ARCHS

CONFIG = Path(__file__).parents[1] / 'configs/demo/linear.py'
ARCH = ARCHS['22b']


class OneForAll(InPlaceReader):
    """Reads the first block for every block."""

    def __init__(self, path, prefix=None):
        super().__init__(path, prefix)
        first = self.weights
        names = {name: name for name in first}
        for name in [name for name in first if name.startswith('blocks.0.')]:
            names |= {f'blocks.{i}{name.removeprefix("blocks.0")}': name for i in range(ARCH['num_layers'])}
        infos = {name: first[stored] for name, stored in names.items()}
        self._places = {name: self._places[stored] for name, stored in names.items()}
        self.weights = LazyWeights(first.path, infos, lambda name: first.read(names[name]))


def main():
    folder = Path(sys.argv[1])
    write(dict(ARCH, num_layers=1), folder / 'one')
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8)).resize((224, 224)).save(folder / 'one.png')
    axes = dict(backbone='vit22b', weights=str(folder / 'one'))
    cfg = load_config(CONFIG, axes, {'model.backbone.dtype': 'bfloat16'})
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    parameters = sum(p.numel() for p in model.parameters())
    head = {n: torch.randn(p.shape) * 0.02 for n, p in model.state_dict().items() if n.startswith('decode_head')}
    torch.save(dict(state_dict=head), folder / 'head.pth')

    streamed.InPlaceReader = OneForAll
    Path('/proc/self/clear_refs').write_text('5')  # the peak of writing is not of interest
    base, start = status('VmRSS'), time.time()
    stream_weights(cfg, folder / 'head.pth')
    predictor = predictor_of(cfg, folder / 'head.pth')
    loaded = time.time() - start
    _, labels = predictor.predict(folder / 'one.png')
    print(json.dumps(dict(
        parameters=parameters, classes=np.unique(labels).tolist(), seconds=time.time() - start, opening=loaded,
        peak=status('VmHWM'), base=base, threads=torch.get_num_threads(),
    )))  # fmt: skip


if __name__ == '__main__':
    main()
