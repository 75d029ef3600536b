"""What makes features, read from a config: weights, backbone, data and their pipelines."""

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...checkpoint import Reference
from ...models.backbones.contract import file_source
from .store import FeatureError, digest_of

# Of the backbone: where its weights lie, which are identified by their hash, and what does not change its maps.
NEUTRAL = {
    'init_cfg', 'model', 'pretrained', 'checkpoint_path', 'out_indices', 'frozen', 'with_cp', 'drop_path_rate',
    'streamed',
}  # fmt: skip

VAL = 'val:'


def made_by(cfg: Config) -> dict:
    """What makes the features that a config's decoder learns from, as plain values.

    Raises:
        FeatureError: the config does not train a dense decoder on a frozen backbone and a `FewShotSubset`.
        CheckpointError: no such weights.
    """
    backbone = cfg.model.get('backbone')
    if backbone is None:
        raise FeatureError(f'{cfg.filename}: features of augmented images are not stored; test with --regime frozen')
    if 'decode_head' not in cfg.model:
        raise FeatureError(f'{cfg.filename}: features are stored for dense decoders; train with --regime frozen')
    if not backbone.get('frozen'):
        raise FeatureError(f'{cfg.filename}: features are of a frozen backbone; set --regime cached or frozen')
    return dict(
        weights=weights_of(backbone),
        backbone=plain({key: value for key, value in backbone.items() if key not in NEUTRAL}),
        preprocessor=plain(cfg.model.data_preprocessor),
        training=_data(subset_config(cfg).dataset),
        **{section: _data(dataset) for section, dataset in test_sets(cfg).items()},
        inference=plain(cfg.model.get('test_cfg') or {}),
    )


def subset_config(cfg: Config) -> dict:
    """The config's few-shot subset.

    Raises:
        FeatureError: it trains on something else.
    """
    subset = cfg.train_dataloader.dataset.get('dataset', {})
    if subset.get('type') != 'FewShotSubset':
        raise FeatureError(f'{cfg.filename}: does not train on a FewShotSubset (see configs/_base_/loaders.py)')
    return subset


def test_sets(cfg: Config) -> dict[str, dict]:
    """The data sets that are tested: ``test`` and, where it is another one, ``val:``, the prefix of its names."""
    val = (cfg.get('val_dataloader') or cfg.test_dataloader).dataset
    sets = dict(test=cfg.test_dataloader.dataset)
    return sets if val == cfg.test_dataloader.dataset else {**sets, VAL: val}


def weights_of(backbone: dict) -> dict:
    """Which weights a backbone's config asks for: a hash, a name of the hub, or ``random``."""
    named = (backbone.get('init_cfg') or {}).get('checkpoint') or backbone.get('checkpoint_path')
    if not named and backbone.get('pretrained', backbone['type'] == 'HFBackbone'):
        named = backbone.get('model') or f'timm/{backbone["model_name"]}'
        if not Path(named).exists():
            return dict(kind='hub', name=named)
    if not named:
        return dict(kind='random')
    return identity(Reference.of(file_source(named)))


def identity(weights: Reference) -> dict:
    """What tells weights from others, wherever they lie; random ones of all seeds are alike."""
    kept = dict(file='sha256', hub='name').get(weights.kind)
    return dict(kind=weights.kind, **({kept: getattr(weights, kept)} if kept else {}))


def _data(dataset: dict) -> Any:
    """A data set's settings without its place."""
    if isinstance(dataset, dict):
        return {key: _data(value) for key, value in plain(dataset).items() if key != 'data_root'}
    return dataset


def plain(value: Any) -> Any:
    """Settings as JSON has them."""
    return json.loads(json.dumps(value, default=str))


def default_folder(cfg: Config, made: dict) -> Path:
    """Where a config's features lie if nobody says."""
    dataset, backbone = subset_config(cfg).dataset.type, cfg.model.backbone.type
    made = {key: value for key, value in made.items() if key != VAL}  # a run may have no validation
    digest = digest_of([made, plain(cfg.model.backbone.get('out_indices'))])
    return Path('work_dirs', 'features', f'{dataset}_{backbone}_{digest[:8]}')


def folder_of(cfg: Config, made: dict) -> Path:
    """Where the features of a config lie: its ``features.folder``; where that says ``default``, `default_folder`."""
    folder = (cfg.get('features') or {}).get('folder', 'default')
    return default_folder(cfg, made) if folder == 'default' else Path(folder)
