"""Configs as the tools use them: axes chosen on the command line, overrides and data folders checked."""

import argparse
import difflib
import errno
import inspect
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import FlexibleRunner, Runner

from ..checkpoint import CheckpointError
from ..checkpoint.reference import fingerprint
from ..errors import UserError
from ..files import naming

# Axis: environment variable that the configs read, help. Some have their values as files in a folder of `_base_`.
AXES = {
    'backbone': ('VIT22B_BACKBONE', 'backbone: a name from configs/_base_/backbones'),
    'weights': ('VIT22B_WEIGHTS', "pretrained backbone: a file; for transformers' models a folder or hub id"),
    'regime': ('VIT22B_REGIME', 'training regime: frozen, cached, finetune, scratch or pretrain'),
    'decoder_size': ('VIT22B_DECODER_SIZE', 'size of the decoder: lean (default) or published'),
    'fraction': ('VIT22B_FRACTION', 'fraction of the training data, such as 1/16; also sets the number of iterations'),
    'seed': ('VIT22B_SEED', 'seed for weights, data order, augmentation and few-shot subset'),
    'data_root': ('VIT22B_DATA_ROOT', 'folder of the data set'),
    'features': ('VIT22B_FEATURES', 'folder of features, for --regime cached (default: one in work_dirs/features)'),
}
FOLDERS = {'backbone': 'backbones', 'regime': 'regimes'}
# Values that files of `_base_` have in a table: fractions with their iterations, decoders with their sizes.
KNOWN = {'fraction': ['1', '1/16', '1/2', '1/4', '1/8'], 'decoder_size': ['lean', 'published']}
# What `configs/_base_` makes configs of: used up when the config is read, so no run reads it.
INGREDIENTS = frozenset({
    'augmentation', 'backbone', 'classes', 'crop_size', 'data_root', 'dataset', 'embed_dims', 'factors', 'flips',
    'fraction', 'frozen', 'inference', 'init_cfg', 'lean', 'levels', 'load_image', 'loading', 'max_depth', 'max_iters',
    'metainfo', 'num_classes', 'palette', 'patch', 'patch_size', 'pixel_mean', 'pixel_std', 'pyramid', 'rate',
    'ratios', 'resize', 'scales', 'side', 'stride', 'test_resize', 'train_data', 'train_pipeline', 'val_data',
    'weights', 'width',
})  # fmt: skip
# What mmengine's runners read: the arguments of both, and what they and mmseg's scripts take from the config besides.
RUN_KEYS = {
    *inspect.signature(Runner.__init__).parameters, *inspect.signature(FlexibleRunner.__init__).parameters,
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'features',
    'find_unused_parameters', 'init_weights_for_test_or_val', 'lr_search', 'model_wrapper_cfg', 'runner_type',
    'sync_bn', 'test_pipeline', 'tta_model', 'tta_pipeline',
} - {'self', 'cfg'}  # fmt: skip
# The folder of the shipped configs, which a wheel holds and a checkout links to; configs elsewhere inherit from it.
CONFIGS = str((Path(__file__).parents[1] / '.mim' / 'configs').resolve())
SHIPPED = 'vit22b_dense::'  # mmengine's notation for a config of an installed package
HUB_ID = re.compile(r'[\w.-]+(/[\w.-]+)?')
LEAST = {  # of the numbers that a run needs
    'train_cfg.max_iters': 1, 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1,
    **{f'{name}_dataloader.{key}': least for name in ('train', 'val', 'test')
       for key, least in (('batch_size', 1), ('num_workers', 0))},
}  # fmt: skip
SIMILAR = 0.85  # of two keys: above it the one is taken for the other, mistyped


class ConfigError(UserError):
    """A config, an axis value or an override that cannot be used."""


class Overrides(DictAction):
    """mmengine's ``KEY=VALUE`` arguments, with an error that names what is none."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        """Put them into the namespace as a dictionary."""
        for value in values:
            key, equals, _ = value.partition('=')
            if not equals or not all(key.split('.')):
                raise ConfigError(f'--cfg-options {value}: give KEY=VALUE')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError, SyntaxError) as error:
            raise ConfigError(f'--cfg-options {" ".join(values)}: a value that cannot be read ({error})') from error


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the axes and mmseg's ``--cfg-options`` to a tool's arguments."""
    axes = parser.add_argument_group('axes', 'choices that the configs leave open; each has a default')
    for axis, (_, text) in AXES.items():
        metavar = {'data_root': 'DIR', 'features': 'DIR', 'weights': 'PATH', 'fraction': '1/16', 'seed': 'N'}.get(
            axis, 'NAME'
        )
        axes.add_argument(f'--{axis.replace("_", "-")}', metavar=metavar, help=text)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.backbone.with_cp=True train_dataloader.batch_size=2; '
        'lists as key="[a,b]" or key=a,b',
    )


def config_of(args: argparse.Namespace) -> Config:
    """The config that a tool's arguments ask for; see `add_config_arguments` and `load_config`."""
    cfg = load_config(args.config, axes_of(args), args.cfg_options)
    check_weights(cfg, args.weights)
    return cfg


def axes_of(args: argparse.Namespace) -> dict[str, str | None]:
    """The value of each axis in a tool's arguments."""
    return {axis: getattr(args, axis) for axis in AXES}


def parse_overrides(tokens: list[str]) -> dict:
    """``KEY=VALUE`` strings as ``--cfg-options`` takes them, as the dictionary that it makes of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('tokens', nargs='*', action=Overrides)
    return parser.parse_args(['--', *tokens]).tokens if tokens else {}


def find_config(name: str | Path) -> Path:
    """A config's file: the file of that name, or else a shipped config, such as ``ade20k/linear.py``.

    Args:
        name: a path, or a name below ``configs/``. With ``vit22b_dense::`` in front, a shipped config in any case.

    Raises:
        ConfigError: neither is there; names the shipped configs that have a similar name, or else all of them.
    """
    asked = str(name)
    if not asked.startswith(SHIPPED) and Path(asked).is_file():
        return Path(asked)
    shipped = Path(CONFIGS, asked.removeprefix(SHIPPED))
    if shipped.is_file():
        return shipped
    known = [path.relative_to(CONFIGS).as_posix() for path in sorted(Path(CONFIGS).glob('[!_]*/*.py'))]
    near = difflib.get_close_matches(asked.removeprefix(SHIPPED), known, 3) or known
    raise ConfigError(f'{asked}: no such config file; the shipped configs {", ".join(near)} are found by their names')


def load_config(path: str | Path, axes: dict[str, str | None], overrides: dict | None = None) -> Config:
    """Read a config with its axes chosen and overrides applied, without the ingredients it was made of.

    Every other key stays: what a run reads, and variables of the user's own.

    Args:
        path: the config file, or the name of a shipped one; see `find_config`.
        axes: value of each axis, None for the config's default. An axis left None may still be chosen by its
            environment variable, as mmseg's own scripts do it.
        overrides: from ``--cfg-options``.

    Raises:
        ConfigError: no such file; an unknown axis value (the message lists the known ones); an axis that the config
            does not have; an override of a key that no run reads; a key that looks like one that runs read, mistyped.
    """
    path = find_config(path)
    chosen = {axis: value for axis, value in axes.items() if value is not None}
    with _environment({AXES[axis][0]: _axis_value(path, axis, value) for axis, value in chosen.items()}):
        cfg = read_config(path)
    for axis, value in chosen.items():
        if AXES[axis][0] not in cfg.env_variables:
            if axis == 'weights' and 'backbone' in cfg.get('model', {}):
                name_weights(cfg, value)
                continue
            own = ', '.join(other for other in AXES if AXES[other][0] in cfg.env_variables)
            raise ConfigError(
                f'{path} has no axis {axis!r} (asked for {value!r}): '
                f'{f"its axes are {own}" if own else "it stands alone"}; change it with --cfg-options'
            )
    for key in set(cfg) - RUN_KEYS - INGREDIENTS:
        if difflib.get_close_matches(key, RUN_KEYS, 1, SIMILAR):
            raise ConfigError(f'{path}: {key}: {_unknown(key)}')
    merge_overrides(cfg, overrides)
    for key in set(cfg) & INGREDIENTS:
        cfg.pop(key)
    check_numbers(cfg)
    # Its text as mmengine makes it, readable enough: for long paths yapf takes seconds, five times a run.
    object.__setattr__(cfg, '_format_python_code', False)
    return cfg


def read_config(path: str | Path) -> Config:
    """Read a config file.

    Raises:
        ConfigError: it cannot be read or run, or its bases are missing or inherit from each other in a circle.
    """
    try:
        with naming(tempfile.gettempdir()):  # where mmengine reads a copy
            return Config.fromfile(path)
    except UserError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ConfigError(f'{path}: cannot be read as a config ({type(error).__name__}: {error})') from error
    except RecursionError as error:
        raise ConfigError(f'{path}: a config that inherits from itself: look at _base_') from error
    except Exception as error:  # it is a program, which may raise anything
        raise ConfigError(f'{path}: cannot be read as a config ({type(error).__name__}: {error})') from error


def check_weights(cfg: Config, weights: str | None) -> None:
    """Look for the pretrained weights that were asked for; a model of transformers' may have a hub id instead.

    Raises:
        ConfigError: they are not there.
    """
    if weights is None or Path(weights).expanduser().exists():
        return
    if cfg.get('model', {}).get('backbone', {}).get('type') != 'HFBackbone' or not HUB_ID.fullmatch(weights):
        raise ConfigError(f'--weights {weights}: no such file or folder')


def check_numbers(cfg: Config) -> None:
    """Refuse lengths, sizes and intervals with which a run would do nothing.

    Raises:
        ConfigError: names the first.
    """
    for key, least in LEAST.items():
        value = cfg
        for part in key.split('.'):
            value = value.get(part) if isinstance(value, dict | Config) else None
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(f'{cfg.filename}: {key}={value!r}: give a whole number of at least {least}')


def merge_overrides(cfg: Config, overrides: dict | None) -> Config:
    """Put overrides from ``--cfg-options`` into a config, and return it.

    Raises:
        ConfigError: a key that no run reads.
    """
    for key in overrides or {}:
        top = key.split('.')[0]
        if top not in RUN_KEYS:
            used = top in INGREDIENTS or top in cfg
            hint = 'it is an ingredient that the config has already used' if used else _unknown(top)
            raise ConfigError(
                f'--cfg-options {key}: {hint}; override the place where it is used, such as model.… or '
                f'train_dataloader.… (keys of a run: {", ".join(sorted(RUN_KEYS & set(cfg)))})'
            )
    try:
        cfg.merge_from_dict(overrides or {})
    except Exception as error:  # mmengine takes the keys apart without looking at them
        given = ' '.join(f'{key}={value}' for key, value in overrides.items())
        raise ConfigError(f'--cfg-options {given}: does not fit the config ({error})') from error
    return cfg


def _unknown(key: str) -> str:
    (nearest,) = difflib.get_close_matches(key, RUN_KEYS, 1, 0)
    return f'no run reads it; did you mean {nearest}?'


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while, so that one config's axes do not reach the next one's."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    logging.disable(logging.INFO)  # mmengine logs every variable that it uses
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
    if not value.strip():
        raise ConfigError(f'--{axis.replace("_", "-")}: is empty; give a value, or leave it out')
    if axis == 'seed':
        if not (value.isascii() and value.isdecimal() and int(value) < 2**32):
            raise ConfigError(f'--seed {value}: give a whole number from 0 to 2^32 - 1')
        return value
    known = KNOWN.get(axis) or (axis_values(path, axis) if axis in FOLDERS else [])
    if known and value not in known:
        raise ConfigError(f'unknown {axis} {value!r} for {path}; known: {", ".join(known)}')
    return value


def axis_values(path: Path, axis: str) -> list[str]:
    """The values of an axis: those in the ``_base_`` folder above a config, or else the shipped ones."""
    for folder in (*path.resolve().parents, Path(CONFIGS)):
        values = sorted(file.stem for file in (folder / '_base_' / FOLDERS[axis]).glob('*.py'))
        if values:
            return values
    return []


def default_work_dir(path: str | Path, axes: dict[str, str | None]) -> str:
    """``work_dirs/`` and a folder named after the config and the axes chosen for it, so that runs do not mix."""
    path = find_config(path).resolve()
    shown = {
        axis: value for axis, value in axes.items() if value is not None and axis not in ('data_root', 'features')
    }
    if 'weights' in shown:
        shown['weights'] = weights_name(shown['weights'])
    if 'seed' in shown:
        shown['seed'] = f'seed{shown["seed"]}'
    name = '_'.join([path.parent.name, path.stem, *shown.values()]).replace('/', '-')
    return str(Path('work_dirs', name))


def weights_name(weights: str) -> str:
    """The name of weights in rows and folders, the same on every machine: a path's stem and `fingerprint`."""
    path = Path(weights)
    if not path.exists():  # a hub's name
        return weights.replace('/', '-')
    try:
        return f'{path.stem}-{fingerprint(path)}'
    except CheckpointError:  # a folder with a configuration alone, for random weights
        return path.stem


def name_weights(cfg: Config, weights: str) -> None:
    """Point a config that stands alone at other pretrained weights of its backbone."""
    backbone = cfg.model.backbone
    if backbone.type == 'HFBackbone':
        backbone.model = weights
    elif backbone.type == 'TIMMViT':
        backbone.update(pretrained=False, checkpoint_path=weights)
    else:
        backbone.init_cfg = dict(backbone.get('init_cfg') or {}, type='Pretrained', checkpoint=weights)


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
            wanted = [root, *(root / folder / dataset.get('split', '') for folder in prefixes.values())]
            if dataset.get('ann_file'):
                wanted.append(root / dataset['ann_file'])
            for path in wanted:
                if not path.exists():
                    raise ConfigError(
                        f'{cfg.filename}: {loader} ({dataset["type"]}) needs {path}, which does not exist. Put the '
                        'data there, or name its folder with --data-root DIR (docs/data.md shows the expected layout)'
                    )


def _leaf_datasets(dataset: dict) -> list[dict]:
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets', [])
    return [leaf for part in inner for leaf in _leaf_datasets(part)] if inner else [dataset]
