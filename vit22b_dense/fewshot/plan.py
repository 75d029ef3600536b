"""The plan of a few-shot table: its cells, looked at before the first one is run."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ..engine.config import check_data, load_config, parse_overrides
from ..errors import UserError
from .cells import Backbone, Cell
from .subset import FewShotSubset


def plan(
    config: str,
    backbones: Sequence[Backbone],
    fractions: Sequence[str],
    seeds: Sequence[int],
    work_dir: Path,
    tools: Path,
    regime: str | None = None,
    data_root: str | None = None,
    options: Sequence[str] = (),
) -> list[Cell]:
    """All cells, a seed after the other, so that whole curves appear early.

    Nothing is written. Each cell's configuration, its data and its subset are looked at, so that what cannot run is
    known before the first training starts.

    Args:
        config: file.
        backbones, fractions, seeds: the table's axes.
        work_dir: the cells' folders come below it.
        tools: folder of train.py and test.py.
        regime, data_root: axes that all cells share; None for the config's default.
        options: ``KEY=VALUE`` strings as for ``--cfg-options``.

    Raises:
        UserError: an unknown or doubled value, data or samples that are missing, a unit that the data set does not
            have, or a folder with another configuration.
    """
    protocol = ' '.join(['/'.join(Path(config).resolve().parts[-2:]), regime or 'frozen', *options])
    cells, whole, subsets = [], None, {}
    for seed in seeds:
        for backbone in backbones:
            for fraction in fractions:
                axes = dict(backbone=backbone.name, weights=backbone.weights, regime=regime, fraction=fraction)
                axes |= dict(seed=str(seed), data_root=data_root)
                cfg = load_config(config, axes, parse_overrides(list(options)))
                own = backbone.random_options(cfg)
                cfg.merge_from_dict(parse_overrides(own))
                if whole is None:
                    whole = _build_whole(cfg)
                if (fraction, seed) not in subsets:
                    subset = FewShotSubset(whole, fraction, seed, _subset_config(cfg).get('unit'))
                    subsets[fraction, seed] = tuple(subset.names)
                label, row = backbone.row(cfg)
                folder = Path(row, fraction.replace('/', '_'), f'seed{seed}')
                if any(cell.folder == folder for cell in cells):
                    raise UserError(
                        f'{label}, fraction {fraction}, seed {seed} is asked for twice: every row needs one name'
                    )
                cell = Cell(
                    backbone=backbone,
                    fraction=fraction,
                    seed=seed,
                    label=label,
                    config=config,
                    cfg=cfg,
                    work_dir=work_dir / folder,
                    folder=folder,
                    regime=regime,
                    data_root=data_root,
                    options=(*options, *own),
                    protocol=protocol,
                    train_names=subsets[fraction, seed],
                    tools=tools,
                )
                cell.check_folder()
                cells.append(cell)
    return cells


def _subset_config(cfg: Config) -> dict:
    subset = cfg.train_dataloader.dataset.get('dataset', {})
    if subset.get('type') != 'FewShotSubset':
        raise UserError(f'{cfg.filename}: trains on no FewShotSubset (see configs/_base_/loaders.py)')
    return subset


def _build_whole(cfg: Config) -> BaseDataset:
    """The training data that the subsets are taken of, after a look at what any cell needs."""
    if 'max_iters' not in cfg.train_cfg:
        raise UserError(f'{cfg.filename}: trains by epochs; give train_cfg an iteration-based loop (max_iters)')
    check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return DATASETS.build(_subset_config(cfg)).dataset
