"""Which kernel PyTorch takes for attention."""

import torch
from torch.nn.attention import SDPBackend

from ..models.backbones.vit22b import ARCHS


def attention_kernel(size: str, tokens: int, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel for a preset's attention without a mask, as PyTorch itself would choose it, such as ``flash``.

    Args:
        size: a name of `ARCHS`. tokens: in a sequence. dtype: of queries, keys and values. device: that has them.

    Returns:
        Its name; where this version of PyTorch does not tell, ``unknown``.
    """
    choose = getattr(torch, '_fused_sdp_choice', None)  # what scaled_dot_product_attention asks; not public
    if choose is None:
        return 'unknown'
    heads, width = ARCHS[size]['num_heads'], ARCHS[size]['embed_dims']
    x = torch.empty(1, heads, tokens, width // heads, device=device, dtype=dtype)
    name = SDPBackend(choose(x, x, x)).name
    return name.removesuffix('_ATTENTION').lower()
