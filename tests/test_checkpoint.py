import pickle

import pytest
import torch
from memory import PeakMemory
from mmengine.logging import HistoryBuffer, MessageHub
from safetensors.torch import save_file
from torch import nn

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import (
    CheckpointError,
    Reference,
    check_fit,
    convert_checkpoint,
    load_into_meta,
    load_weights,
    open_weights,
    read_checkpoint,
)


class Trap:
    """Pickles as a call: what a malicious checkpoint does."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, 'w'))


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    target = tmp_path / 'ran'
    path = tmp_path / 'trap.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1)), extra=Trap(str(target))), path)
    with pytest.raises(CheckpointError, match=r'trap\.pth: refused.*could run code.*safetensors'):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(('owner', 'name'), [(torch.Tensor, 'mean'), (HistoryBuffer, '__init__')])
def test_getattr_on_anything_but_the_log_buffers_is_refused(tmp_path, owner, name):
    class Reach:
        def __reduce__(self):
            return (getattr, (owner, name))

    torch.save(dict(x=Reach()), tmp_path / 'reach.pth')
    with pytest.raises(CheckpointError, match='refused'):
        read_checkpoint(tmp_path / 'reach.pth')


def test_log_buffers_of_mmengine_are_read(tmp_path):
    hub = MessageHub.get_instance('test_checkpoint')
    hub.update_scalar('train/loss', 1.5)
    torch.save(dict(message_hub=hub.state_dict()), tmp_path / 'log.pth')
    read = read_checkpoint(tmp_path / 'log.pth')['message_hub']
    assert read['log_scalars']['train/loss'].mean() == 1.5


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f'cut{suffix}'
    state = dict(w=torch.randn(1000))
    torch.save(state, path) if suffix == '.pth' else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=f'cut{suffix}'):
        read_checkpoint(path)


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match='no such checkpoint'):
        read_checkpoint(tmp_path / 'absent.pth')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(CheckpointError, match=r'text\.pth'):
        read_checkpoint(tmp_path / 'text.pth')
    (tmp_path / 'list.pth').write_bytes(pickle.dumps([1], protocol=2))
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list'):
        read_checkpoint(tmp_path / 'list.pth')


def test_fit_lists_both_sides_and_loads_nothing():
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    state = dict(weight=torch.zeros(3, 2), scale=torch.zeros(7))
    with pytest.raises(CheckpointError) as error:
        load_weights(model, state, 'w.pth')
    assert 'only in the model (1): bias (3,)' in str(error.value)
    assert 'only in the file (1): scale (7,)' in str(error.value)
    assert torch.equal(model.weight, before)
    load_weights(model, state, 'w.pth', allow_partial=True)
    assert torch.equal(model.weight, torch.zeros(3, 2))
    with pytest.raises(CheckpointError, match='none of its 1 tensors fits'):
        load_weights(model, dict(scale=torch.zeros(7)), 'w.pth', allow_partial=True)
    check_fit(model, model.state_dict(), 'w.pth')


def test_prefix(tmp_path):
    path = tmp_path / 'w.pth'
    torch.save({'model': {'module.backbone.a': torch.ones(1), 'head.b': torch.ones(2)}}, path)
    assert list(open_weights(path).under(None)) == ['a']
    assert list(open_weights(path).under('head')) == ['b']
    with pytest.raises(CheckpointError, match=r"'neck\.'.*backbone\.a"):
        open_weights(path).under('neck')


SIZES = dict(embed_dims=64, num_layers=12, num_heads=4, mlp_dims=256)


def in_every_format(tmp_path, state):
    torch.save(dict(state_dict={f'backbone.{n}': t for n, t in state.items()}), tmp_path / 'w.pth')
    for target in ('w.safetensors', 'w'):
        convert_checkpoint(tmp_path / 'w.pth', tmp_path / target, max_shard_bytes=10**6)
    index = tmp_path / 'w/model.safetensors.index.json'
    return [tmp_path / 'w.pth', tmp_path / 'w.safetensors', tmp_path / 'w', index]


def test_every_format_is_read_into_a_model_and_into_one_on_meta(tmp_path):
    torch.manual_seed(0)
    state = {n: t.to(torch.bfloat16) for n, t in ViT22B(SIZES, img_size=28).state_dict().items()}
    for path in in_every_format(tmp_path, state):
        assert set(read_checkpoint(path)['state_dict']) == {f'backbone.{n}' for n in state}
        cfg = dict(type='Pretrained', checkpoint=str(path))
        model = ViT22B(SIZES, img_size=28, init_cfg=cfg)
        model.init_weights()
        assert all(torch.equal(t, state[n].float()) for n, t in model.state_dict().items())
        with torch.device('meta'):
            one, other = (ViT22B(SIZES, img_size=size, init_cfg=cfg, frozen=True) for size in (28, 56))
        load_into_meta(one, path)
        assert all(t.dtype == torch.bfloat16 and torch.equal(t, state[n]) for n, t in one.state_dict().items())
        assert not any(p.requires_grad for p in one.parameters())
        other.init_weights()  # with the position embedding resized
        assert other(torch.randn(1, 3, 56, 56))[0].shape == (1, 64, 4, 4)
        with torch.device('meta'):
            single = ViT22B(SIZES, img_size=28)
        load_into_meta(single, path, dtype=torch.float32)
        assert all(torch.equal(t, state[n].float()) for n, t in single.state_dict().items())


def test_a_model_on_meta_costs_its_weights_once(tmp_path):
    state = ViT22B(SIZES, img_size=28).state_dict()
    total, largest = sum(t.nbytes for t in state.values()), max(t.nbytes for t in state.values())
    for path in in_every_format(tmp_path, state)[1:]:
        with torch.device('meta'):
            model = ViT22B(SIZES, img_size=28)
        with PeakMemory() as memory:
            check_fit(model, open_weights(path).under(None), path)
        assert memory.peak == 0
        with PeakMemory() as memory:
            load_into_meta(model, path)
        assert memory.peak <= total + 64  # the check's own few numbers
        with PeakMemory() as memory:
            load_weights(
                model, open_weights(path).under(None), path
            )  # into a model that has memory: one tensor at a time
        assert memory.peak <= largest + 64


def test_what_stays_on_meta_is_named(tmp_path):
    with torch.device('meta'):
        model = nn.Linear(2, 3)
        buffered = nn.Linear(2, 3)
        buffered.register_buffer('scale', torch.zeros(2), persistent=False)
    save_file(dict(weight=torch.zeros(3, 2)), tmp_path / 'part.safetensors')
    with pytest.raises(CheckpointError, match='only in the model'):
        load_into_meta(model, tmp_path / 'part.safetensors')
    with pytest.raises(CheckpointError, match=r'part\.safetensors: has no value for bias'):
        load_weights(model, open_weights(tmp_path / 'part.safetensors'), 'part.safetensors', allow_partial=True)
    assert model.weight.is_meta
    save_file(dict(weight=torch.zeros(3, 2), bias=torch.zeros(3)), tmp_path / 'all.safetensors')
    with pytest.raises(ValueError, match='still on the meta device.*scale'):
        load_into_meta(buffered, tmp_path / 'all.safetensors')


def test_loaded_weights_do_not_follow_the_file(tmp_path):
    state = dict(weight=torch.randn(300, 200), bias=torch.randn(300))
    save_file(state, tmp_path / 'w.safetensors')
    torch.save(state, tmp_path / 'w.pth')
    for name in ('w.safetensors', 'w.pth'):
        with torch.device('meta'):
            model = nn.Linear(200, 300)
        load_into_meta(model, tmp_path / name)
        with open(tmp_path / name, 'r+b') as file:  # into the same file, as a copy over it does
            file.write(bytes((tmp_path / name).stat().st_size))
        assert torch.equal(model.weight, state['weight'])
        assert torch.equal(model.bias, state['bias'])


def test_a_reference_to_a_folder_or_its_index_is_one_to_all_of_its_files(tmp_path):
    *_, folder, index = in_every_format(tmp_path, ViT22B(SIZES, img_size=28).state_dict())
    of_folder, of_index = (Reference.of(dict(kind='file', path=str(path))) for path in (folder, index))
    assert of_folder.same_weights(of_index)
    assert of_index.size == sum(file.stat().st_size for file in folder.iterdir())
    shard = next(folder.glob('*.safetensors'))
    shard.write_bytes(shard.read_bytes()[:-1] + b'x')
    assert not of_index.found()


def test_a_model_that_has_memory_keeps_it(tmp_path):
    model = nn.Linear(2, 3)
    places = [p.data_ptr() for p in model.parameters()]
    load_weights(model, {n: torch.ones_like(p, dtype=torch.bfloat16) for n, p in model.state_dict().items()}, 'w.pth')
    assert [p.data_ptr() for p in model.parameters()] == places
    assert all(p.dtype == torch.float32 and p.eq(1).all() for p in model.parameters())


def test_integers_do_not_become_weights():
    state = dict(weight=torch.zeros(3, 2, dtype=torch.int8), bias=torch.zeros(3))
    with pytest.raises(
        CheckpointError, match=r'other shape or type \(1\): weight model \(3, 2\) float32, file \(3, 2\) int8'
    ):
        load_weights(nn.Linear(2, 3), state, 'w.pth')


def test_a_file_that_is_cut_while_it_is_open(tmp_path):
    path = tmp_path / 'w.safetensors'
    save_file(dict(a=torch.zeros(100)), path)
    state = open_weights(path).under(None)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r'w\.safetensors: a cannot be read .*; copy it again'):
        state.read('a')
