"""Products that communicate while they compute: what the compiled graph shows without GPUs, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import sharded
import torch

from vit22b_dense import ViT22B
from vit22b_dense.engine.sharding.async_tp import overlap
from vit22b_dense.engine.sharding.mesh import MeshError


def test_both_products_of_a_compiled_block_are_fused_with_their_communication(tmp_path):
    """Forward and backward. And a bias inside of the output product, which would undo it, is noticed."""
    sharded.run(1, [('fused', dict(out=tmp_path / 'found.json'))], tmp_path)
    found = json.loads((tmp_path / 'found.json').read_text())
    both = [1, 1, 0, 0]  # of all-gathers and reduce-scatters: fused, fused, alone, alone
    assert found['one image'] == found['two images'] == [both, both]
    assert found['biased'] == [[1, 0, 0, 1], both]


def test_what_is_lacking_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with torch.device('meta'):
        backbone = ViT22B('tiny')
    with pytest.raises(MeshError) as error:
        overlap(backbone, SimpleNamespace(size=lambda: 1), sequence_parallel=False)
    for what in ('--tp 2', '--sequence-parallel', 'compile_blocks=True', 'GPUs with CUDA'):
        assert what in str(error.value)


@pytest.mark.slow
def test_compiled_blocks_that_processes_share_have_the_same_gradients(tmp_path):
    """PyTorch compiles shards of unequal sizes wrongly, so these run uncompiled, and are not trained on."""
    sharded.run(2, [('compiled', dict(out=tmp_path / 'found.json'))], tmp_path)
    found = json.loads((tmp_path / 'found.json').read_text())
    assert max(case['output'] for case in found.values()) < 1e-6
    refused = {name for name, case in found.items() if 'error' in case}
    assert refused == {'sequence 2 42', 'sequence 2 70'}
    assert all('--tp 2 does not divide the' in found[name]['error'] for name in refused)
    assert max(case['gradients'] for name, case in found.items() if name not in refused) < 1e-5
