"""Norms that compute in the dtype of their input."""

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """PyTorch's RMS norm (no bias, no centering) in the dtype of its input, also under autocast.

    There the weight is fp32 and the input may be bf16, which PyTorch's fused kernel does not take.
    """

    def __init__(self, dims: int) -> None:
        super().__init__(dims, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """PyTorch's layer norm with the epsilon of the ViTs."""

    def __init__(self, dims: int) -> None:
        super().__init__(dims, eps=NORM_EPS)


NORMS = {'rms': RMSNorm, 'layer': LayerNorm}
