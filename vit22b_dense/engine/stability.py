"""Attention that goes one-hot: seen in the largest logits and the entropy before the loss shows it, and stopped."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .guards import DivergedError
from .model import unwrapped
from .work_dir import find_checkpoint


@torch.no_grad()
def logit_and_entropy(
    query: Tensor, key: Tensor, heads: Sequence[int], images: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The largest logit of some heads' attention, and its entropy, in float32.

    Args:
        query, key: ``(B, H, N, d)``, as the attention gets them: normalised, if there is a QK-norm.
        heads: numbers below H; no other head's logits are computed.
        images: how many of the batch are looked at, from the first.
        scale: of the products; None for ``1 / sqrt(d)``.

    Returns:
        Both are scalars: the maximum over all logits, and the mean over images, heads and queries of
        ``-sum(p log(p))`` in nats, from 0 (one-hot) to ``log(N)`` (uniform).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = (t[:images, list(heads)].float() for t in (query, key))
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        found = []
        for q, k in zip(query, key, strict=True):  # one after the other: the logits of one take memory enough
            logits = q @ k.transpose(-1, -2) * scale
            log_p = logits.log_softmax(dim=-1)
            found.append(torch.stack([logits.max(), -(log_p.exp() * log_p).sum(dim=-1).mean()]))
        return torch.stack(found)[:, 0].max(), torch.stack(found)[:, 1].mean()


class Watch(TorchFunctionMode):
    """While it is entered, looks at what a block calls PyTorch's attention with, and leaves it as it is."""

    def __init__(self, images: int, first: int, heads: int) -> None:
        super().__init__()
        self.images, self.first, self.heads = images, first, heads
        self.seen: tuple[Tensor, Tensor, int] | None = None  # largest logit, entropy, number of keys

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention and self.seen is None:
            self._look(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _look(
        self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: float | None = None, **_: Any
    ) -> None:
        total = query.shape[1]
        heads = sorted({(self.first + i) % total for i in range(min(self.heads, total))})
        self.seen = (*logit_and_entropy(query, key, heads, self.images, scale), key.shape[-2])


@HOOKS.register_module()
class StabilityHook(Hook):
    """Logs each block's largest attention logit and attention entropy; stops a training that has gone one-hot.

    Without QK-norm the logits of large models grow until each token attends to one other, and the training diverges
    (ViT-22B, arXiv 2302.05442, section 2). Looked at are the first and then every ``interval``-th iteration, and there
    a few heads of a few images, others each time: a head may well be one-hot on a single plain image. It takes what a
    block calls `scaled_dot_product_attention` with, so any backbone will do. Nothing is done where the backbone does
    not learn.

    The log has ``max_logit`` and ``min_entropy``, the extremes over the blocks; the JSON log also
    ``attention/max_logit/I`` and ``attention/entropy/I`` of each block I. Entropies are in nats. Of several processes,
    the maximum of the logits and the mean of the entropies count.

    Args:
        interval: iterations between two looks; 0 for none.
        heads: how many of each block.
        images: how many of each process.
        warn: share of the largest possible entropy, ``log(tokens)``, below which a block is warned of, once.
        stop: share at which a block counts as one-hot.
        max_logit: beyond it a block counts as one-hot, too. The default is where small models were seen to diverge
            (arXiv 2309.14322, section 3.1); a tenth of it is warned of.
        patience: the training stops when a block is one-hot so many looks in a row; 0 for never.

    Raises:
        DivergedError: the training has gone one-hot.
    """

    def __init__(
        self,
        interval: int = 50,
        heads: int = 2,
        images: int = 4,
        warn: float = 0.1,
        stop: float = 0.01,
        max_logit: float = 1e4,
        patience: int = 3,
    ) -> None:
        self.interval, self.heads, self.images = interval, heads, images
        self.warn, self.stop, self.max_logit, self.patience = warn, stop, max_logit, patience
        self.watches: list[Watch] = []
        self.handles: list[Any] = []
        self.stance: Any = None
        self.warned: set[int] = set()
        self.in_a_row: dict[int, int] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Watch the blocks during this iteration, if it is one to look at."""
        if not self.interval or (runner.iter and not self.every_n_train_iters(runner, self.interval)):
            return
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        blocks = getattr(backbone, 'blocks', None) or getattr(getattr(backbone, 'timm_model', None), 'blocks', ())
        if not any(param.requires_grad for block in blocks for param in block.parameters()):
            return
        first = (runner.iter + 1) // self.interval * self.heads
        self.watches = [Watch(self.images, first, self.heads) for _ in blocks]
        for block, watch in zip(blocks, self.watches, strict=True):
            self.handles.append(block.register_forward_pre_hook(partial(_enter, watch)))
            self.handles.append(block.register_forward_hook(partial(_leave, watch), always_call=True))
        if getattr(backbone, 'compile_blocks', False):  # compiled code calls no Python
            self.stance = torch.compiler.set_stance('force_eager')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log what was seen; warn or stop."""
        if not self.watches:
            return
        for handle in self.handles:
            handle.remove()
        if self.stance is not None:
            torch.compiler.set_stance('default')
        seen = {i: watch.seen for i, watch in enumerate(self.watches) if watch.seen is not None}
        self.watches, self.handles, self.stance = [], [], None
        if not seen:
            return
        logits, entropies = (torch.stack([values[k] for values in seen.values()]) for k in (0, 1))
        all_reduce(logits, 'max')
        all_reduce(entropies, 'mean')
        logits, entropies = (dict(zip(seen, values.tolist(), strict=True)) for values in (logits, entropies))
        runner.message_hub.update_scalar('train/max_logit', max(logits.values()))
        runner.message_hub.update_scalar('train/min_entropy', min(entropies.values()))
        scalars = {f'attention/max_logit/{i}': value for i, value in logits.items()}
        scalars |= {f'attention/entropy/{i}': value for i, value in entropies.items()}
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1, file_path=f'{runner.timestamp}.json')
        most = {i: math.log(values[2]) if values[2] > 1 else math.nan for i, values in seen.items()}
        for i in seen:
            self._judge(runner, i, logits[i], entropies[i], most[i])

    def _judge(self, runner: Runner, i: int, logit: float, entropy: float, most: float) -> None:
        """Warn of block ``i``, or stop; ``most`` is the largest possible entropy, NaN for a single token."""
        share = entropy / most
        one_hot = not math.isfinite(logit) or logit > self.max_logit or share < self.stop
        self.in_a_row[i] = self.in_a_row.get(i, 0) + 1 if one_hot else 0
        state = (
            f'iteration {runner.iter + 1}: block {i}: largest attention logit {logit:.4g}, attention entropy '
            f'{entropy:.3g} of at most {most:.3g} nats'
        )
        if self.patience and self.in_a_row[i] >= self.patience:
            last = find_checkpoint(runner.work_dir)
            raise DivergedError(
                f'{state}, one-hot {self.patience} times in a row; the training stops. '
                f'{f"The last checkpoint is {last}" if last else "There is no checkpoint yet"}. Lower the learning '
                'rate (--cfg-options optim_wrapper.optimizer.lr=…), warm up longer, clip the gradients '
                '(optim_wrapper.clip_grad) or use a backbone with QK-norm. To go on as it is: '
                'default_hooks.stability.patience=0'
            )
        if i not in self.warned and (one_hot or share < self.warn or logit > self.max_logit / 10):
            self.warned.add(i)
            runner.logger.warning(f'{state}: on the way to one-hot attention, after which a training diverges')


def _enter(watch: Watch, block: nn.Module, inputs: tuple) -> None:
    watch.__enter__()


def _leave(watch: Watch, block: nn.Module, inputs: tuple, output: Any) -> None:
    watch.__exit__(None, None, None)
