"""The one builder of a run: from a config to mmengine's runner, for training and testing."""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import CheckpointError, load_weights, state_dict_of
from ..checkpoint.distributed import as_of_one_process
from ..checkpoint.reading import is_distributed
from ..errors import UserError
from ..files import naming
from .checked import CheckedRun, building, check_resumable
from .config import ConfigError, add_config_arguments, axes_of, check_data, config_of, default_work_dir
from .model import unwrapped
from .precision import use_mixed_precision
from .rates import settle_rate, use_found_rate
from .strategies import SHARDED, add_strategy_arguments, has_strategy, use_strategy
from .streaming import read_for
from .work_dir import claim

LAUNCHED = {  # variables that a launcher sets
    'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


@RUNNERS.register_module()
class DenseRunner(CheckedRun, Runner):
    """mmengine's `Runner`, which also runs several processes without an accelerator and reads checkpoints safely.

    A checkpoint is read on the CPU, without running code from it, and copied into the model tensor by tensor. Resuming
    takes the latest checkpoint of the work dir, even if the run was killed before ``last_checkpoint`` was written.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group with gloo if there is no accelerator; mmengine would call CUDA."""
        if self.distributed and not torch.cuda.is_available() and not dist.is_initialized():
            if self.launcher != 'pytorch' or 'RANK' not in os.environ:
                raise UserError(
                    f'--launcher {self.launcher}: without an accelerator, use torchrun and --launcher pytorch'
                )
            dist.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap for several processes; on the CPU a process has no device number."""
        if self.distributed and not torch.cuda.is_available():
            model_wrapper_cfg = dict(model_wrapper_cfg or {})
            model_wrapper_cfg.setdefault('type', 'MMDistributedDataParallel')
            if model_wrapper_cfg['type'] == 'MMDistributedDataParallel':
                unused = self.cfg.get('find_unused_parameters', False)
                model_wrapper_cfg = dict(
                    dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=unused), **model_wrapper_cfg
                )
        return super().wrap_model(model_wrapper_cfg, model)

    def load_checkpoint(self, filename: str, map_location: str = 'cpu', strict: bool = False) -> dict:
        """Read a checkpoint and copy its weights into the model, all of them or none.

        Args:
            filename: ``.pth``, ``.safetensors``, or a folder of shards.
            map_location, strict: mmengine's; it is read on the CPU, and what does not fit is refused by a hook.

        Returns:
            Its content.

        Raises:
            CheckpointError: it cannot be read, does not fit, or is to be resumed and holds weights alone.
        """
        checkpoint = read_for(unwrapped(self.model), filename)
        if self._resume:
            check_resumable(checkpoint, self.param_schedulers, filename)
            if is_distributed(filename):
                checkpoint['optimizer'] = as_of_one_process(filename, checkpoint['optimizer'])
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        with torch.no_grad():
            load_weights(unwrapped(self.model), state_dict_of(checkpoint), filename, allow_partial=True)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing have in common to a tool's arguments."""
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs and results (default: one in work_dirs/)')
    parser.add_argument('--amp', action='store_true', help='mixed precision in bfloat16, on the CPU too')
    add_config_arguments(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
        help='launcher of several processes; pytorch: start the command with torchrun',
    )  # fmt: skip
    add_strategy_arguments(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def run_config(args: argparse.Namespace) -> Config:
    """The config that the arguments of `add_run_arguments` ask for, with its work dir."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    lacking = [name for name in LAUNCHED.get(args.launcher, ()) if name not in os.environ]
    if lacking:
        raise ConfigError(
            f'--launcher {args.launcher}: it has not started this process ({", ".join(lacking)} not set); start the '
            'command with torchrun, srun or mpirun, or leave --launcher out'
        )
    cfg = config_of(args)
    cfg.launcher = args.launcher
    use_strategy(cfg, args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config, axes_of(args))
    if args.amp and not cfg.get('strategy'):
        use_mixed_precision(cfg)
    return cfg


def augment_test(cfg: Config) -> None:
    """Let a test augment its images: mmseg's ``test.py --tta``.

    Raises:
        ConfigError: the config does not say how.
    """
    if lacking := [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]:
        raise ConfigError(f'{cfg.filename}: --tta: the config has no {" and no ".join(lacking)}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)


def build_training(cfg: Config) -> Runner:
    """A runner that trains, in a work dir that is its own from now on.

    Args:
        cfg: with ``work_dir``, ``launcher`` and ``resume``.

    Raises:
        UserError: data are missing, or see `claim`.
    """
    if cfg.get('lr_search'):
        use_found_rate(cfg, cfg.work_dir)
    check_data(cfg, ('train_dataloader', 'val_dataloader') if cfg.get('val_dataloader') else ('train_dataloader',))
    if int(os.environ.get('RANK', '0')) == 0:
        claim(cfg)
    if cfg.get('lr_search'):
        with building(cfg):
            settle_rate(cfg, RUNNERS.get(cfg.get('runner_type', 'DenseRunner')).data_of(cfg))
    return _build(cfg)


def build_test(cfg: Config, checkpoint: str) -> Runner:
    """A runner that tests a checkpoint. Its config is dumped as NAME_test.py, beside that of a training.

    Args:
        cfg: with ``work_dir`` and ``launcher``.
        checkpoint: of the model, whole or of what was trained.

    Raises:
        UserError: data or the checkpoint are missing.
    """
    check_data(cfg, ('test_dataloader',))
    if not Path(checkpoint).exists():
        raise CheckpointError(f'{checkpoint}: no such checkpoint')
    config = Path(cfg.filename)
    name = str(config.with_name(f'{config.stem}_test.py'))
    cfg = Config(cfg._cfg_dict.to_dict(), cfg_text=cfg.text, filename=name, format_python_code=False)
    cfg.load_from, cfg.resume = checkpoint, False
    runner = _build(cfg)
    if hasattr(runner, 'prepare_test'):
        runner.prepare_test()
    return runner


def _build(cfg: Config) -> Runner:
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        torch.set_autocast_dtype('cuda', torch.bfloat16)  # what mmengine's loops take where they autocast
    with naming(cfg.get('work_dir') or '.'), building(cfg):
        kind = cfg.get('runner_type') or 'DenseRunner'
        if has_strategy(cfg):
            kind = SHARDED.get(kind, kind)
        elif cfg.get('strategy') and 'runner_type' not in cfg:
            kind = 'FlexibleRunner'
        return RUNNERS.get(kind).from_cfg(cfg)


def leave(status: int = 0) -> None:
    """End this process of several: gloo may abort while Python shuts down after a backward pass."""
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        dist.barrier()
        os._exit(status)
