"""Peak memory of a computation, counted storage by storage: exact, and the same on every machine."""

import weakref
from unittest import mock

import safetensors
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit22b_dense.checkpoint import reading


class SeenFile:
    """`safetensors.safe_open`, whose tensors no operation makes, with an operation that makes them."""

    def __init__(self, *args, **options):
        self.file = safetensors.safe_open(*args, **options)
        self.get_slice, self.offset_keys = self.file.get_slice, self.file.offset_keys

    def get_tensor(self, name):
        return self.file.get_tensor(name).clone()


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while the mode is on, and of what is read meanwhile.

    Attributes:
        peak: the most that was alive at one time, in bytes.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = set()
        self.reading = mock.patch.object(reading, 'safe_open', SeenFile)

    def __enter__(self):
        self.reading.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.reading.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self._count(tensor.untyped_storage(), before)
        return out

    def _count(self, storage, before):
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or key in before:
            return
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key, size):
        self.live -= size
        self.seen.discard(key)
