"""The flags that spread a model over several processes."""

import argparse
import os

from mmengine.config import Config

from .config import ConfigError

STRATEGIES = {'fsdp2': 'FSDP2Strategy'}  # value of the flag: name in mmengine's registry
SHARDED = {'DenseRunner': 'ShardedRunner', 'CachedRunner': 'ShardedCachedRunner'}  # runner: the one for a strategy


def add_strategy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a tool's arguments."""
    group = parser.add_argument_group('strategy', 'for models that one device does not hold; start with torchrun')
    group.add_argument(
        '--strategy', choices=list(STRATEGIES), help='fsdp2: shard the model over all processes (default: none)'
    )
    group.add_argument(
        '--tp', type=int, default=1, metavar='N', help='N processes share the products of each block (default: 1)'
    )
    group.add_argument(
        '--sequence-parallel', action='store_true', help='with --tp: shard the tokens between the products, too'
    )


def strategy_of(args: argparse.Namespace) -> dict | None:
    """The config of the strategy that a tool's arguments ask for; None for none.

    Raises:
        ConfigError: not started by torchrun, flags that need each other, or processes that ``--tp`` does not divide.
    """
    if args.strategy is None:
        if args.tp != 1 or args.sequence_parallel:
            raise ConfigError('--tp, --sequence-parallel: need --strategy fsdp2')
        return None
    lacking = [name for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR') if name not in os.environ]
    if lacking:
        raise ConfigError(
            f'--strategy {args.strategy}: this process was not started by torchrun ({", ".join(lacking)} not set); '
            'start the command with torchrun --nproc_per_node=N'
        )
    world = int(os.environ['WORLD_SIZE'])
    if args.tp < 1 or world % args.tp:
        raise ConfigError(f'--tp {args.tp}: does not divide the {world} processes that torchrun has started')
    if args.sequence_parallel and args.tp == 1:
        raise ConfigError('--sequence-parallel: needs --tp 2 or more')
    strategy = dict(type=STRATEGIES[args.strategy], data=world // args.tp, tensor=args.tp)
    return dict(strategy, sequence_parallel=True) if args.sequence_parallel else strategy


def use_strategy(cfg: Config, args: argparse.Namespace) -> None:
    """Put the strategy that a tool's arguments ask for into a run's config; see `strategy_of`."""
    strategy = strategy_of(args)
    if strategy is not None:
        cfg.strategy = dict(strategy, dtype='bfloat16') if getattr(args, 'amp', False) else strategy
        cfg.launcher = 'pytorch'
