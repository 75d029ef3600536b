"""The flags that spread a model over several processes."""

import argparse
import os
from collections.abc import Mapping

from mmengine.config import Config

from .config import ConfigError

STRATEGIES = {'fsdp2': 'FSDP2Strategy'}  # value of the flag: name in mmengine's registry
NONE = 'none'
SHARDED = {'DenseRunner': 'ShardedRunner', 'CachedRunner': 'ShardedCachedRunner'}  # runner: the one for a strategy


def add_strategy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a tool's arguments."""
    group = parser.add_argument_group('strategy', 'for models that one device does not hold; start with torchrun')
    group.add_argument(
        '--strategy',
        choices=[*STRATEGIES, NONE],
        help='fsdp2: shard the model over all processes (default: what the config says, or none)',
    )
    group.add_argument('--tp', type=int, metavar='N', help='N processes share the products of each block (default: 1)')
    group.add_argument(
        '--sequence-parallel', action='store_true', help='with --tp: shard the tokens between the products, too'
    )
    group.add_argument(
        '--async-tp', action='store_true', help='with --sequence-parallel: exchange tokens while the products compute'
    )


def has_strategy(cfg: Config) -> bool:
    """Whether a config has one of the strategies of the flags."""
    strategy = cfg.get('strategy')
    return isinstance(strategy, dict) and strategy.get('type') in STRATEGIES.values()


def use_strategy(cfg: Config, args: argparse.Namespace) -> None:
    """Put the strategy that a tool's arguments ask for into a run's config, or check the one that is there.

    Raises:
        ConfigError: not started by torchrun, flags that need each other, or processes that ``--tp`` does not divide.
    """
    there = cfg.get('strategy') or {}
    if args.strategy is None and not has_strategy(cfg):
        if args.tp is not None or args.sequence_parallel or args.async_tp:
            raise ConfigError('--tp, --sequence-parallel, --async-tp: need --strategy fsdp2')
        return
    if args.strategy == NONE:
        cfg.strategy = None
        return
    name = f'--strategy {args.strategy or next(iter(STRATEGIES))}'
    lacking = [name for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR') if name not in os.environ]
    if lacking:
        instead = '' if args.strategy else ', or take --strategy none'
        raise ConfigError(
            f'{name}: this process was not started by torchrun ({", ".join(lacking)} not set); start the command with '
            f'torchrun --nproc_per_node=N{instead}'
        )
    cfg.strategy, cfg.launcher = strategy_of(args, there, int(os.environ['WORLD_SIZE'])), 'pytorch'


def strategy_of(args: argparse.Namespace, there: Mapping, world: int) -> dict:
    """The strategy that flags ask for.

    Args:
        there: what the config has; the flags go before it.
        world: number of processes.

    Raises:
        ConfigError: flags that need each other, or processes that ``--tp`` does not divide.
    """
    tp = args.tp if args.tp is not None else there.get('tensor', 1)
    sequence = args.sequence_parallel or there.get('sequence_parallel', False)
    if tp < 1 or world % tp:
        raise ConfigError(f'--tp {tp}: does not divide the {world} processes of the run')
    if sequence and tp == 1:
        raise ConfigError('--sequence-parallel: needs --tp 2 or more')
    own = dict(type=STRATEGIES[args.strategy] if args.strategy else there['type'], data=world // tp, tensor=tp)
    if sequence:
        own['sequence_parallel'] = True
    if args.async_tp:
        own['async_tp'] = True
    if getattr(args, 'amp', False):
        own['dtype'] = 'bfloat16'
    return {**there, **own}
