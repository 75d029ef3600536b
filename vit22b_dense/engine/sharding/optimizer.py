"""The optimiser of a sharded model: when gradients are exchanged, how they are clipped, and its state on disk."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.optim import Optimizer

from ...checkpoint import CheckpointError
from ...checkpoint.distributed import part_of
from ...checkpoint.errors import itemise
from ...checkpoint.fitting import is_sharded
from ...checkpoint.reading import LazyWeights


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """mmengine's `OptimWrapper` for a model that `fully_shard` was applied to.

    While gradients are accumulated they stay on each process, and are exchanged before the update alone. They are
    clipped by their norm over all processes, also where parameters lie on meshes of different dimensions.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward pass; FSDP2 has no ``no_sync``, its backward pass looks at this switch."""
        model.set_requires_gradient_sync(self.should_sync())
        yield

    def _clip_grad(self) -> None:
        if self.clip_func is not torch.nn.utils.clip_grad_norm_:
            super()._clip_grad()
            return
        options = dict(self.clip_grad_kwargs)
        most, kind = options.pop('max_norm'), options.get('norm_type', 2.0)
        by_mesh: dict = {}
        for group in self.optimizer.param_groups:
            for param in group['params']:
                if param.grad is not None:
                    by_mesh.setdefault(getattr(param, 'device_mesh', None), []).append(param)
        if not by_mesh:
            return
        norms = []
        for params in by_mesh.values():
            norm = torch.nn.utils.get_total_norm([param.grad for param in params], **options)
            norms.append(norm.full_tensor() if is_sharded(norm) else norm)
        total = torch.linalg.vector_norm(torch.stack(norms), kind)
        for params in by_mesh.values():
            torch.nn.utils.clip_grads_with_norm_(params, most, total)
        self.message_hub.update_scalar(f'train/{self.grad_name}', float(total))


def state_of(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict]]:
    """An optimiser's state: tensors by ``PARAMETER.KIND``, and of each group its settings and parameters' names."""
    names = {param: name for name, param in model.named_parameters()}
    tensors = {
        f'{names[param]}.{kind}': value
        for param, state in optimizer.state.items()
        for kind, value in state.items()
        if isinstance(value, Tensor)
    }
    groups = [dict(group, params=[names[param] for param in group['params']]) for group in optimizer.param_groups]
    return tensors, groups


def by_name(model: nn.Module, optimizer: Optimizer, stored: Mapping, path: Path) -> tuple[LazyWeights, list[dict]]:
    """The state of an optimiser that one process has stored, in the form in which `load_state` takes it.

    Args:
        model: that the optimiser is of.
        stored: mmengine's, with numbers in place of names. path: where it lies, for messages.

    Raises:
        CheckpointError: it is of other groups of parameters.
    """
    own, there = state_of(model, optimizer)[1], stored['param_groups']
    if [len(group['params']) for group in own] != [len(group['params']) for group in there]:
        raise CheckpointError(f'{path}: cannot be resumed, its optimiser has other groups of parameters')
    groups = [dict(settings, params=group['params']) for group, settings in zip(own, there, strict=True)]
    names = {
        number: name
        for group, settings in zip(own, there, strict=True)
        for name, number in zip(group['params'], settings['params'], strict=True)
    }
    shapes = {name: param.shape for name, param in model.named_parameters()}
    tensors = {}
    for number, state in stored['state'].items():
        name = names[number]
        for kind, value in state.items():
            if isinstance(value, Tensor):
                if value.shape not in ((), shapes[name]):
                    raise CheckpointError(f'{path}: cannot be resumed, {kind} of {name} is {tuple(value.shape)} there')
                tensors[f'{name}.{kind}'] = value
    infos = {key: torch.empty_like(value, device='meta') for key, value in tensors.items()}
    return LazyWeights(
        path, infos, lambda key: tensors[key].clone(), read_part=lambda key, part: tensors[key][part]
    ), groups


def load_state(model: nn.Module, optimizer: Optimizer, stored: LazyWeights, groups: list[Mapping]) -> None:
    """Give an optimiser a stored state; each process reads the parts of its shards.

    Args:
        model: that the optimiser is of. optimizer: without state.
        stored: tensors by ``PARAMETER.KIND``. groups: as `state_of` returns them.

    Raises:
        CheckpointError: the stored state is of other parameters or other groups of them.
    """
    own = state_of(model, optimizer)[1]
    names = dict(model.named_parameters())
    here, there = ([name for group in some for name in group['params']] for some in (own, groups))
    problems = {'only in the model': sorted({*here} - {*there}), 'only in the file': sorted({*there} - {*here})}
    lines = itemise(problems)
    if not lines and [group['params'] for group in own] != [group['params'] for group in groups]:
        lines = ['the parameters are grouped differently']
    if lines:
        raise CheckpointError(f'{stored.path}: cannot be resumed, its optimiser is another: {"; ".join(lines)}')
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update({key: value for key, value in settings.items() if key not in ('params', 'foreach')})
    for key, info in stored.items():
        name, _, kind = key.rpartition('.')
        param = names[name]
        if info.shape != param.shape or not is_sharded(param):
            value = stored.read(key)
            value = value if kind == 'step' else value.to(param.device)
        else:
            value = torch.zeros_like(param, dtype=info.dtype)
            part = part_of(param)
            if all(side.start < side.stop for side in part):
                value.to_local().copy_(stored.read_part(key, part))
        optimizer.state[param][kind] = value
