"""Optimiser groups: layer-wise learning-rate decay for plain ViTs, weight decay only where it belongs."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from prettytable import PrettyTable
from torch import Tensor, nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """One parameter group per depth, with and without weight decay.

    A parameter of the backbone at depth ``i`` (``backbone.layer_id``: 0 the embeddings, 1 the first block, …)
    learns at ``lr * decay_rate ** (num_layers + 1 - i)``; everything outside the backbone at ``lr``. Norms, biases
    and the position embedding have no weight decay. Frozen parameters are left out. The groups are printed
    once, as a table.

    Config: ``paramwise_cfg=dict(decay_rate=0.95)``; 1 means one rate for all. With ``head_weight_decay``, the model's
    ``head`` or ``decode_head`` has a weight decay of its own.

    Raises:
        ValueError: other keys, a rate outside (0, 1], or a negative weight decay.
        TypeError: a model whose backbone has no ``layer_id``.

    Source: BEiT, arXiv 2106.08254, appendix (layer-wise decay); timm's and mmseg's constructors for the depths.
    """

    def _validate_cfg(self) -> None:
        cfg = dict(self.paramwise_cfg)
        rate, head = cfg.pop('decay_rate', 0), cfg.pop('head_weight_decay', 0)
        if cfg or not 0 < rate <= 1 or head < 0:
            raise ValueError(
                'paramwise_cfg must be dict(decay_rate=RATE[, head_weight_decay=W]) with RATE in (0, 1] and W at '
                f'least 0, not {dict(self.paramwise_cfg)}'
            )
        if self.base_lr is None:
            raise ValueError('optim_wrapper.optimizer.lr must be given')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: None = None) -> None:
        """Append the groups of a whole model to ``params`` and print them."""
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'layer_id'):
            raise TypeError(f'{type(module).__name__}.backbone ({type(backbone).__name__}) has no layer_id(name)')
        rate = self.paramwise_cfg['decay_rate']
        of_head = self.paramwise_cfg.get('head_weight_decay', self.base_wd)
        top = backbone.num_layers + 1
        groups: dict[tuple, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            inside = name.startswith('backbone.')
            depth = backbone.layer_id(name.removeprefix('backbone.')) if inside else top
            decay = of_head if name.startswith(('head.', 'decode_head.')) else self.base_wd
            weight_decay = 0.0 if is_free_of_decay(name, param) else (decay or 0.0)
            key = (not inside, depth, weight_decay)
            if key not in groups:
                groups[key] = dict(
                    params=[], lr=self.base_lr * rate ** (top - depth), weight_decay=weight_decay,
                    group_name=f'depth {depth}' if inside else 'head',
                )  # fmt: skip
            groups[key]['params'].append(param)
        if not groups:
            raise ValueError(f'{type(module).__name__} has no parameter to train: everything is frozen')
        ordered = [groups[key] for key in sorted(groups)]
        print_log('Parameter groups\n' + groups_table(ordered), logger='current')
        params.extend(ordered)


def is_free_of_decay(name: str, param: Tensor) -> bool:
    """Whether a parameter has no weight decay: norms, biases, scales, position embeddings and lone tokens."""
    leaf = name.rsplit('.', 1)[-1]
    return param.ndim <= 1 or leaf.endswith(('bias', 'pos_embed', 'position_embeddings', '_token', '_tokens'))


def groups_table(groups: list[dict]) -> str:
    """The groups as text: depth, learning rate, weight decay, number of parameters."""
    table = PrettyTable(['group', 'lr', 'weight decay', 'tensors', 'parameters'], align='r')
    for group in groups:
        count = sum(param.numel() for param in group['params'])
        table.add_row(
            [
                group['group_name'],
                f'{group["lr"]:.3g}',
                group['weight_decay'],
                len(group['params']),
                f'{count:,}',
            ]
        )
    return table.get_string()
