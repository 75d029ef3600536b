"""Peak memory of a computation that may also read weights."""

from unittest import mock

import safetensors

from vit22b_dense.benchmark.memory import PeakMemory as Counted
from vit22b_dense.checkpoint import reading


class SeenFile:
    """`safetensors.safe_open`, whose tensors no operation makes, with an operation that makes them."""

    def __init__(self, *args, **options):
        self.file = safetensors.safe_open(*args, **options)
        self.offset_keys, self.get_slice = self.file.offset_keys, self.file.get_slice

    def get_tensor(self, name):
        return self.file.get_tensor(name).clone()


class PeakMemory(Counted):
    """Counts what is read, too."""

    def __init__(self):
        super().__init__()
        self.reading = mock.patch.object(reading, 'safe_open', SeenFile)

    def __enter__(self):
        self.reading.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.reading.stop()
        return super().__exit__(*error)
