"""Configs as the tools use them: axes chosen on the command line, overrides and data folders checked."""

import argparse
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from ..errors import UserError

# Axis: environment variable that the configs read, help. Values of the first three are files in `_base_`.
AXES = {
    'backbone': ('VIT22B_BACKBONE', 'backbone to use, a file of configs/_base_/backbones'),
    'weights': ('VIT22B_WEIGHTS', "pretrained backbone: a file, or the folder of a transformers' model"),
    'regime': ('VIT22B_REGIME', 'how it is trained: frozen, finetune or scratch'),
    'fraction': (
        'VIT22B_FRACTION',
        'share of the training data, such as 1/16, with its number of iterations',
    ),
    'seed': ('VIT22B_SEED', 'seed of weights, data order, augmentation and few-shot subset'),
    'data_root': ('VIT22B_DATA_ROOT', 'folder of the data set'),
}
FOLDERS = {'backbone': 'backbones', 'regime': 'regimes', 'fraction': 'fractions'}
# Top-level keys that a run reads; every other key of a config is an ingredient that others were made of.
RUN_KEYS = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | {
    'custom_imports',
    'tta_model',
    'tta_pipeline',
}

# Where a run lies and how it is started: two runs that differ in nothing else are of one configuration.
PLACES = ('work_dir', 'resume', 'load_from', 'launcher')


class ConfigError(UserError):
    """A config, an axis value or an override that cannot be used."""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the axes and mmseg's ``--cfg-options`` to a tool's arguments."""
    axes = parser.add_argument_group('axes', 'choices that every config here leaves open; each has a default')
    for axis, (_, text) in AXES.items():
        metavar = {'data_root': 'DIR', 'weights': 'PATH', 'fraction': '1/16', 'seed': 'N'}.get(axis, 'NAME')
        axes.add_argument(f'--{axis.replace("_", "-")}', metavar=metavar, help=text)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.backbone.with_cp=True train_dataloader.batch_size=2; '
        'lists as key="[a,b]" or key=a,b',
    )


def parse_overrides(tokens: list[str]) -> dict:
    """``KEY=VALUE`` strings as ``--cfg-options`` takes them, as the dictionary that it makes of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('tokens', nargs='*', action=DictAction)
    wrong = next((token for token in tokens if '=' not in token), None)
    if wrong is not None:
        raise ConfigError(f'--cfg-options {wrong}: give KEY=VALUE')
    return parser.parse_args(['--', *tokens]).tokens if tokens else {}


def load_config(path: str | Path, axes: dict[str, str | None], overrides: dict | None = None) -> Config:
    """Read a config with its axes chosen and overrides applied, without the ingredients it was made of.

    Args:
        path: the config file.
        axes: value of each axis, None for the config's default. An axis left None may still be chosen by its
            environment variable, as mmseg's own scripts do it.
        overrides: from ``--cfg-options``.

    Raises:
        ConfigError: no such file; an unknown axis value (the message lists the known ones); an axis that the config
            does not have; an override of a key that no run reads.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f'{path}: no such config file')
    chosen = {axis: value for axis, value in axes.items() if value is not None}
    with _environment({AXES[axis][0]: _axis_value(path, axis, value) for axis, value in chosen.items()}):
        cfg = Config.fromfile(path)
    for axis, value in chosen.items():
        if AXES[axis][0] not in cfg.env_variables:
            raise ConfigError(
                f'{path} has no axis {axis!r} (asked for {value!r}): it stands alone; change it with --cfg-options'
            )
    for key in overrides or {}:
        top = key.split('.')[0]
        if top not in RUN_KEYS:
            hint = 'it is an ingredient that the config has already used' if top in cfg else 'no run reads it'
            raise ConfigError(
                f'--cfg-options {key}: {hint}; override the place where it is used, such as model.… or '
                f'train_dataloader.… (keys of a run: {", ".join(sorted(RUN_KEYS & set(cfg)))})'
            )
    cfg.merge_from_dict(overrides or {})
    for key in set(cfg) - RUN_KEYS:
        cfg.pop(key)
    return cfg


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while, so that one config's axes do not reach the next one's."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    logging.disable(logging.INFO)  # mmengine tells of every variable that it uses
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, value in former.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _axis_value(path: Path, axis: str, value: str) -> str:
    """The value as the config's template takes it."""
    if axis == 'seed':
        if not value.isdecimal():
            raise ConfigError(f'--seed {value}: give a whole number, 0 or more')
        return value
    if axis not in FOLDERS:
        return value
    name = value.replace('/', '_')
    known = axis_values(path, axis)
    if known and name not in known:
        shown = ', '.join(v.replace('_', '/') if axis == 'fraction' else v for v in known)
        raise ConfigError(f'unknown {axis} {value!r} for {path}; known: {shown}')
    return name


def axis_values(path: Path, axis: str) -> list[str]:
    """The values of an axis that lie beside a config; empty where the config has no ``_base_`` folder above it."""
    for folder in path.resolve().parents:
        values = sorted(file.stem for file in (folder / '_base_' / FOLDERS[axis]).glob('*.py'))
        if values:
            return values
    return []


def default_work_dir(path: str | Path, axes: dict[str, str | None]) -> str:
    """``work_dirs/`` and a folder named after the config and the axes chosen for it, so that runs do not mix."""
    path = Path(path).resolve()
    shown = {axis: value for axis, value in axes.items() if value is not None and axis != 'data_root'}
    if 'weights' in shown:
        shown['weights'] = Path(shown['weights']).stem
    if 'seed' in shown:
        shown['seed'] = f'seed{shown["seed"]}'
    name = '_'.join([path.parent.name, path.stem, *shown.values()]).replace('/', '-')
    return str(Path('work_dirs', name))


def check_data(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Look for the folders and lists of a config's data sets before anything is built.

    Args:
        cfg: the config.
        loaders: which data loaders are about to be used, such as ``('train_dataloader', 'val_dataloader')``.

    Raises:
        ConfigError: names the first folder or list that is missing, and how to point at the right one.
    """
    for loader in loaders:
        for dataset in _leaf_datasets(cfg[loader]['dataset']):
            root = Path(dataset.get('data_root') or '.')
            prefixes = dataset.get('data_prefix') or {}
            wanted = [root, *(root / folder for folder in prefixes.values())]
            if dataset.get('ann_file'):
                wanted.append(root / dataset['ann_file'])
            for path in wanted:
                if not path.exists():
                    raise ConfigError(
                        f'{cfg.filename}: {loader} ({dataset["type"]}) needs {path}, which does not exist. Put the '
                        'data there, or name its folder with --data-root DIR (the README tells the layout)'
                    )


def _leaf_datasets(dataset: dict) -> list[dict]:
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets', [])
    return [leaf for part in inner for leaf in _leaf_datasets(part)] if inner else [dataset]


def first_difference(there: dict, asked: dict) -> tuple[str, Any, Any] | None:
    """The first setting in which two configurations differ: its key and both values; `PLACES` do not count."""
    one, other = (
        dict(_flat({k: v for k, v in cfg.items() if k not in PLACES and not k.startswith('_')}))
        for cfg in (there, asked)
    )
    for key in [*other, *(key for key in one if key not in other)]:
        if one.get(key, 'absent') != other.get(key, 'absent'):
            return key, one.get(key, 'absent'), other.get(key, 'absent')
    return None


def _flat(value: Any, key: str = '') -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None or not value:
        return [(key, list(value) if isinstance(value, tuple) else value)]
    return [pair for name, part in items for pair in _flat(part, f'{key}.{name}' if key else str(name))]
