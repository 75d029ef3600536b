"""Short runs of a tiny backbone, in this process or in several with gloo; run as a script in each of them."""

import errno
import itertools
import json
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from conftest import make_ade, write_image
from mmengine.config import Config
from mmengine.hooks import Hook
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from vit22b_dense.checkpoint.fitting import is_sharded
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.features.maker import make_features
from vit22b_dense.engine.record import score_and_record
from vit22b_dense.engine.run import augment_test, build_training, leave
from vit22b_dense.engine.sharding.checkpoint import write_distributed
from vit22b_dense.engine.sharding.loading import shard_backbone
from vit22b_dense.engine.sharding.mesh import make_mesh, start_processes
from vit22b_dense.engine.sharding.parallel import spread
from vit22b_dense.engine.sharding.tensor_parallel import gather_tokens, parallelize, shard_tokens
from vit22b_dense.engine.sharding.weights import without_memory
from vit22b_dense.errors import UserError
from vit22b_dense.models import ViT22B
from vit22b_dense.ranks import first_says
from vit22b_dense.warm import start_warm

REPO = Path(__file__).resolve().parent.parent
ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, mlp_dims=64)
BATCH = 4  # of all processes
ITERS = 8
SLIDE = dict(_delete_=True, mode='slide', crop_size=(56, 56), stride=(28, 28))
# what is compared, each with settings that differ from those before
CASES = {
    'finetune': {
        'regime': 'finetune', 'optim_wrapper.optimizer.lr': 1e-3, 'optim_wrapper.paramwise_cfg.decay_rate': 0.7,
    },
    'accumulated': {
        'regime': 'scratch', 'model.backbone.with_cp': True,
        'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad.max_norm': 0.05,
    },
    'frozen': {'regime': 'frozen', 'weights': 'weights.safetensors', 'model.test_cfg': SLIDE},
    'cached': {'regime': 'cached'},
    'plain': {'regime': 'scratch', 'model.backbone.type': 'PlainViT'},
}  # fmt: skip
# several processes share the products of a block; compared with one process of the same settings
CLIPPED = {'regime': 'scratch', 'optim_wrapper.clip_grad.max_norm': 0.05, 'model.backbone.drop_path_rate': 0.0}
PARALLEL = {
    'tensor': dict(tensor=2),
    'sequence': dict(tensor=2, sequence_parallel=True),
}
RANDOM = {'regime': 'scratch', 'model.backbone.drop_path_rate': 0.4, 'model.decode_head.dropout_ratio': 0.1}


def config(data, work_dir, regime='scratch', strategy=None, features=None, weights=None, backbone=None, **overrides):
    """A run of 8 iterations with 4 images each, without dropout: what several processes can do as one does."""
    cfg = load_config(REPO / 'configs/demo/linear.py', dict(
        backbone='vit22b_tiny', regime=regime, data_root=str(data), weights=weights and str(Path(data, weights)),
        features=str(features) if regime == 'cached' else None, fraction=None, seed='1',
    ))  # fmt: skip
    strategy = strategy and dict(strategy, type='FSDP2Strategy', timeout=60)
    cfg.merge_from_dict({
        'model.backbone.arch': dict(_delete_=True, **ARCH), 'model.backbone.img_size': 56,
        'model.decode_head.in_channels': 32, 'model.decode_head.dropout_ratio': 0.0,
        'model.data_preprocessor.size': (56, 70), 'train_cfg.max_iters': ITERS,
        'train_dataloader.batch_size': BATCH // (strategy or {}).get('data', 1),
        'default_hooks.checkpoint.interval': 4, 'default_hooks.logger.interval': 1,
        'launcher': 'pytorch' if strategy else 'none',
    })  # fmt: skip
    if strategy:
        cfg.strategy = strategy
    cfg.merge_from_dict(overrides)
    for name in ('train', 'test'):
        cfg[f'{name}_dataloader'].update(num_workers=0, persistent_workers=False)
    for step in cfg.train_dataloader.dataset.dataset.dataset.pipeline:
        if 'Crop' in step['type']:
            step['crop_size'] = (56, 70)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir = cfg.visualizer.name = str(work_dir)  # mmengine keeps one visualizer of a name
    return cfg


def make_data(root):
    """Three pictures to test on, of different sizes, so that two processes have different numbers of windows.

    And weights of a backbone.
    """
    make_ade(root)
    torch.manual_seed(5)
    save_file(ViT22B(ARCH, img_size=56).state_dict(), root / 'weights.safetensors')
    label = np.kron(np.random.default_rng(3).choice([2, 3, 5, 7], (15, 20)), np.ones((8, 8))).astype(np.uint8)
    write_image(root / 'images/validation/02.jpg', np.stack([label * 9, 255 - label * 9, label * 5], -1))
    write_image(root / 'annotations/validation/02.png', label)
    return root


def broken_off(runs, name, folder):
    """A copy of a run's work dir, as if it had been killed after iteration 4."""
    shutil.copytree(runs / name, folder, ignore=shutil.ignore_patterns('iter_8.*'))
    return folder


def differences(one, other):
    """The largest difference of the parameters at the end, and of the gradients of any update relative to theirs."""
    assert one['params'].keys() == other['params'].keys()
    assert len(one['gradients']) == len(other['gradients']) > 0
    params = max(float((value - other['params'][name]).abs().max()) for name, value in one['params'].items())
    worst = 0.0
    for mine, theirs in zip(one['gradients'], other['gradients'], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            worst = max(worst, float((value - theirs[name]).norm() / value.norm().clamp(min=1e-6)))
    return params, worst


class Watch(Hook):
    """Keeps each update's gradients, before they are clipped, and the parameters at the end, whole."""

    def before_train(self, runner):
        self.gradients, step = [], runner.optim_wrapper.step

        def watched(**options):
            self.gradients.append({n: whole(p.grad) for n, p in runner.model.named_parameters() if p.grad is not None})
            step(**options)

        runner.optim_wrapper.step = watched

    def result(self, runner):
        model = runner.model
        return dict(
            gradients=self.gradients, params={name: whole(value) for name, value in model.state_dict().items()}
        )


def whole(tensor):
    return (tensor.full_tensor() if is_sharded(tensor) else tensor).detach().clone()


def train(cfg):
    """Train and return what `Watch` has seen."""
    runner, watch = build_training(cfg), Watch()
    runner.register_hook(watch)
    runner.train()
    return watch.result(runner)


def start(count, tasks, folder, env=None):
    """Start processes that do tasks, each a name of a function here and its arguments; see `main`."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / 'tasks.json').write_text(json.dumps(tasks, default=str))
    processes = []
    for rank in range(count):
        said = tempfile.TemporaryFile('w+')  # noqa: SIM115
        surroundings = dict(
            os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port), OMP_NUM_THREADS='1', **(env or {}),
        )  # fmt: skip
        command = [REPO / 'tests/sharded.py', folder]
        process = start_warm(command, stdout=said, stderr=said, cwd=REPO, env=surroundings)
        process.said = said
        processes.append(process)
    return processes


def finish(processes):
    """Wait; the output of each process."""
    outputs = []
    for process in processes:
        process.join()
        process.said.seek(0)
        outputs.append(process.said.read())
    return outputs


def run(count, tasks, folder, env=None):
    """Do tasks in several processes; all must succeed."""
    processes = start(count, tasks, folder, env)
    outputs = finish(processes)
    codes = [process.exitcode for process in processes]
    assert not any(codes), '\n'.join([str(codes), *(output[-4000:] for output in outputs)])
    return outputs


def trained(out, **options):
    """Train and let the first process store what was seen."""
    seen = train(config(**options))
    if os.environ.get('RANK', '0') == '0':
        torch.save(seen, out)


def blocks(out, tokens):
    """A block of the whole and one that all processes share: the communication, and how far apart they are."""
    start_processes(60)
    mesh, found = make_mesh(1, dist.get_world_size())['tensor'], {}
    for name, sequence in (('tensor', False), ('sequence', True)):
        for layout in ('right', 'wrong'):
            torch.manual_seed(0)
            backbone = ViT22B(dict(ARCH, num_layers=1), img_size=56, drop_path_rate=0.0)
            block = backbone.blocks[0]
            x = torch.randn(2, tokens, 32, requires_grad=True)
            y = block(x)
            y.square().sum().backward()
            expected = {'x': x.grad, **{n: p.grad for n, p in block.named_parameters()}}
            x.grad, block = None, block.requires_grad_()
            block.zero_grad(set_to_none=True)
            if layout == 'wrong':  # rows [q | k | v | up] of all heads, as most models store them
                heads = block.in_proj.weight.data.unflatten(0, (4, -1))
                block.in_proj.weight.data = torch.cat([p.flatten(0, 1) for p in heads.split([8, 8, 8, 16], 1)])
            parallelize(backbone, mesh, sequence)
            tokens_here = shard_tokens(x, mesh) if sequence else x
            with CommDebugMode() as forward:
                z = block(tokens_here)
            whole_z = gather_tokens(z)
            with CommDebugMode() as backward:
                (z.to_local() if sequence else z).square().sum().backward()
            got = {'x': x.grad, **{n: whole(p.grad) for n, p in block.named_parameters()}}
            found[f'{name} {layout}'] = dict(
                forward=counts(forward), backward=counts(backward), output=float((whole_z - y).abs().max()),
                gradients={n: float((got[n] - g).norm() / g.norm()) for n, g in expected.items()},
            )  # fmt: skip
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))


def fused(out):
    """How often collectives, alone and fused with products, are in the compiled passes of a block, forward first.

    Of four processes, two by two, that are not there; their graphs are those of real ones. No code is generated.
    """
    import torch.distributed._symmetric_memory as symmetric  # what takes seconds, and what only this needs
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._guards import detect_fake_mode
    from torch._inductor import config as inductor
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes.post_grad import post_grad_passes, view_to_reshape
    from torch._inductor.virtualized import V
    from torch.testing._internal.distributed.fake_pg import FakeStore

    names = [
        'symm_mem.fused_all_gather_matmul', 'symm_mem.fused_matmul_reduce_scatter',
        '_c10d_functional.all_gather', '_c10d_functional.reduce_scatter',
    ]  # fmt: skip
    graphs, found, compile_ = [], {}, nn.Module.compile

    def passes(graph, inputs):
        view_to_reshape(graph)
        with V.set_fake_mode(detect_fake_mode(inputs)):
            post_grad_passes(graph, is_inference=False)
        graph.recompile()
        text = str(graph.graph)
        graphs.append([text.count(f'torch.ops.{name}') for name in names])
        return make_boxed_func(graph)

    options = dict(decompositions=select_decomp_table, partition_fn=min_cut_rematerialization_partition)
    backend = aot_autograd(fw_compiler=passes, bw_compiler=passes, **options)
    nn.Module.compile = lambda block, **more: compile_(block, backend=backend, **more)
    dist.init_process_group('fake', world_size=4, rank=0, store=FakeStore())
    dist.is_nccl_available = lambda: True
    here = torch.library.Library('symm_mem', 'IMPL')  # without GPUs they are only declared
    for name in ('fused_all_gather_matmul', 'fused_matmul_reduce_scatter'):
        here.impl(name, getattr(symmetric, f'_{name}'), 'CPU')
    mesh = make_mesh(2, 2)
    for name, batch, biased in (('one image', 1, False), ('two images', 2, False), ('biased', 2, True)):
        backbone = without_memory(dict(type='ViT22B', arch=dict(ARCH, num_layers=1), img_size=56, compile_blocks=True))
        if biased:
            backbone.blocks[0].out_proj.bias = nn.Parameter(torch.empty(32, device='meta'))
        spread(backbone, backbone, mesh, sequence_parallel=True, dtype=torch.bfloat16)
        graphs.clear()
        with inductor.patch(_micro_pipeline_tp=True), symmetric._test_mode():
            backbone(torch.randn(batch, 3, 56, 56))[0].sum().backward()
        found[name] = list(graphs)
    Path(out).write_text(json.dumps(found))


def compiled(out):
    """Compiled blocks that processes share, with sizes that vary: how far outputs and gradients are off."""
    start_processes(60)
    mesh, found, compile_ = make_mesh(1, dist.get_world_size())['tensor'], {}, nn.Module.compile
    nn.Module.compile = lambda block, **options: compile_(block, backend='aot_eager', **options)
    for name, sequence in (('tensor', False), ('sequence', True)):
        torch.manual_seed(0)
        one, shared = (ViT22B(dict(ARCH, num_layers=2), img_size=56, compile_blocks=c) for c in (False, True))
        shared.load_state_dict(one.state_dict())
        parallelize(shared, mesh, sequence)
        for batch, height in ((2, 56), (1, 56), (2, 42), (2, 70)):  # 20, 20, 15 and 25 tokens
            x, w = torch.randn(batch, 3, height, 70), torch.randn(32, 1, 1)
            case = found[f'{name} {batch} {height}'] = {}
            with torch.no_grad():
                case['output'] = float((one(x)[0] - shared(x)[0]).abs().max())
            try:
                (shared(x)[0] * w).sum().backward()
            except UserError as error:
                case['error'] = str(error)
                continue
            (one(x)[0] * w).sum().backward()
            pairs = [(p.grad, whole(q.grad)) for p, q in zip(one.parameters(), shared.parameters(), strict=True)]
            case['gradients'] = max(float((g - h).norm() / g.norm()) for g, h in pairs)
            one.zero_grad()
            shared.zero_grad()
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))


def counts(mode):
    return {str(kind).split('.')[-1]: count for kind, count in mode.get_comm_counts().items()}


def scored(checkpoint, tta=False, **options):
    """Test as tools/test.py does."""
    cfg = config(**options)
    if tta:
        augment_test(cfg)
    score_and_record(cfg, str(checkpoint), dict(tta=tta))


def made(features, **options):
    """Make features as tools/cache_features.py does."""
    make_features(config(features=features, **options), 1, 'fp32')


def loaded(out, weights, arch, data=2):
    """Load a frozen backbone; each process stores by how many bytes its memory has grown at most."""
    start_processes(60)
    backbone = dict(type='ViT22B', arch=arch, img_size=224, frozen=True, dtype='bfloat16')
    backbone['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    model = nn.Module()
    model.backbone = without_memory(backbone)
    dist.barrier()
    begun = peak()
    shard_backbone(Config(dict(strategy=dict(data=data))), model, None)
    grown = peak() - begun
    Path(f'{out}_{dist.get_rank()}').write_text(str(grown))


def peak():
    return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1]) * 1024


def refused(out, task, options):
    """Do a task that fails; each process stores what the error says, and whether it would print that."""
    start_processes(60)
    try:
        globals()[task](**options)
        message = 'no error'
    except UserError as error:
        message = f'{type(error).__name__}: {error}'
        Path(f'{out}_{dist.get_rank()}.printed').write_text(str(not first_says(error, str(error))))
    Path(f'{out}_{dist.get_rank()}').write_text(message)


def written(path):
    """Write a checkpoint while the disk of the last process is full."""
    tensors = {'state_dict.w': distribute_tensor(torch.zeros(4096), make_mesh(dist.get_world_size(), 1)['data'])}
    real = os.fsync

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if dist.get_rank() == dist.get_world_size() - 1:
        os.fsync = full
    try:
        write_distributed(path, tensors, {})
    finally:
        os.fsync = real


def killed(rank, function, number, **options):
    """Train, until a process is killed where it calls a function of the module os for the n-th time."""
    if os.environ['RANK'] == str(rank):
        real, calls = getattr(os, function), itertools.count(1)

        def counted(*arguments):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(os, function, counted)
    train(config(**options))


def tool(name, arguments):
    """Run a tool."""
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')
    except SystemExit as end:
        assert not end.code, end.code  # noqa: PT017


def main():
    torch.set_num_threads(1)
    for name, options in json.loads((Path(sys.argv[1]) / 'tasks.json').read_text()):
        globals()[name](**options)
    leave()


if __name__ == '__main__':
    main()
