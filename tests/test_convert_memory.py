"""Peak memory of reading and converting a checkpoint of a billion parameters, each in a process of its own."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPO

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import LazyWeights, write_weights

BILLION = dict(embed_dims=2048, num_layers=20, num_heads=16, mlp_dims=8192)

# Resident memory at its highest, as the kernel counts it for this program alone. Mapped files count too.
PROBE = """
import json, sys, time
import torch
from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import convert_checkpoint, load_into_meta

def peak():
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM'))

torch.set_num_threads(1)
action, source, *rest = sys.argv[1:]
before, start = peak(), time.time()
if action == 'read':
    with torch.device('meta'):
        model = ViT22B(json.loads(rest[0]))
    load_into_meta(model, source)
    assert not any(p.is_meta for p in model.parameters())
else:
    convert_checkpoint(source, rest[0], target_layout=rest[1], max_shard_bytes=5 * 10**8)
print(json.dumps(dict(before=before, extra=peak() - before, seconds=time.time() - start)))
"""


def probe(*arguments):
    command = [sys.executable, '-c', PROBE, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads the peak from /proc')
def test_peak_memory_of_a_billion_parameters(tmp_path, capsys):
    with torch.device('meta'):
        infos = ViT22B(BILLION).to(torch.bfloat16).state_dict()
    total, largest = sum(t.nbytes for t in infos.values()), max(t.nbytes for t in infos.values())
    assert 2.0e9 < total < 2.05e9
    one, many, pickled = tmp_path / 'one.safetensors', tmp_path / 'many', tmp_path / 'old.pth'
    write_weights(one, LazyWeights(one, infos, lambda name: torch.randn_like(infos[name], device='cpu') * 0.02))
    few, whole = 4 * largest + 50e6, total + 50e6  # 50 MB for what any work allocates
    remapped = 2 * 32 * 2**20
    rows, over = [], []

    def measure(what, limit, *arguments):
        result = probe(*arguments)
        rows.append(f'{what:42s} {result["extra"] / 1e6:6.0f} MB  {result["seconds"]:5.1f} s')
        over.extend(rows[-1:] if result['extra'] > limit else [])

    measure('one safetensors -> shards, same layout', few, 'convert', one, many, 'vit22b')
    measure('one safetensors -> .pth, same layout', whole + few, 'convert', one, pickled, 'vit22b')
    parallel = tmp_path / 'parallel'
    measure('shards -> shards, vit22b -> parallel', few, 'convert', many, parallel, 'parallel')
    measure('shards -> one, parallel -> vit22b', few, 'convert', parallel, tmp_path / 'back.safetensors', 'vit22b')
    measure('.pth -> one safetensors, vit22b -> parallel', few + remapped, 'convert', pickled, f'{one}.safetensors',
            'parallel')  # fmt: skip
    measure('.pth -> .pth, same layout', whole + remapped, 'convert', pickled, tmp_path / 'new.pth', 'vit22b')
    sizes = json.dumps(BILLION)
    measure('one safetensors into a model on meta', whole, 'read', one, sizes)
    measure('shards into a model on meta', whole, 'read', many, sizes)
    measure('.pth into a model on meta', whole + remapped, 'read', pickled, sizes)
    with capsys.disabled():
        print(f'\n{total / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB; peak beyond the start of the process:')
        print('\n'.join(rows))
    assert not over
