"""Cells whose model is spread over processes: torchrun starts them for each training and each test."""

import argparse
import os
from dataclasses import dataclass

from mmengine.config import Config
from torch.distributed import run

from ..engine.rates import SEARCH
from ..engine.strategies import NONE, strategy_of
from ..errors import UserError


@dataclass(frozen=True)
class Processes:
    """The processes of a cell, which share its model and its batches."""

    number: int
    args: argparse.Namespace  # with the flags of `add_strategy_arguments`

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'Processes | None':
        """From the tool's arguments; None where a cell is one process.

        Raises:
            UserError: flags that need or exclude each other.
        """
        name = f'--strategy {args.strategy}'
        if args.strategy in (None, NONE):
            if args.nproc is not None or args.tp is not None or args.sequence_parallel or args.async_tp:
                raise UserError('--nproc, --tp, --sequence-parallel, --async-tp: need --strategy fsdp2')
            return None
        if 'TORCHELASTIC_RUN_ID' in os.environ:
            raise UserError(f'{name}: leave torchrun out; with --nproc N it is started for each cell')
        if args.nproc is None or args.nproc < 1:
            raise UserError(f'{name}: needs --nproc N, the number of processes of a cell: that of the GPUs')
        if args.jobs > 1:
            raise UserError(f'--jobs {args.jobs}: each cell has all {args.nproc} processes; leave --jobs out')
        if args.lr == SEARCH:
            raise UserError(f'{name}, --lr auto: the rate is searched by one process; give --lr RATE')
        if args.cached:
            raise UserError(
                f'{name}, --cached: cells on cached features have no backbone to be spread. Make the features with '
                f'torchrun, tools/cache_features.py and {name}, then run this with --cached and --features alone'
            )
        strategy_of(args, {}, args.nproc)
        return cls(args.nproc, args)

    @property
    def launch(self) -> tuple[str, ...]:
        """What stands in front of a tool in a command."""
        return run.__file__, '--standalone', f'--nproc_per_node={self.number}'

    @property
    def flags(self) -> tuple[str, ...]:
        """What train.py and test.py are told."""
        flags = ['--strategy', self.args.strategy]
        flags += ['--tp', str(self.args.tp)] if self.args.tp is not None else []
        flags += ['--sequence-parallel'] if self.args.sequence_parallel else []
        return *flags, *(['--async-tp'] if self.args.async_tp else [])

    def share_batch(self, cfg: Config) -> list[str]:
        """The overrides with which all processes together have the batches of one, so that tables can be compared.

        Args:
            cfg: becomes that of the processes, with their strategy.

        Raises:
            UserError: they do not divide the batch.
        """
        cfg.strategy, cfg.launcher = strategy_of(self.args, cfg.get('strategy') or {}, self.number), 'pytorch'
        batch, data = cfg.train_dataloader.batch_size, cfg.strategy['data']
        if batch % data:
            raise UserError(
                f'--nproc {self.number}: {data} processes with data of their own do not divide the batch of {batch} '
                'images (train_dataloader.batch_size)'
            )
        cfg.train_dataloader.batch_size = batch // data
        return [f'train_dataloader.batch_size={batch // data}']
