"""Made weights in every layout, written and read with the libraries of each format."""

import torch
from safetensors.torch import save_file

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import convert_checkpoint, open_weights

SMALL = dict(embed_dims=24, num_layers=2, num_heads=4, mlp_dims=40)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = ['w.pth', 'w.safetensors', 'w']


def random_like(shapes, dtype=torch.float32, seed=0):
    """Every bit pattern that is a number, -0 among them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator).to(dtype)
        tensor.view(-1)[::7] = -0.0
        state[name] = tensor
    return state


def vit22b_state(dtype=torch.float32, **options):
    with torch.device('meta'):
        model = ViT22B(SMALL, img_size=(42, 42), **options)
    return random_like({n: t.shape for n, t in model.state_dict().items()}, dtype)


def sequential_shapes(stem, block, blocks=2):
    return stem | {block_name: shape for i in range(blocks) for block_name, shape in block(i).items()}


def internvit_state(dtype=torch.float32, prefix='', norm_bias=False, qk_norm=True):
    """The names of the published InternViT-6B files."""

    def block(i):
        p = f'{prefix}encoder.layers.{i}.'
        shapes = {
            f'{p}norm1.weight': (24,), f'{p}attn.qkv.weight': (72, 24), f'{p}attn.proj.weight': (24, 24),
            f'{p}attn.proj.bias': (24,), f'{p}ls1': (24,), f'{p}norm2.weight': (24,), f'{p}mlp.fc1.weight': (40, 24),
            f'{p}mlp.fc1.bias': (40,), f'{p}mlp.fc2.weight': (24, 40), f'{p}mlp.fc2.bias': (24,), f'{p}ls2': (24,),
        }  # fmt: skip
        if qk_norm:
            shapes |= {f'{p}attn.q_norm.weight': (24,), f'{p}attn.k_norm.weight': (24,)}
        if norm_bias:
            shapes |= {f'{p}norm1.bias': (24,), f'{p}norm2.bias': (24,), f'{p}attn.qkv.bias': (72,)}
        return shapes

    e = f'{prefix}embeddings.'
    stem = {
        f'{e}class_embedding': (1, 1, 24), f'{e}patch_embedding.weight': (24, 3, 14, 14),
        f'{e}patch_embedding.bias': (24,), f'{e}position_embedding': (1, 10, 24),
    }  # fmt: skip
    return random_like(sequential_shapes(stem, block), dtype)


def write(path, state):
    if path.suffix == '.pth':
        torch.save(dict(meta=dict(dataset_meta=dict(classes=['a'])), state_dict=state), path)
    elif path.suffix == '.safetensors':
        save_file(state, path)
    else:
        save_file(state, path.with_name('whole.safetensors'))
        convert_checkpoint(path.with_name('whole.safetensors'), path, target_layout='same', max_shard_bytes=3000)
    return path


def read(path):
    source = open_weights(path)
    return {name: source.read(name) for name in source}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape), name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)), name
