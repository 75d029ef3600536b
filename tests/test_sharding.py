"""Two processes against one: the same gradients, weights, checkpoints, scores, features and predictions.

What two processes do, they do in two launches; what only slow tests look at is left out where none is run.
"""

import json
import re
import shutil

import numpy as np
import pytest
import sharded
import torch
from conftest import REPO
from sharded import CASES, CLIPPED, PARALLEL, RANDOM, broken_off, config, differences, make_data

from vit22b_dense.checkpoint import CheckpointError, open_weights, read_checkpoint
from vit22b_dense.engine.features.maker import make_features
from vit22b_dense.engine.work_dir import find_checkpoint

slow = pytest.mark.slow
TOOL = [
    '--backbone', 'vit22b_tiny', '--regime', 'scratch', '--strategy', 'fsdp2', '--amp', '--cfg-options',
    'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False', 'default_hooks.checkpoint.save_best=mIoU',
]  # fmt: skip


@pytest.fixture(scope='module')
def thorough(request):
    """Whether slow tests of this file are run."""
    return any(item.get_closest_marker('slow') for item in request.session.items if item.path == request.path)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data') / 'ade')


@pytest.fixture(scope='module')
def features(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('features')
    make_features(config(data, folder / 'run', 'cached', features=folder), 1, 'fp32')
    return folder


@pytest.fixture(scope='module')
def alone(data, features, tmp_path_factory):
    """A function: what one process sees in a case."""
    folder, seen = tmp_path_factory.mktemp('alone'), {}

    def of(name):
        """And leaves its work dir beside the others, in `of.folder`."""
        if name not in seen:
            case = dict(CASES, clipped=CLIPPED)[name]
            seen[name] = sharded.train(config(data, folder / name, features=features, **case))
        return seen[name]

    of.folder = folder
    return of


@pytest.fixture(scope='module')
def two(data, features, thorough, tmp_path_factory):
    """The folder of what two processes see, and their work dirs."""
    folder = tmp_path_factory.mktemp('two')
    runs = {name: (dict(data=2), CASES[name]) for name in ('accumulated', 'frozen')}
    runs['tensor'] = PARALLEL['tensor'], CLIPPED
    if thorough:
        runs |= {name: (dict(data=2), CASES[name]) for name in ('finetune', 'cached', 'plain')}
        runs['random'] = dict(data=2), RANDOM
        runs['sequence'] = PARALLEL['sequence'], CLIPPED
        runs['mixed'] = dict(data=2, dtype='bfloat16'), CLIPPED
    common = dict(data=data, features=features)
    tasks = [
        ('trained', dict(common, out=folder / f'{name}.pth', work_dir=folder / name, strategy=mesh, **case))
        for name, (mesh, case) in runs.items()
    ]
    tasks.append(('blocks', dict(out=folder / 'blocks.json', tokens=7)))
    sharded.run(2, tasks, folder)
    return folder


@pytest.fixture(scope='module')
def again(data, alone, two, thorough, tmp_path_factory):
    """Two processes again: runs that were broken off, and checkpoints to test, to predict with and to refuse."""
    folder = tmp_path_factory.mktemp('again')
    mesh = dict(data=data, strategy=dict(data=2))
    resumed = {'accumulated': CASES['accumulated']}
    scored = {'frozen': {}}
    if thorough:
        resumed |= {'random': RANDOM, 'frozen': CASES['frozen']}
        scored |= {'accumulated': {}, 'finetune': dict(tta=True)}
    tasks = [
        ('trained', dict(mesh, **case, out=folder / f'{name}.pth', work_dir=broken_off(two, name, folder / name),
                         resume=True))
        for name, case in resumed.items()
    ]  # fmt: skip
    begun_by_one = {
        'accumulated': dict(data=2),
        **({'clipped': PARALLEL['sequence'], 'frozen': dict(data=2)} if thorough else {}),
    }
    for name, strategy in begun_by_one.items():
        alone(name)
        begun = broken_off(alone.folder, name, folder / f'{name}_of_one')
        tasks.append(('trained', dict(data=data, strategy=strategy, **dict(CASES, clipped=CLIPPED)[name], resume=True,
                                      out=folder / f'{name}_of_one.pth', work_dir=begun)))  # fmt: skip
    tasks += [
        ('scored', dict(mesh, **CASES[name], **options, work_dir=folder / f'{name}_test',
                        checkpoint=two / name / 'iter_8.dcp'))
        for name, options in scored.items()
    ]  # fmt: skip
    predict = [two / 'accumulated/iter_8.dcp', data / 'images/validation', '--out-dir', folder / 'predicted']
    tasks.append(('tool', dict(name='predict.py', arguments=[*predict, '--strategy', 'fsdp2'])))
    if thorough:
        tasks.append(('made', dict(mesh, regime='cached', work_dir=folder, features=folder / 'features')))
        train = [REPO / 'configs/demo/linear.py', '--data-root', data, '--work-dir', folder / 'tool', *TOOL]
    tasks += [
        ('refused', dict(out=folder / name, task=task, options=options))
        for name, (task, options, _) in refusals(data, two, folder).items()
    ]
    if thorough:
        tasks.append(('tool', dict(name='train.py', arguments=train)))  # the last: a tool ends its process
    sharded.run(2, tasks, folder)
    return folder


def refusals(data, two, folder):
    """What two processes are asked in vain, and what each of them says."""
    state = {name: torch.zeros(2) for name in ('decode_head.conv_seg.bias', 'more')}
    torch.save(dict(state_dict=state), folder / 'foreign.pth')
    (folder / 'single').mkdir()
    torch.save(dict(state_dict=state), folder / 'single/iter_3.pth')
    shutil.copy(two / 'accumulated/linear.py', folder / 'single')
    weights = open_weights(two / 'accumulated/iter_8.dcp').under('backbone')
    state = {name: weights.read(name) for name in weights}
    state['blocks.1.in_proj.weight'][-1] = torch.nan  # in the second one's part
    torch.save(state, folder / 'nan.pth')
    mesh = dict(data=data, work_dir=folder / 'refused', strategy=dict(data=2))
    again = dict(mesh, out=None, work_dir=folder / 'single', resume=True, **CASES['accumulated'])
    return {
        'foreign': ('scored', dict(mesh, checkpoint=folder / 'foreign.pth'),
                    [r'foreign.pth does not fit .*only in the model \(.*only in the file \(1\): more'] * 2),
        'nan': ('trained', dict(mesh, out=None, regime='frozen', weights=folder / 'nan.pth'),
                ['OtherRankError: process 1: CheckpointError: .*nan.pth: NaN',
                 '^CheckpointError: .*nan.pth: NaN.* blocks.1.in_proj.weight']),
        'single': ('trained', again, ['iter_3.pth: cannot be resumed, it lacks meta, message_hub, optimizer'] * 2),
        'mesh': ('trained', dict(mesh, out=None, work_dir=folder / 'mesh', strategy=dict(data=3)),
                 ['MeshError: a mesh of 3 x 1 .*needs 3 processes, and there are 2'] * 2),
        'full': ('written', dict(path=folder / 'full.dcp'),
                 ['full.dcp: cannot be written .*No space left'] * 2),
    }  # fmt: skip


@pytest.mark.parametrize('case', [c if c in ('accumulated', 'frozen') else pytest.param(c, marks=slow) for c in CASES])
def test_two_processes_train_as_one(case, alone, two):
    one = alone(case)
    params, gradients = differences(one, torch.load(two / f'{case}.pth'))
    assert params < 1e-5
    assert gradients < 1e-3
    learned = one['gradients'][0]
    assert any('backbone' in name for name in learned) == (case not in ('frozen', 'cached'))
    assert len(one['gradients']) == (4 if case == 'accumulated' else 8)


@pytest.mark.parametrize('name', ['tensor', pytest.param('sequence', marks=slow)])
def test_two_processes_share_the_products_of_a_block(name, alone, two):
    params, gradients = differences(alone('clipped'), torch.load(two / f'{name}.pth'))
    assert params < 1e-5
    assert gradients < 1e-3


def attention(folder):
    """What a run's log says of its blocks' attention: largest logits and entropies, in the first iteration."""
    (log,) = folder.glob('*/vis_data/2*.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (found,) = (line for line in lines if 'attention/entropy/0' in line)
    return [[found[f'attention/{kind}/{i}'] for i in range(3)] for kind in ('max_logit', 'entropy')]


def test_the_attention_that_is_logged_is_that_of_all_processes(alone, two):
    alone('accumulated')
    assert attention(two / 'accumulated') == [
        pytest.approx(values, rel=1e-4) for values in attention(alone.folder / 'accumulated')
    ]
    alone('clipped')
    (logits, entropies), (some, _) = attention(two / 'tensor'), attention(alone.folder / 'clipped')
    assert all(more >= one - 1e-4 for more, one in zip(logits, some, strict=True))  # of two heads on each process
    assert all(0 < entropy < np.log(20) for entropy in entropies)


@pytest.mark.parametrize('name', PARALLEL)
def test_a_shared_block_communicates_once_each_way(name, two):
    """With a number of tokens that two does not divide. A layout that is not interleaved by heads is found out."""
    found = json.loads((two / 'blocks.json').read_text())
    right, wrong = found[f'{name} right'], found[f'{name} wrong']
    if name == 'tensor':
        assert right['forward'] == right['backward'] == dict(all_reduce=1)
    else:  # the backward pass ends with the gradient of the tokens, gathered in front of the first block
        assert right['forward'] == dict(all_gather_into_tensor=1, reduce_scatter_tensor=1)
        assert right['backward'] == dict(all_gather_into_tensor=2, reduce_scatter_tensor=1)
    assert right['output'] < 1e-6
    assert len(right['gradients']) == 8
    assert max(right['gradients'].values()) < 1e-6
    assert wrong['output'] > 1e-3
    assert min(wrong['gradients'].values()) > 1e-3


@slow
def test_blocks_in_bfloat16_have_nearly_the_same_gradients(alone, two):
    mixed = torch.load(two / 'mixed.pth')
    floating = {name: value for name, value in mixed['params'].items() if 'backbone' in name or 'head' in name}
    assert {value.dtype for value in floating.values()} == {torch.float32}
    first, mixed_first = (dict(seen, gradients=seen['gradients'][:1]) for seen in (alone('clipped'), mixed))
    _, gradients = differences(first, mixed_first)
    assert 1e-4 < gradients < 0.1


@pytest.mark.parametrize('name', ['accumulated', *(pytest.param(n, marks=slow) for n in ('random', 'frozen'))])
def test_broken_off_and_resumed_equals_unbroken(name, two, again):
    unbroken, resumed = (torch.load(folder / f'{name}.pth')['params'] for folder in (two, again))
    assert unbroken.keys() == resumed.keys()
    for parameter, value in unbroken.items():
        assert torch.equal(value, resumed[parameter]), parameter
    assert sorted(path.name for path in (again / name).glob('*.dcp')) == ['iter_4.dcp', 'iter_8.dcp']
    assert (again / name / 'last_checkpoint').read_text() == str(again / name / 'iter_8.dcp')


@slow
def test_a_checkpoint_of_two_processes_is_resumed_by_one(two, data, alone, tmp_path):
    folder = broken_off(two, 'finetune', tmp_path / 'finetune')
    options = dict(data=data, work_dir=folder, strategy=dict(data=1), resume=True, out=tmp_path / 'one.pth')
    sharded.run(1, [('trained', dict(options, **CASES['finetune']))], tmp_path / 'tasks')
    resumed = torch.load(tmp_path / 'one.pth')['params']
    for name, value in alone('finetune')['params'].items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['frozen', *(pytest.param(n, marks=slow) for n in ('accumulated', 'finetune'))])
def test_two_processes_score_as_one(name, two, again, data, tmp_path):
    """One process reads the folder of two. The pictures have different numbers of windows; one test is augmented."""
    options = dict(CASES[name], tta=name == 'finetune')
    sharded.scored(two / name / 'iter_8.dcp', data=data, work_dir=tmp_path, **options)
    one, both = (json.loads((folder / 'scores.json').read_text()) for folder in (tmp_path, again / f'{name}_test'))
    assert one['scores'] == both['scores']
    assert [example['score'] for example in one['examples']] == [example['score'] for example in both['examples']]
    assert one['images'] == both['images'] == 3


def test_a_frozen_run_stores_what_it_trained(two):
    assert set(open_weights(two / 'frozen/iter_8.dcp')) == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
    assert read_checkpoint(two / 'frozen/iter_8.dcp')['meta']['backbone']['kind'] == 'file'


@pytest.mark.parametrize('name', ['accumulated', 'frozen'])
def test_exported_weights_are_the_runs(name, two, run_tool, tmp_path):
    run_tool('tools/convert_checkpoint.py', two / name / 'iter_8.dcp', tmp_path / 'whole.safetensors', '--to', 'same')
    exported, params = open_weights(tmp_path / 'whole.safetensors'), torch.load(two / f'{name}.pth')['params']
    assert {n for n in params if 'preprocessor' not in n} == exported.keys()
    for parameter in exported:
        assert torch.equal(exported.read(parameter), params[parameter])


def test_a_folder_that_is_not_whole_is_not_taken(two, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(two / 'accumulated', folder)
    assert find_checkpoint(folder) == folder / 'iter_8.dcp'
    pieces = sorted((folder / 'iter_8.dcp').iterdir())
    assert len(pieces) == 4
    for piece in pieces:
        content = piece.read_bytes()
        for part in (content[: len(content) // 2], None):
            piece.unlink() if part is None else piece.write_bytes(part)
            assert find_checkpoint(folder) == folder / 'iter_4.dcp', piece.name
            with pytest.raises(CheckpointError, match=r'iter_8.dcp'):
                read_checkpoint(folder / 'iter_8.dcp')
        piece.write_bytes(content)
    assert find_checkpoint(folder) == folder / 'iter_8.dcp'


def test_two_processes_predict_as_one(two, data, again, run_tool, tmp_path):
    run_tool('tools/predict.py', two / 'accumulated/iter_8.dcp', data / 'images/validation', '--out-dir', tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 6
    for name in names:
        assert (tmp_path / name).read_bytes() == (again / 'predicted' / name).read_bytes()


@slow
def test_two_processes_make_the_features_of_one(features, again):
    paths = sorted(path.relative_to(features) for path in features.glob('*/*.safetensors'))
    assert paths == sorted(path.relative_to(again / 'features') for path in again.glob('features/*/*.safetensors'))
    for path in paths:
        one, both = open_weights(features / path), open_weights(again / 'features' / path)
        assert one.keys() == both.keys()
        for name in one:
            torch.testing.assert_close(one.read(name), both.read(name))


@pytest.mark.parametrize('name', ['foreign', 'nan', 'single', 'mesh', 'full'])
def test_both_processes_refuse(name, again, data, two, tmp_path):
    _, _, expected = refusals(data, two, tmp_path)[name]
    for rank, message in enumerate(expected):
        said = ' '.join((again / f'{name}_{rank}').read_text().split())
        assert re.search(message, said), said
    printed = [(again / f'{name}_{rank}.printed').read_text() for rank in range(2)]
    assert printed == ['True', str(name == 'nan')]  # by the first, and by who has met something else
    assert not [path for path in again.iterdir() if 'full.dcp' in path.name]


@slow
def test_the_tool_trains_validates_and_stores(again):
    assert find_checkpoint(again / 'tool').name == 'iter_2.dcp'
    dumped = (again / 'tool/linear.py').read_text()
    assert 'FSDP2Strategy' in dumped
    assert "dtype='bfloat16'" in dumped
    assert open_weights(again / 'tool/best_mIoU_iter_2.dcp').keys() == open_weights(again / 'tool/iter_2.dcp').keys()


@pytest.mark.parametrize('name', ['accumulated', *(pytest.param(n, marks=slow) for n in ('clipped', 'frozen'))])
def test_two_processes_go_on_from_a_checkpoint_of_one(name, alone, again):
    resumed = torch.load(again / f'{name}_of_one.pth')
    assert len(resumed['gradients']) == len(alone(name)['gradients']) / 2
    for parameter, value in alone(name)['params'].items():
        torch.testing.assert_close(resumed['params'][parameter], value, atol=1e-6, rtol=0)
    assert (again / f'{name}_of_one/iter_4.pth').exists()
    assert (again / f'{name}_of_one/iter_8.dcp').exists()


@pytest.mark.parametrize('name', ['accumulated', pytest.param('frozen', marks=slow)])
def test_one_process_goes_on_from_a_checkpoint_of_two(name, alone, two, data, tmp_path):
    folder = broken_off(two, name, tmp_path / 'run')
    resumed = sharded.train(config(data, folder, resume=True, **CASES[name]))
    for parameter, value in alone(name)['params'].items():
        torch.testing.assert_close(resumed['params'][parameter], value, atol=1e-6, rtol=0)
