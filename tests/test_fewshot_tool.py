"""tools/fewshot.py and what it is made of, on a small made data set."""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPO, make_ade
from mmengine.config import Config
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import DATASETS

from vit22b_dense.engine.config import weights_name
from vit22b_dense.engine.record import score_and_record
from vit22b_dense.engine.run import build_training
from vit22b_dense.engine.work_dir import differences
from vit22b_dense.errors import UserError
from vit22b_dense.evaluation.runs import logged_losses
from vit22b_dense.fewshot.cells import Cell, results
from vit22b_dense.fewshot.plan import Backbone, plan_cells
from vit22b_dense.fewshot.runs import Run, time_left
from vit22b_dense.fewshot.table import markdown
from vit22b_dense.warm import start_warm

CONFIG = str(REPO / 'configs/demo/linear.py')
OPTIONS = [
    'train_cfg.max_iters=6',
    'train_cfg.val_interval=6',
    'train_dataloader.batch_size=2',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


def command(work_dir, data_root, *more, backbones=('vit22b_tiny',), options=OPTIONS) -> list[str]:
    return [
        REPO / 'tools/fewshot.py', CONFIG, '--backbones', *backbones, '--regime', 'scratch',
        '--data-root', data_root, '--work-dir', work_dir, '--fractions', '1/2', '--seeds', '0', *more,
        '--cfg-options', *options,
    ]  # fmt: skip


@pytest.fixture(scope='module')
def call(run_tool):
    def call_(*arguments, check=True, **more) -> subprocess.CompletedProcess:
        return run_tool(*command(*arguments, **more), check=check)

    return call_


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_root, call, run_tool):
    """A folder with one cell, run by the line that --dry-run prints and collected, then a second cell that fails."""
    work_dir = tmp_path_factory.mktemp('fewshot')
    printed = run_tool(*command(work_dir, data_root, '--dry-run'), fresh=True)
    assert not list(work_dir.iterdir()), 'a dry run must write nothing'
    subprocess.run(['bash', '-c', printed.stdout], capture_output=True, check=True, cwd=REPO)
    call(work_dir, data_root, '--collect')
    files = {name: (work_dir / name).read_bytes() for name in ('table.md', 'table.csv', 'curve.png')}
    broken = data_root / 'broken.pth'
    broken.write_bytes(b'nothing')
    run = call(work_dir, data_root, backbones=(f'vit22b_tiny={broken}',), check=False)
    return work_dir, printed, files, run


def test_cells_from_features_equal_a_single_run(data_root, tmp_path, run_tool):
    """Two at a time, in warm processes, from features that were made once for both."""
    work_dir, features = tmp_path / 'table', tmp_path / 'features'
    cached = ['--cached', '--draws', '2', '--jobs', '2', '--features', features, '--fractions', '1/2', '1']
    line = [word for word in command(work_dir, data_root, *cached) if word not in ('--regime', 'scratch')]
    done = run_tool(*line)
    assert '14 sets of features in bf16' in done.stdout  # two draws of six images, and two that are tested
    assert '2 of 2 cells finished' in done.stdout
    folder = work_dir / 'vit22b_tiny_random'
    options = [*OPTIONS, 'features.draws=2']
    half, _ = planned(data_root, work_dir, fractions=('1/2', '1'), options=options, regime='cached', features=features)
    assert half.finished
    cfg = half.cfg
    cfg.update(
        work_dir=str(tmp_path / 'single'), launcher='none', val_cfg=None, val_dataloader=None, val_evaluator=None
    )
    build_training(cfg).train()
    of_cell, alone = (
        torch.load(path / 'iter_6.pth', weights_only=False) for path in (folder / '1_2/seed0', tmp_path / 'single')
    )
    assert of_cell['state_dict'].keys() == alone['state_dict'].keys()
    for name, value in of_cell['state_dict'].items():  # with another number of threads
        torch.testing.assert_close(value, alone['state_dict'][name], atol=1e-6, rtol=1e-5)


def contents(folder) -> dict:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob('*.*')
        if p.is_file()
    }


def test_dry_run_prints_a_line_a_cell_and_nothing_else(finished):
    _, printed, *_ = finished
    (line,) = printed.stdout.splitlines()
    assert line.count('tools/train.py') == 1
    assert line.count('tools/test.py') == 1
    assert ' && ' in line
    assert '1 of 1 cells to be run' in printed.stderr


def test_a_cell_is_evaluated_once_and_its_pictures_take_no_further_pass(finished, data_root, tmp_path, monkeypatch):
    folder = finished[0] / 'vit22b_tiny_random/1_2/seed0'
    logged = [line for path in folder.rglob('*.log') for line in path.read_text().splitlines() if 'mIoU: ' in line]
    assert len(logged) == 1
    assert 'Iter(test)' in logged[0]
    assert (folder / 'test/examples/worst.png').exists()

    seen, forward = [], BaseSegmentor.forward
    monkeypatch.setattr(BaseSegmentor, 'forward', lambda self, *a, **k: seen.append(k) or forward(self, *a, **k))
    (cell,) = planned(data_root, tmp_path)
    cell.cfg.update(work_dir=str(tmp_path / 'test'), launcher='none')
    score_and_record(cell.cfg, str(folder / 'iter_6.pth'), {})
    record = json.loads((tmp_path / 'test/scores.json').read_text())
    assert len(seen) == record['images'] == 2
    assert [example['rank'] for example in record['examples']] == ['best', 'worst']


def test_a_failed_cell_is_marked_beside_the_rows_that_were_there(finished, data_root):
    work_dir, *_, run = finished
    name = weights_name(str(data_root / 'broken.pth'))
    assert run.returncode == 1
    assert 'Traceback' not in run.stderr
    failed = next(line for line in run.stdout.splitlines() if 'FAILED' in line)
    assert f'vit22b_tiny ({name}) 1/2 seed 0: FAILED, tools/train.py ended with status 1: error: ' in failed
    assert 'broken.pth' in failed
    assert '0 of 1 cells finished' in run.stdout
    assert f'vit22b_tiny ({name}), failed: 1/2 seed 0' in run.stdout
    assert (work_dir / f'vit22b_tiny_{name}/1_2/seed0/failed.txt').exists()
    scores = json.loads((work_dir / 'vit22b_tiny_random/1_2/seed0/test/scores.json').read_text())['scores']
    table = (work_dir / 'table.md').read_text()
    assert f'| vit22b_tiny (random weights) | {scores["mIoU"]:.2f} |' in table
    assert f'| vit22b_tiny ({name}) | failed |' in table


def test_after_a_failed_cell_the_next_is_begun(data_root, tmp_path, monkeypatch, capsys):
    cells = planned(data_root, tmp_path, seeds=[0, 1])
    (tmp_path / 'fail.py').write_text('print("error: the reason"); raise SystemExit(3)')
    fail = [sys.executable, tmp_path / 'fail.py']
    monkeypatch.setattr(Cell, 'commands', lambda self: {'train': fail, 'test': []})
    tables = []
    Run(cells, lambda: tables.append([cell.result().status for cell in cells])).all()
    assert tables == [['failed', 'not run'], ['failed', 'failed']]
    out = capsys.readouterr().out
    assert out.count('FAILED, tools/train.py ended with status 3: error: the reason') == 2


def test_killed_in_mid_cell_and_started_again_gives_the_same_table(finished, data_root, tmp_path, call):
    _, _, reference, _ = finished
    work_dir = tmp_path / 'killed'
    with open(os.devnull, 'w') as nowhere:
        process = start_warm(command(work_dir, data_root), stdout=nowhere, stderr=nowhere, cwd=REPO)
    run_dir = work_dir / 'vit22b_tiny_random/1_2/seed0'
    deadline = time.time() + 180
    while not (run_dir / 'iter_2.pth').exists():
        assert process.exitcode is None, 'the run ended before it could be killed'
        assert time.time() < deadline
        time.sleep(0.01)
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.join()
    assert not (run_dir / 'iter_6.pth').exists()
    call(work_dir, data_root)
    assert 'resumed epoch: 0, iter: ' in (run_dir / 'train.txt').read_text()
    for name, content in reference.items():
        assert (work_dir / name).read_bytes() == content, name


def children(pid: int) -> list[int]:
    found = []
    for line in subprocess.check_output(['ps', '-eo', 'pid,ppid'], text=True).splitlines()[1:]:
        child, parent = map(int, line.split())
        if parent == pid:
            found += [child, *children(child)]
    return found


def test_another_configuration_is_refused_and_nothing_overwritten(finished, data_root, call):
    work_dir, *_ = finished
    before = contents(work_dir)
    other = call(work_dir, data_root, options=[*OPTIONS, 'optim_wrapper.optimizer.lr=0.5'], check=False)
    assert other.returncode == 1
    last = other.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ')
    assert 'of another configuration: optim_wrapper.optimizer.lr is 0.001 there and 0.5 now' in last
    assert contents(work_dir) == before


def test_a_table_of_another_protocol_is_refused_even_for_other_cells(finished, data_root, call):
    work_dir, *_ = finished
    before = contents(work_dir)
    options = ['train_cfg.max_iters=7']
    other = call(work_dir, data_root, '--collect', backbones=('vit22b_small',), options=options, check=False)
    assert other.returncode == 1
    assert 'contains a table of another configuration: "demo/linear.py scratch train_cfg.max_iters=6' in other.stderr
    assert contents(work_dir) == before


def planned(data_root, work_dir, backbones=('vit22b_tiny',), fractions=('1/2',), seeds=(0,), options=OPTIONS, **more):
    parsed = [Backbone.parse(text) for text in backbones]
    return plan_cells(
        CONFIG, parsed, fractions, seeds, work_dir, REPO / 'tools', data_root=str(data_root), options=options, **more
    )


def test_an_unwritable_work_dir(data_root, tmp_path, call):
    (tmp_path / 'file').write_text('in the way')
    done = call(tmp_path / 'file/work', data_root, check=False)
    assert done.returncode == 1
    assert 'file/work: cannot be written' in done.stderr
    assert 'Traceback' not in done.stderr
    assert (tmp_path / 'file').read_text() == 'in the way'
    nothing = call(tmp_path / 'absent', data_root, '--collect', check=False)
    assert nothing.returncode == 1
    assert 'absent: no such folder, so there is nothing to collect' in nothing.stderr
    assert not (tmp_path / 'absent').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(fractions=['0']), "unknown fraction '0' .*known: 1, 1/16"),
        (dict(fractions=['1/2', '1/2']), 'fraction 1/2, seed 0 is requested twice'),
        (dict(seeds=[3, 3]), 'seed 3 is requested twice'),
        (
            dict(backbones=['vit22b_tiny', 'vit22b_tiny:random']),
            r'vit22b_tiny \(random weights\), fraction 1/2.* twice',
        ),
        (dict(backbones=['vit23b']), "unknown backbone 'vit23b'"),
        (dict(backbones=['vit22b_tiny=']), 'give NAME or NAME=WEIGHTS'),
        (
            dict(backbones=[f'vit22b_tiny={__file__}:random']),
            'a file of weights and random weights exclude each other',
        ),
        (
            dict(options=['train_dataloader.dataset.dataset.unit=drive']),
            "unit='drive': ADE20KDataset does not have it",
        ),
        (dict(options=['lr']), '--cfg-options lr: give KEY=VALUE'),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(data_root, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        planned(data_root, tmp_path / 'work', **change)
    assert not (tmp_path / 'work').exists()


def test_features_without_cached_are_refused(data_root, tmp_path, call):
    done = call(tmp_path / 'work', data_root, '--features', tmp_path / 'features', check=False)
    assert done.returncode == 1
    assert f'--features {tmp_path / "features"}: features are read with --cached only' in done.stderr
    assert not (tmp_path / 'work').exists()


def test_a_fraction_of_nothing_is_refused(data_root, tmp_path):
    for folder in ('images/training', 'annotations/training', 'images/validation', 'annotations/validation'):
        (tmp_path / 'empty' / folder).mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r'empty/images/training: ADE20KDataset finds no images there, whose names end with \.jpg',
    ):
        planned(tmp_path / 'empty', tmp_path / 'work')


def test_a_folder_with_a_foreign_checkpoint_is_refused(data_root, tmp_path):
    folder = tmp_path / 'vit22b_tiny_random/1_2/seed0'
    folder.mkdir(parents=True)
    (folder / 'iter_6.pth').write_text('')
    with pytest.raises(UserError, match=r'contains iter_6.pth of another configuration \(there is no linear.py\)'):
        planned(data_root, tmp_path)


def test_a_folder_trained_on_other_images_is_refused(data_root, tmp_path):
    (cell,) = planned(data_root, tmp_path)
    cell.work_dir.mkdir(parents=True)
    cell.cfg.dump(cell.work_dir / 'linear.py')
    (cell.work_dir / 'iter_2.pth').write_text('')
    cell.write_subset()
    assert planned(data_root, tmp_path)[0].train_names == cell.train_names
    (cell.work_dir / 'subset.txt').write_text('images/training/00.jpg\n')
    with pytest.raises(UserError, match=r'trained on other images, listed in subset.txt'):
        planned(data_root, tmp_path)


def test_cells_come_seed_by_seed_with_the_subsets_sizes(data_root, tmp_path):
    cells = planned(
        data_root, tmp_path, backbones=['vit22b_tiny', 'vit22b_small'], fractions=['1/2', '1'], seeds=[0, 1]
    )
    assert [(c.entry.seed, c.entry.backbone, c.entry.fraction, len(c.train_names)) for c in cells] == [
        (seed, f'{name} (random weights)', fraction, images)
        for seed in (0, 1)
        for name in ('vit22b_tiny', 'vit22b_small')
        for fraction, images in (('1/2', 3), ('1', 6))
    ]
    assert len({c.work_dir for c in cells}) == 8
    assert len({c.train_names for c in cells}) == 3, 'two halves, and everything twice the same'
    assert not os.environ.keys() & {'VIT22B_BACKBONE', 'VIT22B_WEIGHTS', 'VIT22B_SEED'}


def test_a_toy_in_ade20ks_layout_is_not_taken_for_ade20k(data_root, tmp_path):
    """The published rows are drawn among ours on ADE20K alone."""
    backbone = [Backbone.parse('vit22b_tiny')]
    config = str(REPO / 'configs/ade20k/linear.py')
    (real,) = plan_cells(config, backbone, ['1/2'], [0], tmp_path / 'a', REPO / 'tools', data_root=str(data_root))
    (toy,) = planned(data_root, tmp_path / 'b')
    assert real.result().data_set == 'ADE20KDataset'
    assert toy.result().data_set == 'ADE20KDataset (7 classes)'
    assert 'another data set' in markdown([toy.result()], 'toy')
    assert 'another data set' not in markdown([real.result()], 'real')


@pytest.mark.parametrize('unit', [[], ['train_dataloader.dataset.dataset.unit=seg_map_path']])
def test_the_names_are_those_that_the_training_reads(data_root, tmp_path, unit):
    cells = planned(data_root, tmp_path, seeds=[0, 1, 2], options=[*OPTIONS, *unit])
    for cell in cells:
        assert list(cell.train_names) == DATASETS.build(cell.cfg.train_dataloader.dataset.dataset).names
    if unit:
        assert [c.train_names for c in cells] != [c.train_names for c in planned(data_root, tmp_path, seeds=[0, 1, 2])]


def test_a_finished_cell_is_left_alone(data_root, tmp_path, monkeypatch):
    cells = planned(data_root, tmp_path, seeds=[0, 1])
    (cells[0].work_dir / 'test').mkdir(parents=True)
    record = {'checkpoint': 'iter_6.pth', 'scores': {'mIoU': 5.0}, 'train_loss': 0.5}
    (cells[0].work_dir / 'test/scores.json').write_text(json.dumps(record))
    monkeypatch.setattr(Run, '_run', lambda self, cell, lock: begun.append(cell) or [])
    begun = []
    Run(cells, lambda: None).all()
    assert begun == cells[1:]
    assert results(cells, tmp_path)[0].scores == {'mIoU': 5.0, 'train/loss': 0.5}


def test_random_weights_of_a_public_backbone(shared_data, data_root, tmp_path):
    folder = shared_data('dinov2_small_hf')
    backbones = [f'dinov2_small={folder}', f'dinov2_small={folder}:random']
    good, random = planned(data_root, tmp_path, backbones=backbones)
    assert re.fullmatch(r'dinov2_small \(dinov2_small_hf-[0-9a-f]{6}\)', good.entry.backbone)
    assert random.entry.backbone == 'dinov2_small (random weights)'
    assert random.cfg.model.backbone.pretrained is False
    assert 'model.backbone.pretrained=False' in random.commands()['train']
    assert not any('pretrained' in part for part in good.commands()['train'])
    assert good.work_dir != random.work_dir


def test_a_cell_that_another_process_works_on_is_left_to_it(data_root, tmp_path, capsys):
    cells = planned(data_root, tmp_path)
    cells[0].work_dir.mkdir(parents=True)
    with open(cells[0].work_dir / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Run(cells, lambda: pytest.fail('nothing is to be run')).all()
    assert 'another process is at work on it' in capsys.readouterr().out


def test_time_left_from_a_cost_a_cell_and_a_cost_an_iteration():
    assert time_left([], [10]) is None
    assert time_left([(100, 50.0)], [100, 200]) == pytest.approx(150)
    done = [(25, 20 + 0.5 * 25), (100, 20 + 0.5 * 100), (400, 20 + 0.5 * 400)]
    assert time_left(done, [50, 50]) == pytest.approx(2 * (20 + 25))


def test_losses_are_those_of_whole_lines_in_the_order_of_logging(tmp_path):
    assert list(logged_losses(tmp_path)) == []
    for name, lines in (
        ('1', ['{"loss": 9.0, "step": 9}']),
        ('2', ['{"loss": 1.5, "step": 4}', '{"mIoU": 3}', '{"lo']),
    ):
        log = tmp_path / name / 'vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(lines))
    assert list(logged_losses(tmp_path)) == [(9, 9.0), (4, 1.5)]


def test_differences_ignore_places_and_tell_lists_from_values():
    one = Config(dict(model=dict(a=(1, 2), b=None), work_dir='x', resume=True)).to_dict()
    assert differences(one, dict(model=dict(a=[1, 2], b=None), work_dir='y')) == []
    assert differences(one, dict(model=dict(a=[1, 3], b=None))) == [('model.a.1', 2, 3)]
    assert differences(one, dict(model=dict(a=[1, 2]))) == [('model.b', None, 'absent')]


def test_an_interrupt_ends_the_process_and_its_cell_stays_unfinished(data_root, tmp_path, monkeypatch):
    cells = planned(data_root, tmp_path)
    (tmp_path / 'sleep.py').write_text('import time; time.sleep(600)')
    sleep = [sys.executable, tmp_path / 'sleep.py']
    monkeypatch.setattr(Cell, 'commands', lambda self: {'train': sleep})
    started = []

    def interrupt(self, process, *_):
        started.append(process)
        raise KeyboardInterrupt

    run = Run(cells, lambda: None)
    monkeypatch.setattr(Run, '_wait', interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.all()
    assert started[0].exitcode == -signal.SIGTERM
    assert not (cells[0].work_dir / 'failed.txt').exists()
    assert cells[0].result().status == 'not run'
