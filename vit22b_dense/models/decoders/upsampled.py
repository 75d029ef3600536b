"""Cross entropy of upsampled logits in strips of rows, without logits at the size of the labels."""

import torch
from torch import Tensor

from ...strips import resized

# Logits of one strip: on a CPU 2 MB in float32 for each thread, as much as the cache of a core holds.
STRIP_NUMBERS = dict(cpu=2**19, other=2**24)
NUMBERS_OF_PIXEL = 7  # that are kept of an image, in float32: two for its label, five for sums and weights


def strip_numbers(device: torch.device) -> int:
    """How many logits a strip has."""
    return STRIP_NUMBERS['cpu'] * torch.get_num_threads() if device.type == 'cpu' else STRIP_NUMBERS['other']


class _UpsampledCrossEntropy(torch.autograd.Function):
    """The gradient is computed along with the loss, while a strip is at hand."""

    @staticmethod
    def forward(ctx: object, logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        classes, (height, width) = logits.shape[1], labels.shape[1:]
        rows, columns = (
            resized(torch.eye(stored), side) for stored, side in zip(logits.shape[2:], (height, width), strict=True)
        )
        step = min(max(1, strip_numbers(logits.device) // (classes * width)), height)
        strips = []  # their pixels, the stored rows that they are made of, the weights of those, there and back
        for top in range(0, height, step):
            weights = rows[top : top + step]
            first, *_, last = weights.any(0).nonzero().flatten().tolist() * 2
            weights, pixels = weights[:, first : last + 1].to(logits.device), slice(top * width, (top + step) * width)
            strips.append((pixels, slice(first, last + 1), weights, weights.T.contiguous()))
        columns = columns.to(logits.device)
        loss, correct = logits.new_zeros(()), torch.zeros((), dtype=torch.int64, device=logits.device)
        gradient = torch.empty_like(logits)
        room = logits.new_empty(classes * step * width)  # reused by every strip, since new memory for each is slower
        # Of each pixel: its label's logit, the highest one, all exponentials; 1 and -1 where its label counts.
        mine, best, total, known, minus = logits.new_empty(5, 1, height * width)
        label = labels.new_empty(1, height * width, dtype=torch.int64)
        # Of the up to four tokens that a pixel lies between, one counts at least a quarter. Its best class is at zero
        # there, so a pixel's best is above -75 if all is above -100, and no sum of exponentials vanishes.
        logits = logits - logits.amax(1, keepdim=True)
        shifts = logits.device.type != 'cpu' or bool(logits.amin() < -100)
        for i, of_image in enumerate(labels.flatten(1)):
            wide = logits[i] @ columns.T  # (K, h, W)
            wide_gradient = torch.zeros_like(wide)
            counts = (of_image != ignore_index)[None]
            label.copy_(of_image).masked_fill_(~counts, 0)  # any other that is no class stays, and is an error below
            torch.neg(known.copy_(counts), out=minus)
            for pixels, used, weights, back in strips:
                strip = room[: classes * len(weights) * width].view(classes, -1, width)
                strip = torch.matmul(weights, wide[:, used], out=strip).flatten(1)  # (K, pixels)
                highest = torch.amax(strip, 0, keepdim=True, out=best[:, pixels])
                torch.gather(strip, 0, label[:, pixels], out=mine[:, pixels])
                if shifts:
                    strip -= highest
                torch.sum(strip.exp_(), 0, keepdim=True, out=total[:, pixels])
                strip *= known[:, pixels] / total[:, pixels]
                strip.scatter_add_(0, label[:, pixels], minus[:, pixels])
                wide_gradient[:, used] += back @ strip.view(classes, -1, width)
            gradient[i] = wide_gradient @ columns
            correct += (mine == best).logical_and_(counts).count_nonzero()
            if shifts:
                mine -= best
            loss += total.log_().sub_(mine).mul_(known).sum()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: object, of_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss, None, None


def upsampled_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """What ``cross_entropy(interpolate(logits), labels, reduction='sum')`` gives, and how many pixels are right.

    Args:
        logits: ``(B, K, h, w)``, brought to the size of the labels bilinearly, corners not aligned.
        labels: ``(B, H, W)`` integers of any type, below K, or ``ignore_index``.
        ignore_index: of pixels that count for nothing.

    Returns:
        The sum of the loss over the pixels, and the number of those whose label has the highest logit, int64.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _UpsampledCrossEntropy.apply(logits.float(), labels, ignore_index)


def token_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross entropy of each token's logits with the share of each class among its pixels, summed over the pixels.

    Args:
        logits: ``(B, K, h, w)``; each token stands for an equal part of the picture.
        labels, ignore_index: as for `upsampled_cross_entropy`.
    """
    _, classes, height, width = logits.shape
    rows, columns = (
        torch.arange(side, device=labels.device) * tokens // side
        for side, tokens in zip(labels.shape[1:], (height, width), strict=True)
    )
    first = (rows[:, None] * width + columns) * (classes + 1)  # bin of each pixel's token; its last one is dropped
    counts = [
        torch.bincount(
            (first + of_image.masked_fill(of_image == ignore_index, classes)).flatten(),
            minlength=height * width * (classes + 1),
        )
        for of_image in labels  # one at a time: it stays in a core's cache
    ]
    counts = torch.stack(counts).view(-1, height, width, classes + 1)[..., :classes].permute(0, 3, 1, 2)
    return -(counts * logits.float().log_softmax(1)).sum()
