"""The runner of the regime `cached`: a frozen run that reads its maps instead of computing them."""

import copy
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS, init_default_scope

from ..run import DenseRunner
from .made import VAL, folder_of, made_by, subset_config
from .store import FeatureError, FeatureStore

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class FromFeatures:
    """In front of a runner: a config of a frozen run, from features that tools/cache_features.py has made.

    The config stays that of the frozen run, in the work dir and in checkpoints, so that these are as usual.

    Config: ``runner_type = 'CachedRunner'``, and ``features=dict(folder=…, draws=…)``: where the features lie (empty
    for the default) and how many draws of each image are used (0 for all).

    Raises:
        FeatureError: features are missing, damaged, or of something else.
    """

    def __init__(self, model: dict, work_dir: str, *, cfg: Config, **parts: Any) -> None:
        replaced = self.data_of(cfg)
        for name in LOADERS:
            if parts.get(name):
                parts[name] = replaced[name]
        super().__init__(replaced.model, work_dir=work_dir, cfg=cfg, **parts)

    @staticmethod
    def data_of(cfg: Config) -> Config:
        """A config with features in place of the backbone and the images."""
        return with_features(cfg)


@RUNNERS.register_module()
class CachedRunner(FromFeatures, DenseRunner):
    """`DenseRunner` for the regime ``cached``."""


def with_features(cfg: Config) -> Config:
    """A frozen run's config with features in place of the backbone and the images.

    Raises:
        FeatureError: there are no features, or of something else.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    made = made_by(cfg)
    folder = folder_of(cfg, made)
    store = FeatureStore.open(folder)
    store.check_made(made)
    store.resolve(cfg.model.backbone.out_indices)
    cfg, draws = copy.deepcopy(cfg), (cfg.get('features') or {}).get('draws') or store.draws
    if draws > store.draws:
        raise FeatureError(f'{folder}: has {store.draws} draws of each image; features.draws={draws} is too many')
    model = cfg.model
    model.backbone = dict(type='CachedBackbone', folder=str(folder), out_indices=model.backbone.out_indices)
    model.data_preprocessor.update(
        mean=None, std=None, bgr_to_rgb=False, rgb_to_bgr=False, size=(1, 1), size_divisor=None
    )
    subset = subset_config(cfg)
    subset.dataset.pipeline = []
    cfg.train_dataloader.update(
        dataset=dict(
            type='CachedTraining',
            dataset=subset,
            folder=str(folder),
            draws=draws,
            label_bytes=model.type == 'DenseSegmentor',
        ),
        num_workers=0,
        persistent_workers=False,
    )
    validated_apart = VAL in made
    for name in ('val', 'test'):
        if loader := cfg.get(f'{name}_dataloader'):
            prefix = VAL if validated_apart and name == 'val' else ''
            loader.dataset = dict(type='CachedTesting', dataset=loader.dataset, folder=str(folder), prefix=prefix)
    return cfg
