"""What the flags of the strategy refuse, and what tensor parallelism does, in one process."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from vit22b_dense import ViT22B
from vit22b_dense.engine.config import ConfigError
from vit22b_dense.engine.sharding.mesh import MeshError
from vit22b_dense.engine.sharding.tensor_parallel import parallelize
from vit22b_dense.engine.strategies import use_strategy
from vit22b_dense.models import PlainViT


def flags(strategy='fsdp2', tp=None, sequence_parallel=False, async_tp=False, amp=False):
    return Namespace(strategy=strategy, tp=tp, sequence_parallel=sequence_parallel, async_tp=async_tp, amp=amp)


@pytest.fixture
def eight(monkeypatch):
    """As if torchrun had started eight processes."""
    for name, value in dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='8', MASTER_ADDR='localhost').items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tp=3), '--tp 3: does not divide the 8 processes'),
        (dict(tp=0), '--tp 0: does not divide'),
        (dict(sequence_parallel=True), '--sequence-parallel: needs --tp 2 or more'),
        (dict(strategy=None, tp=2), '--tp, --sequence-parallel, --async-tp: need --strategy fsdp2'),
    ],
)
def test_flags_that_do_not_fit(options, message, eight):
    with pytest.raises(ConfigError, match=message):
        use_strategy(Config(), flags(**options))


def test_not_started_by_torchrun(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ConfigError, match='--strategy fsdp2: this process was not started by torchrun .RANK.*--nproc'):
        use_strategy(Config(), flags())
    with pytest.raises(ConfigError, match='torchrun.*or take --strategy none'):  # as a run has left it
        use_strategy(Config(dict(strategy=dict(type='FSDP2Strategy', data=2, tensor=1))), flags(strategy=None))


def test_the_mesh_follows_from_the_flags(eight):
    cfg = Config()
    use_strategy(cfg, flags(tp=2, sequence_parallel=True, async_tp=True, amp=True))
    both = dict(sequence_parallel=True, async_tp=True)
    assert cfg.strategy == dict(type='FSDP2Strategy', data=4, tensor=2, **both, dtype='bfloat16')
    assert cfg.launcher == 'pytorch'
    use_strategy(cfg, flags(strategy=None, tp=4))  # a config that has one, on other processes
    assert (cfg.strategy.data, cfg.strategy.tensor, cfg.strategy.dtype) == (2, 4, 'bfloat16')
    use_strategy(cfg, flags(strategy='none'))
    assert cfg.strategy is None


def test_blocks_that_cannot_be_shared():
    five = SimpleNamespace(size=lambda: 5)
    with torch.device('meta'):
        ours, plain = ViT22B('22b'), PlainViT(dict(embed_dims=40, num_layers=1, num_heads=5, mlp_dims=40))
    with pytest.raises(MeshError, match='--tp 5: does not divide the 48 heads .* 1, 2, 3, 4, 6, 8, 12, 16, 24, 48'):
        parallelize(ours, five)
    with pytest.raises(MeshError, match='--tp 5: PlainViT is not made of the parallel blocks of ViT22B'):
        parallelize(plain, five)
