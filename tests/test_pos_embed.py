import math

import numpy as np
import pytest
import torch
from PIL import Image

from vit22b_dense.models.backbones.pos_embed import resize_pos_embed, to_grid


@pytest.mark.parametrize('tokens', [39, 43, 78, 86, 115, 123])
def test_the_size_is_exact_where_a_scale_factor_would_miss_it(tokens):
    assert resize_pos_embed(torch.randn(1, 37, 37, 4), (tokens, 37)).shape == (1, tokens, 37, 4)


def test_shrinking_equals_pillow_antialiased_bicubic():
    grid = np.random.default_rng(0).normal(size=(37, 29)).astype(np.float32)
    ours = resize_pos_embed(torch.from_numpy(grid)[None, :, :, None], (32, 18))[0, :, :, 0]
    reference = np.asarray(Image.fromarray(grid).resize((18, 32), Image.BICUBIC))
    np.testing.assert_allclose(ours, reference, atol=2e-5)


def test_growing_equals_the_cubic_convolution_written_out():
    """Keys' kernel with a = -3/4 (PyTorch's and OpenCV's), half-pixel centres, borders repeated; no antialiasing."""
    torch.manual_seed(0)
    row = torch.randn(16, dtype=torch.float64)

    def kernel(t, a=-0.75):
        t = abs(t)
        return ((a + 2) * t - (a + 3)) * t * t + 1 if t <= 1 else ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    expected = []
    for i in range(23):
        place = (i + 0.5) * 16 / 23 - 0.5
        taps = range(math.floor(place) - 1, math.floor(place) + 3)
        expected.append(sum(kernel(place - j) * row[min(max(j, 0), 15)] for j in taps))
    grown = resize_pos_embed(row.float()[None, :, None, None].expand(1, 16, 8, 1), (23, 8))
    torch.testing.assert_close(grown[0, :, 0, 0], torch.stack(expected).float(), atol=1e-5, rtol=0)


def test_interpolates_in_fp32_and_returns_the_dtype_of_the_grid():
    grid = torch.randn(1, 16, 16, 8, dtype=torch.bfloat16)
    resized = resize_pos_embed(grid, (23, 20))
    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, resize_pos_embed(grid.float(), (23, 20)).to(torch.bfloat16))


def test_same_size_is_the_same_tensor():
    grid = torch.randn(1, 5, 7, 2)
    assert resize_pos_embed(grid, (5, 7)) is grid


def test_flat_square_grids_are_recognised_and_others_refused():
    flat = torch.arange(12.0 * 12)[None, :, None]
    assert torch.equal(to_grid(flat)[0, 3, 5], flat[0, 3 * 12 + 5])
    with pytest.raises(ValueError, match=r'w\.pth.*\(1, 143, 1\).*store it as'):
        to_grid(flat[:, 1:], 'w.pth')
