"""Mixed precision in bfloat16, on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn

from .config import ConfigError


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's `OptimWrapper` under autocast to bfloat16.

    mmengine's `AmpOptimWrapper` refuses the CPU, and scales the loss, which bfloat16 with its range does not need.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward pass in training."""
        with super().optim_context(model), torch.autocast(get_device().split(':')[0], torch.bfloat16):
            yield


def use_mixed_precision(cfg: Config) -> None:
    """Let a config train, validate and test in mixed precision: bfloat16, on an old accelerator float16.

    Raises:
        ConfigError: its optimiser has a wrapper of another kind.
    """
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper not in ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper'):
        raise ConfigError(f'--amp: works with OptimWrapper, and the config has optim_wrapper.type={wrapper!r}')
    if wrapper == 'OptimWrapper':
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16')
        else:
            cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    for loop in ('val_cfg', 'test_cfg'):  # mmengine's name for autocast to the device's own type
        if cfg.get(loop):
            cfg[loop].fp16 = True
