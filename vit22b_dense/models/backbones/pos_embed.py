"""A learned grid of position embeddings, interpolated to any height and width."""

import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate a grid of position embeddings to another height and width.

    The output size itself is passed to the interpolation: a scale factor rounds to a wrong size for some
    grids. Bicubic, antialiased when either side shrinks, computed in fp32 whatever the dtype of the grid.

    Args:
        grid: ``(1, H0, W0, D)``; H0 and W0 may differ.
        size: the wanted ``(H, W)`` in tokens.

    Returns:
        ``(1, H, W, D)`` in the dtype of ``grid``; ``grid`` itself where the size is already right.

    Source: ViT, arXiv 2010.11929, section 3.2 (two-dimensional interpolation for other resolutions).
    """
    old = tuple(grid.shape[1:3])
    if old == tuple(size):
        return grid
    shrinks = size[0] < old[0] or size[1] < old[1]
    resized = F.interpolate(
        grid.permute(0, 3, 1, 2).float(),
        size=tuple(size),
        mode='bicubic',
        align_corners=False,
        antialias=shrinks,
    )
    return resized.permute(0, 2, 3, 1).to(grid.dtype)


def to_grid(embedding: Tensor, source: str = 'checkpoint') -> Tensor:
    """Bring a stored position embedding to the grid layout ``(1, H, W, D)``.

    Args:
        embedding: ``(1, H, W, D)``, or the common flat layout ``(1, N, D)`` with N a square number.
        source: the name used in the error.

    Raises:
        ValueError: a flat embedding whose length is not a square number: its grid cannot be known.
    """
    if embedding.ndim == 4:
        return embedding
    if embedding.ndim == 3:
        side = round(embedding.shape[1] ** 0.5)
        if side * side == embedding.shape[1]:
            return embedding.unflatten(1, (side, side))
    raise ValueError(
        f'{source}: a position embedding of shape {tuple(embedding.shape)} is neither a grid (1, H, W, D) nor a '
        'flat square grid (1, N, D); store it as (1, H, W, D)'
    )
