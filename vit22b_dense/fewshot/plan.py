"""The plan of a few-shot table: its cells, checked before the first one is run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..datasets.complete import check_complete
from ..engine.config import check_data, check_weights, load_config, parse_overrides, weights_name
from ..errors import UserError
from .cells import Cell
from .processes import Processes
from .published import deviations
from .subset import FewShotSubset, digest
from .table import CellResult

RANDOM = ':random'


@dataclass(frozen=True)
class Backbone:
    """A row of the table, from ``NAME``, ``NAME=WEIGHTS``, and either with ``:random`` behind it."""

    name: str  # a file of configs/_base_/backbones
    weights: str | None  # pretrained; None for the default
    random: bool  # leave the weights random all the same

    @classmethod
    def parse(cls, text: str) -> 'Backbone':
        """From the command line.

        Raises:
            UserError: no name, or ``=`` without weights.
        """
        name, equals, weights = text.removesuffix(RANDOM).partition('=')
        if not name or (equals and not weights):
            raise UserError(f'--backbones {text}: give NAME or NAME=WEIGHTS, with {RANDOM} behind it for random ones')
        return cls(name, weights or None, text.endswith(RANDOM))

    def random_options(self, cfg: Config) -> list[str]:
        """The overrides that ``:random`` adds to those of a config.

        Raises:
            UserError: random weights and a file of weights, for a backbone whose sizes do not come from that file.
        """
        kind = cfg.model.backbone.type
        if self.random and self.weights and kind != 'HFBackbone':
            raise UserError(
                f'--backbones {self.name}={self.weights}{RANDOM}: a file of weights and random weights exclude each '
                'other'
            )
        return ['model.backbone.pretrained=False'] if self.random and kind in ('HFBackbone', 'TIMMViT') else []

    def row(self, cfg: Config) -> tuple[str, str]:
        """Names of its row, which says if the weights are random, and of its folder; both are unique to the row."""
        backbone = cfg.model.backbone
        default = backbone.type == 'HFBackbone' or bool(backbone.get('init_cfg'))
        if not (backbone.get('pretrained', default) or backbone.get('checkpoint_path')):
            return f'{self.name} (random weights)', f'{self.name}_random'
        if self.weights:
            weights = weights_name(self.weights)
            return f'{self.name} ({weights})', f'{self.name}_{weights}'
        return self.name, self.name


def plan_cells(
    config: str,
    backbones: Sequence[Backbone],
    fractions: Sequence[str],
    seeds: Sequence[int],
    work_dir: Path,
    tools: Path,
    regime: str | None = None,
    data_root: str | None = None,
    options: Sequence[str] = (),
    features: Path | None = None,
    processes: Processes | None = None,
) -> list[Cell]:
    """All cells, seed by seed, so that whole curves appear early.

    Nothing is written. The configuration, the data and the subset of each cell are checked, so that what cannot run is
    known before the first training starts.

    Args:
        backbones, fractions, seeds: the table's axes.
        work_dir: contains the cells' folders.
        tools: folder of train.py and test.py.
        regime, data_root: axes that all cells share; None for the config's default.
        options: ``KEY=VALUE`` strings as for ``--cfg-options``.
        features: with the regime ``cached``, the folder that contains a folder of features for each backbone; None for
            the default of each.
        processes: of each cell; None for one.

    Raises:
        UserError: an unknown or doubled value, data or samples that are missing, a unit that the data set does not
            have, or a folder with another configuration.
    """
    protocol = ' '.join(['/'.join(Path(config).resolve().parts[-2:]), regime or 'frozen', *options])
    cells, subsets, whole = {}, {}, None
    for seed, backbone, fraction in itertools.product(seeds, backbones, fractions):
        axes = dict(backbone=backbone.name, weights=backbone.weights, regime=regime, fraction=fraction)
        axes |= dict(seed=str(seed), data_root=data_root)
        cfg = load_config(config, axes, parse_overrides(list(options)))
        overrides = [*options, *backbone.random_options(cfg)]
        check_weights(cfg, backbone.weights)
        cfg.merge_from_dict(parse_overrides(overrides))
        whole = whole or _build_whole(cfg)
        if (fraction, seed) not in subsets:
            subset = FewShotSubset(whole, fraction, seed, _subset_config(cfg).get('unit'))
            subsets[fraction, seed] = tuple(subset.names)
        names = subsets[fraction, seed]
        label, row = backbone.row(cfg)
        if features is not None:
            axes['features'] = cfg.features.folder = str(features / row)
        folder = str(Path(row, fraction.replace('/', '_'), f'seed{seed}'))
        if folder in cells:
            raise UserError(
                f'{label}, fraction {fraction}, seed {seed} is requested twice: every row needs a unique name'
            )
        entry = CellResult(
            backbone=label,
            fraction=fraction,
            seed=seed,
            train_images=len(names),
            iterations=cfg.train_cfg.max_iters,
            status='not run',
            data_set=_data_set_name(cfg.test_dataloader.dataset),
            subset_digest=digest(names),
            folder=folder,
            protocol=protocol,
            deviations='; '.join(deviations(cfg)),
        )
        given = {axis.replace('_', '-'): value for axis, value in axes.items() if value is not None}
        arguments = [part for axis, value in given.items() for part in (f'--{axis}', value)]
        launch = ()
        if processes is not None:
            overrides += processes.share_batch(cfg)
            arguments += processes.flags
            launch = processes.launch
        arguments += ['--cfg-options', *overrides] if overrides else []
        cells[folder] = Cell(entry, cfg, work_dir / folder, tuple(arguments), names, tools, launch)
        cells[folder].check_folder()
    return list(cells.values())


def _subset_config(cfg: Config) -> dict:
    subset = cfg.train_dataloader.dataset.get('dataset', {})
    if subset.get('type') != 'FewShotSubset':
        raise UserError(f'{cfg.filename}: does not train on a FewShotSubset (see configs/_base_/runtime.py)')
    return subset


def _build_whole(cfg: Config) -> BaseDataset:
    """The training data that the subsets are taken from, after a check of what every cell needs."""
    if 'max_iters' not in cfg.train_cfg:
        raise UserError(f'{cfg.filename}: trains by epochs; give train_cfg an iteration-based loop (max_iters)')
    check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    whole = DATASETS.build(_subset_config(cfg)).dataset
    check_complete(whole)
    return whole


def _data_set_name(dataset: dict) -> str:
    """A data set's type, and the number of classes if they are not the type's own."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    classes = (dataset.get('metainfo') or {}).get('classes')
    return f'{dataset["type"]} ({len(classes)} classes)' if classes else dataset['type']
