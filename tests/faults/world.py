"""A small world of real inputs: data, configs, weights, runs; what each tool makes of it, and how that is compared."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import waymo_made
from conftest import REPO, make_ade
from running import run
from safetensors.torch import load_file, save_file

from vit22b_dense import ViT22B
from vit22b_dense.fewshot.subset import digest
from vit22b_dense.fewshot.table import CellResult, to_csv

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2, mlp_dims=16)
COMMON = f"""
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
model = dict(
    data_preprocessor=dict(size=(56, 56)), backbone=dict(arch=dict(_delete_=True, **{ARCH})),
    decode_head=dict(in_channels=16),
)
loader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(**loader, dataset=dict(pipeline=tested))
test_dataloader = val_dataloader
train_dataloader = dict(batch_size=2, **loader, dataset=dict(dataset=dict(dataset=dict(pipeline=trained))))
"""
SEG = f"""
_base_ = ['{REPO}/configs/demo/linear.py']
loading = _base_.train_dataloader.dataset.dataset.dataset.pipeline[:2]
trained = [*loading, dict(type='Resize', scale=(56, 56)), dict(type='PackSegInputs')]
tested = [*loading, dict(type='PackSegInputs')]
{COMMON}"""
DEPTH = f"""
_base_ = ['{REPO}/configs/demo/linear_depth.py']
load, depth = _base_.train_dataloader.dataset.dataset.dataset.pipeline[:2]
resize = dict(type='DepthResize', scale=(56, 56), keep_ratio=False)
trained = [load, depth, resize, dict(type='PackDepthInputs')]
tested = [load, resize, depth, dict(type='PackDepthInputs')]
{COMMON}"""
AXES = ['--backbone', 'vit22b_tiny', '--regime', 'scratch']
ADE, PREPARED = ['--data-root', 'ade'], ['--data-root', 'prepared']
CELL = 'vit22b_tiny/1_2/seed0'
FEWSHOT = ['--backbones', 'vit22b_tiny', '--fractions', '1/2', '--seeds', '0', *AXES[2:], *ADE, '--work-dir', 'few']
# Each writes below out/ alone.
COMMANDS = {
    'train': ['train.py', 'seg.py', *AXES, *ADE, '--work-dir', 'out/run', '--no-validate'],
    'frozen': [
        'train.py', 'seg.py', *AXES[:2], *ADE, '--weights', 'w.safetensors', '--work-dir', 'out/run', '--no-validate',
    ],
    'resume': ['train.py', 'seg.py', *AXES, *ADE, '--work-dir', 'out/half', '--no-validate', '--resume'],
    'cache': [
        'cache_features.py', 'seg.py', *AXES[:2], *ADE, '--draws', '2', '--dtype', 'fp32',
        '--features', 'out/features',
    ],
    'train_depth': ['train.py', 'depth.py', *AXES, *PREPARED, '--work-dir', 'out/run', '--no-validate'],
    'test': [
        'test.py', 'seg.py', 'run/iter_4.pth', *AXES, *ADE, '--work-dir', 'out/test', '--out', 'out/labels',
        '--show-dir', 'out/shown',
    ],
    'test_depth': ['test.py', 'depth.py', 'run_depth/iter_4.pth', *AXES, *PREPARED, '--work-dir', 'out/test'],
    'predict': ['predict.py', 'run/iter_4.pth', 'ade/images/validation', '--out-dir', 'out/predicted'],
    'convert': ['convert_checkpoint.py', 'w.safetensors', 'out/w', '--max-shard-size', '10KB'],
    'prepare': ['prepare_waymo.py', 'source', 'out/prepared', '--split', 'training'],
    'report': ['report.py', 'few', '--out', 'out/report.html'],
    'dry': ['fewshot.py', 'seg.py', *FEWSHOT, '--dry-run'],
    'fewshot': ['fewshot.py', 'seg.py', *FEWSHOT[:-1], 'out/few'],
    'subset': ['subset.py', 'seg.py', *AXES, *ADE, '--verify', 'list.txt', '--write', 'out/list.txt'],
}  # fmt: skip


def build(world: Path) -> Path:
    """Make everything in a folder."""
    make_ade(world / 'ade')
    (world / 'seg.py').write_text(SEG)
    (world / 'depth.py').write_text(DEPTH)
    torch.manual_seed(0)
    save_file(ViT22B(ARCH).state_dict(), world / 'w.safetensors')
    for name in (waymo_made.SEGMENT, '200_b'):
        waymo_made.write(world / 'source', name)
    _must(['prepare_waymo.py', 'source', 'prepared', '--split', 'training'], world)
    shutil.copytree(world / 'prepared/training', world / 'prepared/validation')
    names = [f'images/training/{i:02d}.jpg' for i in range(6)]
    (world / 'list.txt').write_text('\n'.join(names))
    for name, run_dir in (('train', 'run'), ('train_depth', 'run_depth')):
        _must(COMMANDS[name], world)
        (world / 'out/run').rename(world / run_dir)
    half = shutil.copytree(world / 'run', world / 'out/half', ignore=shutil.ignore_patterns('2*', 'iter_4.pth'))
    (half / 'last_checkpoint').write_text('out/half/iter_2.pth')
    _must(COMMANDS['test'], world)
    few = world / 'few' / CELL
    shutil.copytree(world / 'out/test', few / 'test')
    shutil.copytree(world / 'run', few, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.pth'))
    subset = names[:3]
    (few / 'subset.txt').write_text('\n'.join(subset) + '\n')
    scores = json.loads((few / 'test/scores.json').read_text())['scores']
    protocol = f'{world.name}/seg.py scratch'
    row = CellResult(
        'vit22b_tiny', '1/2', 0, 3, 4, 'finished', 'ADE20KDataset', digest(subset), CELL, protocol, scores=scores
    )
    (world / 'few/table.csv').write_text(to_csv([row]))
    for name in ('test', 'labels', 'shown'):
        shutil.rmtree(world / 'out' / name)
    return world


def copied(made: Path, folder: Path) -> Path:
    """A copy of a world in a folder, of the same name."""
    return shutil.copytree(made, folder / made.name, symlinks=True)


def _must(command: list[str], world: Path) -> None:
    outcome = run(command, world)
    assert outcome.status == 0, outcome.said[-3000:]


class Weights:
    """A checkpoint's weights or a shard of features, equal to others but for the last bits.

    These depend on where memory lies, and on how many images went through the backbone together.
    """

    def __init__(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)['state_dict'] if path.suffix == '.pth' else load_file(path)
        self.state = {name: tensor.numpy() for name, tensor in state.items()}

    def __eq__(self, other: object) -> bool:
        return self.state.keys() == other.state.keys() and all(
            np.allclose(array, other.state[name], rtol=0, atol=1e-6) for name, array in self.state.items()
        )

    __hash__ = None


def result(out: Path) -> dict[str, str | Weights]:
    """What a tool has made, without what differs from run to run: by name a digest, or weights."""
    return {str(path.relative_to(out)): _digest(path) for path in sorted(out.rglob('*')) if _counts(path)}


def _counts(path: Path) -> bool:
    logs = any(part.startswith('2') and '_' in part and len(part) == 15 for part in path.parts)
    said = path.name in ('train.txt', 'test.txt', '.training', '.testing')
    return path.is_file() and not logs and not said and '.lock' not in path.name


def _digest(path: Path) -> str | Weights:
    content = path.read_bytes()
    if path.suffix == '.pth' or (path.suffix == '.safetensors' and 'features' in path.parts):
        return Weights(path)
    if path.name == 'scores.json':
        content = json.dumps(json.loads(content)['scores']).encode()
    elif path.suffix in ('.py', '.html') or path.name == 'last_checkpoint':
        content = b'names places'
    return hashlib.sha256(content).hexdigest()


def files(world: Path) -> dict[str, tuple[int, bytes]]:
    """All regular files of a world but for its outputs, with their contents' digests."""
    found = (path for path in world.rglob('*') if path.is_file() and not path.is_symlink())
    inner = {str(path.relative_to(world)): path for path in found}
    return {
        name: hashlib.sha256(path.read_bytes()).digest() for name, path in inner.items() if not name.startswith('out/')
    }
