"""How much memory each of two processes takes to load a backbone that both share."""

import pytest
import sharded
import torch

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import LazyWeights, write_weights


def write(path, arch):
    """Random weights in bfloat16, one tensor in memory at a time; their size in bytes."""
    with torch.device('meta'):
        infos = ViT22B(arch, dtype='bfloat16', frozen=True).state_dict()
    draw = lambda name: torch.randn(infos[name].shape).to(torch.bfloat16)  # noqa: E731
    write_weights(path, LazyWeights(path, infos, draw))
    return sum(info.nbytes for info in infos.values())


@pytest.mark.slow
def test_each_of_two_processes_reads_its_half(tmp_path):
    arch = dict(embed_dims=2048, num_layers=6, num_heads=16, mlp_dims=8192)  # 0.3 billion parameters
    size = write(tmp_path / 'weights.safetensors', arch)
    task = dict(out=tmp_path / 'grown', weights=tmp_path / 'weights.safetensors', arch=arch)
    sharded.run(2, [('loaded', task)], tmp_path)
    for rank in range(2):
        grown = int((tmp_path / f'grown_{rank}').read_text())
        assert 0.5 * size <= grown <= 0.75 * size
