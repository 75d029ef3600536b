"""What the runners share: errors that name the config or the folder, and where a run continues."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import CheckpointError
from ..datasets.empty import empty_named
from ..errors import UserError
from ..files import naming
from .config import ConfigError
from .work_dir import find_checkpoint

RESUMABLE = ('meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers')


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Name the config in what goes wrong while parts of a run are built from it."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f'{cfg.filename}: no run can be built from it ({type(error).__name__}: {error}); --debug shows where'
        ) from error


def check_resumable(checkpoint: dict, schedulers: list | dict | None, filename: str | Path) -> None:
    """Check that a checkpoint has what a run with these ``param_schedulers`` goes on from.

    Raises:
        CheckpointError: it holds weights alone, or other schedulers.
    """
    if lacking := [key for key in RESUMABLE if key not in checkpoint]:
        raise CheckpointError(
            f'{filename}: cannot be resumed, it lacks {", ".join(lacking)}; to start from its weights, leave '
            '--resume out and give --cfg-options load_from=FILE'
        )
    if isinstance(schedulers, list):  # mmengine pairs them until one side ends
        stored = checkpoint['param_schedulers']
        if not isinstance(stored, list) or len(stored) != len(schedulers):
            raise CheckpointError(f'{filename}: cannot be resumed, its param_schedulers are not {len(schedulers)}')


def _building(name: str) -> Callable:
    @wraps(getattr(Runner, name))
    def build(self: 'CheckedRun', *arguments: Any, **options: Any) -> Any:
        with building(self.cfg):
            return getattr(super(CheckedRun, self), name)(*arguments, **options)

    return build


class CheckedRun:
    """In front of one of mmengine's runners: see this module."""

    build_train_loop, build_val_loop, build_test_loop, build_optim_wrapper, build_param_scheduler = map(
        _building,
        ('build_train_loop', 'build_val_loop', 'build_test_loop', 'build_optim_wrapper', 'build_param_scheduler'),
    )

    @staticmethod
    def build_dataloader(
        dataloader: dict | DataLoader, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """mmengine's, which fails without a name where a data set is empty; without workers, none is to persist."""
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = type(dataloader)(dataloader, persistent_workers=False)
        with empty_named(dataloader['dataset'] if isinstance(dataloader, dict) else dataloader.dataset):
            return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    @staticmethod
    def data_of(cfg: Config) -> Config:
        """A config as the runner takes it: the same, unless a subclass reads something in place of its images."""
        return cfg

    def find_latest(self) -> str | None:
        """The checkpoint to resume, if there is one."""
        found = find_checkpoint(self.work_dir)
        return found and str(found)

    def load_or_resume(self) -> None:
        """Load ``load_from``, or with ``resume`` and without it the latest checkpoint of the work dir."""
        if self._resume and self._load_from is None and not self._has_loaded:
            found = self.find_latest()
            told = Path(self.work_dir, 'last_checkpoint')
            if found is None and told.exists():
                named = told.read_text('utf-8', 'replace').strip()[:200]
                raise CheckpointError(
                    f'{told}: the checkpoint that it names, {named}, is not there any more; put it back, or remove '
                    f'{told.name} to start from the beginning'
                )
            if found is None:
                self.logger.info(f'{self.work_dir}: nothing to resume there, training starts from the beginning')
            else:
                self.resume(found)
            self._has_loaded = True
        super().load_or_resume()

    def resume(self, filename: str, **options: bool) -> None:
        """Go on from a checkpoint, read on the CPU; the options are mmengine's ``resume_optimizer`` and so on."""
        try:
            super().resume(filename, **dict(options, map_location='cpu'))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f'{filename}: cannot be resumed ({type(error).__name__}: {error}); remove it, to resume from an '
                'earlier one, or start again with another --work-dir'
            ) from error

    def train(self) -> nn.Module:
        """Train; an error of the disk names the work dir."""
        with naming(self.work_dir):
            return super().train()

    def dump_config(self) -> None:
        """Write the config so that the run can be repeated from it: not as one that is resumed."""
        resume, self.cfg.resume = self.cfg.get('resume', False), False
        super().dump_config()
        self.cfg.resume = resume
