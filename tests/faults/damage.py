"""Ways to damage a file, each seeded."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path, random.Random], None]


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b'')


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(1, max(2, len(content) - 1))])


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def noise(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(2000))


def missing(path: Path, rng: random.Random) -> None:
    path.unlink()


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to('nowhere')


def fifo(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


BYTES = [empty, cut, flip, noise, missing, folder, broken_link, fifo]


def odd_name(path: Path, rng: random.Random) -> None:
    """A name that is no UTF-8, has a space and a line break."""
    path.rename(path.with_name(os.fsdecode(b'caf\xe9 \n') + path.suffix))


def other_suffix(path: Path, rng: random.Random) -> None:
    path.rename(path.with_suffix(path.suffix.upper()))


def weights(value: float | None) -> Damage:
    """One value of a tensor; None makes it whole numbers."""

    def change(path: Path, rng: random.Random) -> None:
        whole = torch.load(path, weights_only=False) if path.suffix == '.pth' else None
        state = whole['state_dict'] if whole else load_file(path)
        name = rng.choice(sorted(state))
        tensor = state[name].clone()
        if value is None:
            tensor = tensor.to(torch.int32)
        else:
            tensor.view(-1)[rng.randrange(tensor.numel())] = value
        state[name] = tensor
        torch.save(whole, path) if whole else save_file(state, path)

    return change


def entry(key: str, value: object = ...) -> Damage:
    """An entry of a checkpoint: another value, or removed."""

    def change(path: Path, rng: random.Random) -> None:
        whole = torch.load(path, weights_only=False)
        whole.pop(key)
        if value is not ...:
            whole[key] = value
        torch.save(whole, path)

    return change


def integer_key(path: Path, rng: random.Random) -> None:
    whole = torch.load(path, weights_only=False)
    whole['state_dict'][7] = torch.zeros(1)
    torch.save(whole, path)


def number(key: str, value: object) -> Damage:
    """Every value of a key in a JSON file."""

    def replaced(node: object) -> object:
        if isinstance(node, dict):
            return {k: value if k == key else replaced(v) for k, v in node.items()}
        return [replaced(v) for v in node] if isinstance(node, list) else node

    def change(path: Path, rng: random.Random) -> None:
        path.write_text(json.dumps(replaced(json.loads(path.read_text()))))

    return change


def points(name: str, value: float) -> Damage:
    """One value of a prepared segment's npz, with its checksum put right."""

    def change(path: Path, rng: random.Random) -> None:
        import zlib

        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        arrays[name] = arrays[name].astype(np.float64 if name != 'depth' and value % 1 else arrays[name].dtype)
        arrays[name][rng.randrange(len(arrays[name]))] = value
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path.write_bytes(buffer.getvalue())
        index = path.with_name('index.json')
        content = json.loads(index.read_text())
        for frame in content['frames']:
            if frame['depth'].endswith(path.name):
                frame['depth_crc32'] = zlib.crc32(buffer.getvalue())
        index.write_text(json.dumps(content))

    return change


def column(what: str, value: object = None) -> Damage:
    """A random column of a parquet file: dropped, of text, null, or its first value replaced."""

    def change(path: Path, rng: random.Random) -> None:
        table = pq.read_table(path)
        names = [name for name in table.column_names if what != 'value' or not name.startswith('key.')]
        name = rng.choice(names)
        if what == 'drop':
            table = table.drop_columns([name])
        else:
            place, kind = table.column_names.index(name), table.schema.field(name).type
            cells = table[name].to_pylist()
            if what == 'text':
                array = pa.array(['noon'] * len(cells))
            else:
                first = value
                if isinstance(cells[0], list) and value is not None:
                    first = [*cells[0][:-1], value] if pa.types.is_floating(kind.value_type) else [-7] * len(cells[0])
                elif value is not None and not pa.types.is_floating(kind):
                    first = None
                array = pa.array([first, *cells[1:]], kind)
            table = table.set_column(place, name, array)
        pq.write_table(table, path)

    return change


def text(old: str, new: str) -> Damage:
    def change(path: Path, rng: random.Random) -> None:
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return change


def copied_over(source: str) -> Damage:
    """Another file of the world in its place."""

    def change(path: Path, rng: random.Random) -> None:
        world = next(parent for parent in path.parents if (parent / 'seg.py').exists())
        shutil.copy(world / source, path)

    return change
