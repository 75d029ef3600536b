import pickle

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from vit22b_dense.checkpoint import CheckpointError, check_fit, load_weights, read_checkpoint, read_pretrained


class Trap:
    """Pickles as a call: what a malicious checkpoint does."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, 'w'))


@pytest.mark.parametrize('reader', [read_checkpoint, lambda path: CheckpointLoader.load_checkpoint(str(path))])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, reader):
    target = tmp_path / 'ran'
    path = tmp_path / 'trap.pth'
    torch.save(dict(state_dict=dict(w=torch.zeros(1)), extra=Trap(str(target))), path)
    with pytest.raises(CheckpointError, match=r'trap\.pth: refused.*could run code.*safetensors'):
        reader(path)
    assert not target.exists()


def test_getattr_on_anything_but_the_log_buffers_is_refused(tmp_path):
    class Reach:
        def __reduce__(self):
            return (getattr, (nn.Module, 'forward'))

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
    assert list(read_pretrained(path)) == ['a']
    assert list(read_pretrained(path, 'head')) == ['b']
    with pytest.raises(CheckpointError, match=r"'neck\.'.*backbone\.a"):
        read_pretrained(path, 'neck')
