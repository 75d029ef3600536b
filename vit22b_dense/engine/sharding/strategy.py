"""`FSDP2Strategy`: a model that no single device holds, trained and tested by several processes."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.optim import OptimWrapper
from mmengine.registry import STRATEGIES
from mmengine.utils import get_git_hash
from torch import nn

from ...checkpoint.distributed import open_distributed
from ...checkpoint.reading import is_distributed
from ...errors import UserError
from ...models.backbones.contract import DTYPES
from ..checked import check_resumable
from ..model import unwrapped
from .checkpoint import write_distributed
from .loading import load
from .lockstep import Lockstep
from .mesh import TENSOR, TIMEOUT, make_mesh, start_processes, together
from .optimizer import by_name, load_state, state_of
from .parallel import build, spread, without_backbone

WRAPPERS = (None, 'OptimWrapper', 'BFloat16OptimWrapper')  # of optimisers that `ShardedOptimWrapper` stands for


@STRATEGIES.register_module()
class FSDP2Strategy(SingleDeviceStrategy):
    """mmengine's strategy on PyTorch's `fully_shard`, for `FlexibleRunner`.

    Each block, then the rest of the model, is sharded over the processes with data of their own. A backbone of ours is
    built without memory, and each process draws or reads its own shards of the weights.

    Args:
        data: processes with data of their own.
        tensor: neighbouring processes that share the products of each block: tensor parallelism.
        sequence_parallel: shard the tokens between the products, too.
        async_tp: with compiled blocks on GPUs, exchange tokens while the products compute.
        dtype: in which blocks compute: ``'float32'``, or ``'bfloat16'`` with gradients summed in float32.
        timeout: seconds after which a process that waits for another one gives up.
        env_kwargs, log_kwargs, and the rest: mmengine's.

    Attributes:
        mesh: data x tensor.
        must_fill: whether `prepare` gives the backbone weights; False where a checkpoint will.

    Raises:
        MeshError: the processes do not form the mesh.
    """

    def __init__(
        self,
        *,
        data: int = 1,
        tensor: int = 1,
        sequence_parallel: bool = False,
        async_tp: bool = False,
        dtype: str = 'float32',
        timeout: float = TIMEOUT,
        **parts: Any,
    ) -> None:
        self.timeout, self.must_fill = timeout, True
        self.options = dict(sequence_parallel=sequence_parallel, async_tp=async_tp)
        self.dtype = None if dtype == 'float32' else DTYPES[dtype]
        self._sizes = data, tensor
        super().__init__(**parts)

    def _setup_distributed(self, launcher: str, backend: str | None = None, **options: Any) -> None:
        start_processes(self.timeout)

    def _setup_env(self, **options: Any) -> None:
        super()._setup_env(**options)
        self.mesh = make_mesh(*self._sizes)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build a model, a backbone of ours without memory."""
        return build(model) if isinstance(model, dict) else model

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        backbone = without_backbone(model)
        model = super()._init_model_weights(model)
        if backbone is not None:
            unwrapped(model).backbone = backbone
        return model

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Replace batch norms over all processes by usual ones where there is no accelerator, which they need."""
        return model if torch.cuda.is_available() else super().convert_model(model)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model = self.convert_model(model)
        backbone = unwrapped(model).backbone
        lockstep = spread(model, backbone, self.mesh, dtype=self.dtype, with_weights=self.must_fill, **self.options)
        if lockstep is not None:
            self._keep_step(model, lockstep)
        return model

    def _keep_step(self, model: nn.Module, lockstep: Lockstep) -> None:
        """Test and validate in step with the other processes."""

        def in_step(step: Callable[[Any], list]) -> Callable[[Any], list]:
            def stepped(data: Any) -> list:
                with lockstep.step():
                    return step(data)

            return stepped

        model.test_step = in_step(model.test_step)
        if hasattr(model, 'val_step'):
            model.val_step = in_step(model.val_step)

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> OptimWrapper:
        """Build the optimiser.

        Raises:
            UserError: its wrapper is of a kind that knows nothing of shards.
        """
        if isinstance(optim_wrapper, dict):
            if optim_wrapper.get('type') not in WRAPPERS:
                raise UserError(
                    f'--strategy fsdp2: works with OptimWrapper, and the config has optim_wrapper.type='
                    f'{optim_wrapper["type"]!r}'
                )
            optim_wrapper = dict(optim_wrapper, type='ShardedOptimWrapper')
            if self.mesh[TENSOR].size() > 1:  # parameters of one group lie on different meshes
                optim_wrapper['optimizer'] = dict(optim_wrapper['optimizer'], foreach=False)
        return super().build_optim_wrapper(optim_wrapper, model)

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable | None = None,
    ) -> None:
        """Write a folder: each process its shards. Arguments as in mmengine."""
        state = self.model.state_dict()
        checkpoint = dict(extra_ckpt or {}, state_dict=dict(state))
        checkpoint['meta'] = dict(
            checkpoint.get('meta') or {},
            seed=self.seed,
            time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            mmengine=mmengine.__version__ + get_git_hash(),
        )
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        if callback is not None:
            with together():
                callback(checkpoint)
        tensors = {f'state_dict.{name}': tensor for name, tensor in checkpoint.pop('state_dict').items()}
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            states, groups = state_of(self.model, self.optim_wrapper.optimizer)
            tensors |= {f'optimizer.{name}': tensor for name, tensor in states.items()}
            base = self.optim_wrapper.base_param_settings
            checkpoint['optimizer'] = dict(groups=groups, base_param_settings=base)
        write_distributed(filename, tensors, checkpoint)

    def load_checkpoint(
        self,
        filename: str,
        *,
        map_location: Any = None,
        strict: bool = False,
        revise_keys: Any = None,
        callback: Callable | None = None,
    ) -> dict:
        """Load the weights of a checkpoint of any mesh or format: each process reads its shards.

        Args:
            filename: a folder that several processes have written, or what `open_weights` takes.
            map_location, strict, revise_keys: mmengine's, of no effect; a hook refuses what does not fit.
            callback: sees the checkpoint before, its tensors on the meta device.

        Returns:
            What lies beside the weights.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        checkpoint = load(unwrapped(self.model), filename, callback)
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(self, filename: str, **options: Any) -> dict:
        """Go on from a checkpoint of any mesh, or of one process; see mmengine's.

        Raises:
            CheckpointError: it holds weights alone, or is of another optimiser.
        """
        self._resumed, callback = Path(filename), options.pop('callback')

        def check(checkpoint: dict) -> None:
            check_resumable(checkpoint, getattr(self, 'param_schedulers', None), filename)
            callback(checkpoint)

        return super().resume(filename, callback=check, **options)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimiser's state, of which ``state_dict`` has what is no tensor."""
        model, optimizer = self.model, self.optim_wrapper.optimizer
        with together():
            if is_distributed(self._resumed):
                stored, groups = open_distributed(self._resumed, 'optimizer'), state_dict['groups']
            else:
                stored, groups = by_name(model, optimizer, state_dict, self._resumed)
            load_state(model, optimizer, stored, groups)
        with suppress(KeyError):
            self.optim_wrapper.base_param_settings = state_dict['base_param_settings']
