"""Published results of others under the few-shot protocol, and how a run's settings differ from theirs."""

from fractions import Fraction
from types import MappingProxyType

from mmengine.config import Config

DATA_SET = 'ADE20KDataset'
CONDITIONS = 'ADE20K validation mIoU, linear decoder, trained end to end'
SOURCE = 'InternVL, arXiv 2312.14238, table 5a'
# mIoU by fraction of the 20,210 training images
FRACTIONS = ('1/16', '1/8', '1/4', '1/2', '1')
ROWS = MappingProxyType(
    {
        'DeiT-III ViT-L': {'1/16': 36.1, '1/8': 41.3, '1/4': 45.6, '1/2': 48.4, '1': 51.9},
        'ViT-G': {'1/16': 42.4, '1/8': 47.0, '1/4': 50.2, '1/2': 52.4, '1': 55.6},
        'ViT-22B': {'1/16': 44.7, '1/8': 47.2, '1/4': 50.6, '1/2': 52.5, '1': 54.9},
        'InternViT-6B': {'1/16': 46.5, '1/8': 50.0, '1/4': 53.3, '1/2': 55.8, '1': 57.2},
    }
)
# Settings of the open recipe that belongs to the source; `deviations` compares with them.
PROTOCOL = MappingProxyType(
    {
        'decoder': 'LinearHead',
        'training': 'end to end',
        'crop': '504x504 px',
        'augmentation': 'RandomResize (0.5 to 2), RandomCrop, RandomFlip, PhotoMetricDistortion',
        'batch': '16 images',
        'iterations': '80000 times the fraction',
        'learning rate': '4e-05',
        'layer-wise decay': '0.95',
        'weight decay': '0.05',
        'drop path': '0.4',
        'testing': 'slide, 504x504 px every 322x322 px',
    }
)


def deviations(cfg: Config) -> list[str]:
    """Every setting of a segmentation run that differs from `PROTOCOL`, as a text; none of another kind of run.

    Args:
        cfg: of the run, as the tools load it.
    """
    if 'num_classes' not in cfg.model.get('decode_head', {}):
        return []
    mine = _settings(cfg)
    return [f'{name} {mine[name]} instead of {theirs}' for name, theirs in PROTOCOL.items() if mine[name] != theirs]


def _settings(cfg: Config) -> dict[str, str]:
    """What a config says about the settings of `PROTOCOL`, in the same words."""
    model, train, optim = cfg.model, cfg.train_dataloader, cfg.optim_wrapper
    test = model.get('test_cfg') or {}
    windows = [_pixels(test[key]) for key in ('crop_size', 'stride') if key in test]
    size = (model.get('data_preprocessor') or {}).get('size')
    fraction = Fraction(train.dataset.get('dataset', {}).get('fraction', '1'))
    return {
        'decoder': model.decode_head.type,
        'training': 'with a frozen backbone' if model.backbone.get('frozen') else 'end to end',
        'crop': _pixels(size) if size else 'none',
        'augmentation': ', '.join(_augmentation(train.dataset)) or 'none',
        'batch': f'{train.batch_size} images',
        'iterations': f'{round(cfg.train_cfg.max_iters / fraction)} times the fraction',
        'learning rate': 'searched' if cfg.get('lr_search') else f'{optim.optimizer.lr:g}',
        'layer-wise decay': f'{(optim.get("paramwise_cfg") or {}).get("decay_rate", 1.0):g}',
        'weight decay': f'{optim.optimizer.get("weight_decay", 0.0):g}',
        'drop path': f'{model.backbone.get("drop_path_rate", 0.0):g}',
        'testing': ', '.join([test.get('mode', 'whole'), *([' every '.join(windows)] if windows else [])]),
    }


def _pixels(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]} px'


def _augmentation(dataset: dict) -> list[str]:
    while 'pipeline' not in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    names = []
    for step in dataset['pipeline']:
        if step['type'].startswith('Random') or step['type'] == 'PhotoMetricDistortion':
            scales = step.get('ratio_range')
            names.append(step['type'] + (f' ({scales[0]:g} to {scales[1]:g})' if scales else ''))
    return names
