"""The cases: which tool meets which damage or argument."""

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import damage
import waymo_made
from world import CELL, COMMANDS

SEGMENT = waymo_made.SEGMENT
FRAME = f'{SEGMENT}/{waymo_made.FIRST}_1'
NAN, INF = float('nan'), float('inf')
# Formats without a checksum: what is flipped in them may be another value as good as the first.
NO_CHECKSUM = ('.jpg', '.png', '.pth', '.safetensors', '.parquet', '.py', '.json', '.csv', '.txt')

BROKEN = (  # lines of a config
    'raise ValueError("x")', 'model = dict(', 'x = absent', '_base_ = ["absent.py"]', '_base_ = ["seg.py"]',
    '_base_ = 7', 'modell = dict()', 'model = 3', 'train_cfg = dict(max_iters=0)', '\0',
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command, what is done before it, and how its outcome is judged."""

    name: str
    command: str  # of COMMANDS
    target: str = ''  # a file of the world, which the message has to name
    damage: Callable[[Path, random.Random], None] | None = None
    more: Sequence[str] = ()  # arguments behind the command's
    names: Sequence[str] = ()  # the message has to have one of them, beside the target
    before: Callable[[], None] | None = None  # in the tool's process
    may_pass: bool = False  # what is wrong cannot be known

    def __str__(self) -> str:
        return self.name


def full_disk(size: int) -> None:
    """No file may grow beyond a size: what a full disk is for one that fills up."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def disk_full_from(number: int) -> None:
    """From the n-th file on that is written whole, nothing fits on the disk."""
    real, calls = os.fsync, []

    def fsync(file: int) -> None:
        calls.append(file)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    os.fsync = fsync


TARGETS = {
    'train': ['seg.py', 'ade/images/training/02.jpg', 'ade/annotations/training/02.png'],
    'frozen': ['w.safetensors'],
    'resume': ['out/half/iter_2.pth', 'out/half/seg.py', 'out/half/last_checkpoint'],
    'test': ['run/iter_4.pth', 'ade/images/validation/01.jpg', 'ade/annotations/validation/01.png'],
    'train_depth': [f'prepared/training/{FRAME}.{end}' for end in ('jpg', 'npz')],
    'test_depth': [f'prepared/validation/{FRAME}.npz', f'prepared/validation/{SEGMENT}/index.json'],
    'predict': ['run/iter_4.pth', 'ade/images/validation/01.jpg'],
    'convert': ['w.safetensors'],
    'prepare': [f'source/training/{part}/{SEGMENT}.parquet' for part in ('lidar', 'camera_image', 'vehicle_pose')],
    'report': ['few/table.csv', f'few/{CELL}/test/scores.json', f'few/{CELL}/seg.py'],
    'dry': ['few/table.csv', f'few/{CELL}/test/scores.json', f'few/{CELL}/subset.txt', 'seg.py'],
    'subset': ['list.txt', 'ade/images/training/03.jpg', 'ade/annotations/training/03.png'],
}


def bytes_cases() -> list[Case]:
    return [
        Case(
            f'{command}:{target}:{how.__name__}',
            command,
            target,
            how,
            may_pass=(how is damage.flip and target.endswith(NO_CHECKSUM))
            or (command == 'predict' and how is damage.missing)
            or target.endswith(('last_checkpoint', 'subset.txt', f'{CELL}/seg.py'))
            or (how is damage.cut and target.endswith(('.csv', '.py', 'list.txt'))),
        )
        for command, targets in TARGETS.items()
        for target in targets
        for how in damage.BYTES
    ]


def value_cases() -> list[Case]:
    found = []

    def add(command: str, target: str, **hows: Callable[[Path, random.Random], None]) -> None:
        found.extend(Case(f'{command}:{target}:{name}', command, target, how) for name, how in hows.items())

    for command, target in (('frozen', 'w.safetensors'), ('test', 'run/iter_4.pth'), ('predict', 'run/iter_4.pth')):
        add(command, target, **{f'weights_{v}': damage.weights(v) for v in (NAN, INF, None)})
    add('resume', 'out/half/iter_2.pth', weights_nan=damage.weights(NAN), no_meta=damage.entry('meta'),
        meta_text=damage.entry('meta', 'x'), meta_empty=damage.entry('meta', {}), integer=damage.integer_key,
        no_optimizer=damage.entry('optimizer'), optimizer_empty=damage.entry('optimizer', {}),
        schedulers=damage.entry('param_schedulers', []), hub=damage.entry('message_hub', 7))  # fmt: skip
    add('test', 'run/iter_4.pth', integer=damage.integer_key, meta_list=damage.entry('meta', [1]),
        no_state=damage.entry('state_dict'))  # fmt: skip
    add('predict', 'run/iter_4.pth', no_meta=damage.entry('meta'), no_cfg=damage.entry('meta', dict(iter=1)),
        bad_cfg=damage.entry('meta', dict(cfg='model = (')))  # fmt: skip
    index = f'prepared/validation/{SEGMENT}/index.json'
    for key in ('width', 'image', 'frames', 'camera_name', 'depth_crc32', 'version', 'segment'):
        for value in (None, -1, 'x'):
            if (key, value) not in {('depth_crc32', None), ('segment', 'x')}:
                name = f'test_depth:{index}:{key}_{value}'
                names = ['validation/x: missing', f'{FRAME}.npz: has changed']
                found.append(Case(name, 'test_depth', index, damage.number(key, value), names=names))
    for name, values in (('depth', (NAN, INF, 0, -3)), ('x', (60000, 1.5)), ('y', (60000,))):
        for value in values:
            add('test_depth', f'prepared/validation/{FRAME}.npz', **{f'{name}_{value}': damage.points(name, value)})
    for part in ('lidar', 'lidar_calibration', 'lidar_camera_projection', 'camera_image', 'camera_calibration',
                 'vehicle_pose', 'lidar_pose'):  # fmt: skip
        target = f'source/training/{part}/{SEGMENT}.parquet'
        add('prepare', target, drop=damage.column('drop'), text=damage.column('text'))
        for name, value in (('nan', NAN), ('huge', 1e30), ('null', None)):
            found.append(Case(f'prepare:{target}:{name}', 'prepare', target, damage.column('value', value)))
    for command in ('report', 'dry'):
        target = f'few/{CELL}/test/scores.json'
        for key, value in (('scores', None), ('scores', [1]), ('mIoU', 'high'), ('examples', 3), ('checkpoint', 7)):
            add(command, target, **{f'{key}_{value}': damage.number(key, value)})
        add(command, 'few/table.csv', seed=damage.text(',0,3,', ',zero,3,'), fraction=damage.text('1/2,', 'half,'),
            header=damage.text('seed', 'sead'))  # fmt: skip
    add('dry', f'few/{CELL}/subset.txt', other=damage.text('02.jpg', '05.jpg'))
    for command, name in (('train', 'training'), ('test', 'validation')):
        add(command, f'ade/images/{name}/01.jpg', suffix=damage.other_suffix)
        add(command, f'ade/annotations/{name}/01.png', suffix=damage.other_suffix,
            an_image=damage.copied_over(f'ade/images/{name}/01.jpg'))  # fmt: skip
    found += [
        Case('predict:odd_name', 'predict', 'ade/images/validation/01.jpg', damage.odd_name, may_pass=True),
        Case('train:odd_name', 'train', 'ade/images/training/01.jpg', damage.odd_name),
    ]
    for how in BROKEN:
        found.append(Case(f'train:config:{how}', 'train', 'seg.py', partial(append, how)))
    return found


def append(line: str, path: Path, rng: random.Random) -> None:
    path.write_text(f'{line}\n' if line.startswith('_base_') else f'{path.read_text()}\n{line}\n')


def argument_cases() -> list[Case]:
    arguments = {
        'train': [
            ['--seed', str(2**32)], ['--seed', '-1'], ['--seed', 'x'], ['--data-root', ''], ['--data-root', 'absent'],
            ['--data-root', 'seg.py'], ['--backbone', 'absent'], ['--fraction', '2'], ['--fraction', 'x'],
            ['--regime', ''], ['--weights', 'absent.pth'], ['--work-dir', 'seg.py'], ['--work-dir', 'seg.py/run'],
            ['--work-dir', 'run'], ['--work-dir', '/proc/run'], ['--launcher', 'pytorch'], ['--launcher', 'slurm'],
            ['--launcher', 'mpi'],
            *(['--cfg-options', option] for option in (
                'a', '=1', 'model..x=1', 'train_cfg.max_iters=0', 'train_cfg.max_iters=-3', 'train_cfg.max_iters=x',
                'train_cfg=3', 'train_dataloader.batch_size=0', 'train_dataloader.num_workers=-1',
                'model.backbone.arch=absent', 'model.type=Absent', 'optim_wrapper.optimizer.type=Absent',
                'train_dataloader.dataset.dataset.dataset.pipeline.9.x=1', 'train_cfg.max_iters=[1,',
                'load_from=absent.pth', 'model.decode_head.absent=1', 'optim_wrapper.optimizer.lr=x',
                'optim_wrapper.optimizer.lr=1e38', 'default_hooks.logger.interval=0', 'model.data_preprocessor.mean=x',
            )),
        ],
        'test': [
            ['--out', 'seg.py'], ['--out', 'seg.py/x'], ['--show-dir', 'seg.py'], ['--show-dir', 'seg.py/x'],
            ['--work-dir', 'seg.py'], ['--weights', 'absent.pth'], ['--out', '/proc/x'], ['--show-dir', '/proc/x'],
        ],
        'predict': [['--out-dir', 'seg.py'], ['--out-dir', '/proc/x']],
        'convert': [['--prefix', 'absent'], ['--from', 'absent'], ['--max-shard-size', 'x']],
        'prepare': [['--workers', '0'], ['--shard', '3/2'], ['--lasers', 'NONE']],
        'report': [['--out', 'seg.py/x'], ['--out', 'few'], ['--out', '/proc/x']],
        'dry': [
            ['--seeds', '-1'], ['--backbones', '='], ['--backbones', 'vit22b_tiny=absent.pth'], ['--fractions', '0'],
            ['--work-dir', 'seg.py'], ['--cfg-options', 'a'],
        ],
        'subset': [['--write', 'seg.py/x'], ['--write', 'ade'], ['--verify', 'absent'], ['--write', '/proc/x']],
    }  # fmt: skip
    return [
        Case(
            f'{command}:{" ".join(more)}',
            command,
            more=more,
            names=[word for word in (*more, *more[-1].split('=')) if word],
        )
        for command, some in arguments.items()
        for more in some
    ]


def disk_cases() -> list[Case]:
    sizes = {
        'train': (3_000, 30_000), 'test': (500, 3_000), 'predict': (100, 2_000), 'convert': (100, 3_000),
        'prepare': (100, 30_000), 'report': (1_000, 30_000), 'subset': (20,),
        'cache': (100, 4_000),
    }  # fmt: skip
    return [
        Case(f'{command}:disk full at {size}', command, before=partial(full_disk, size), names=['out/', '/tmp'])
        for command, some in sizes.items()
        for size in some
    ]


def every_case() -> list[Case]:
    """All cases, in an order that puts equal commands together."""
    cases = [*bytes_cases(), *value_cases(), *argument_cases(), *disk_cases()]
    return sorted(cases, key=lambda case: list(COMMANDS).index(case.command))
