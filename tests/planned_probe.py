"""Run as a script: the peak of resident memory of two training steps, beyond what the process has before.

Argument: what `planned_config` takes, as JSON. Prints bytes.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import vit22b_dense  # noqa: F401
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.precision import use_mixed_precision
from vit22b_dense.planning.rehearsal import grid_of


def status(entry):
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def planned_config(leaf='ade20k/linear.py', kind='ViT22B', regime='finetune', batch=1, tokens=576, amp=False, **more):
    """A small model: the config, images, tokens."""
    arch = dict(embed_dims=384, num_layers=6, num_heads=6, mlp_dims=1536) | more.pop('arch', {})
    cfg = load_config(leaf, dict(backbone='vit22b_tiny', regime=regime), more)
    cfg.model.backbone.update(type=kind, arch=arch, init_cfg=None)
    depth = arch['num_layers']
    if 'neck' in cfg.model:
        cfg.model.backbone.out_indices = tuple(depth * i // 4 - 1 for i in range(1, 5))
    (cfg.model.neck if 'neck' in cfg.model else cfg.model.decode_head).in_channels = arch['embed_dims']
    if amp:
        use_mixed_precision(cfg)
    return cfg, batch, tokens, amp


def steps(cfg, batch, tokens, count):
    init_default_scope('mmseg')
    size = [side * 14 for side in grid_of(tokens)]
    cfg.model.data_preprocessor.size = size
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for _ in range(count):
        samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in range(batch)]
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, *size)))
            sample.gt_depth_map = PixelData(data=torch.rand(1, *size) * 50 + 1)
        images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(batch)]
        model.train_step(dict(inputs=images, data_samples=samples), optim_wrapper)


def main():
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed goes back at once
    wanted = json.loads(sys.argv[1])
    cfg, batch, tokens, _ = planned_config(**wanted)
    warm, *_ = planned_config(**wanted | dict(arch=wanted.get('arch', {}) | dict(num_layers=1)))
    steps(warm, batch, tokens, 1)  # what the first use of each kernel takes for good
    gc.collect()
    base = status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')
    steps(cfg, batch, tokens, 2)
    print(status('VmHWM') - base)


if __name__ == '__main__':
    main()
