"""A frozen body of more weights than there is memory: its blocks are read from disk while it computes.

Two blocks have memory. While one computes, a thread reads the next into the other. What it takes from then on is the
time of computing or of reading, whichever is longer.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from ...checkpoint import CheckpointError, InPlaceReader, check_fit, other_layout
from ...errors import UserError

TOGETHER = 2  # blocks in memory


class BlockStream:
    """The blocks of a body, one after the other, as often as they are asked for.

    Args:
        block: one of them on the meta device; the others have the same shapes.
        reader: of the weights, named ``blocks.N.…``.
    """

    def __init__(self, block: nn.Module, reader: InPlaceReader) -> None:
        self.block, self.reader = block, reader
        self.slots: list[nn.Module] = []
        self.passes = 0
        # The only thread that writes into the slots. What one pass still reads when it is broken off comes before
        # all that the next one asks for.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix='weights')

    def blocks(
        self, numbers: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[int, nn.Module]]:
        """Blocks by number, each to be used before the next one is asked for.

        Args:
            numbers: which, in this order. device, dtype: of their weights.

        Raises:
            CheckpointError: from the thread, where the weights cannot be read.
            RuntimeError: another pass has been begun in the meantime.
        """
        self._make_slots(device, dtype)
        self.passes += 1
        this, coming = self.passes, deque[tuple[int, nn.Module, Future]]()
        ahead = zip(numbers, (self.slots[i % TOGETHER] for i in range(len(numbers))), strict=True)

        def read_next(count: int) -> None:
            for number, slot in islice(ahead, count):
                coming.append((number, slot, self.thread.submit(self._read, number, slot)))

        read_next(TOGETHER)
        try:
            while coming:
                number, slot, reading = coming.popleft()
                reading.result()
                if self.passes != this:
                    raise RuntimeError('two passes over streamed blocks at the same time: finish one first')
                yield number, slot
                read_next(1)
        finally:
            for *_, reading in coming:
                reading.cancel()

    def _make_slots(self, device: torch.device, dtype: torch.dtype) -> None:
        if self.slots and all((p.device, p.dtype) == (device, dtype) for p in self.slots[0].parameters()):
            return
        self.slots = []  # first: there may be no memory for both
        for _ in range(TOGETHER):
            self.slots.append(copy.deepcopy(self.block).to(dtype).to_empty(device=device).eval())

    def _read(self, number: int, slot: nn.Module) -> None:
        for name, tensor in slot.state_dict().items():
            self.reader.read_into(f'blocks.{number}.{name}', tensor)


def open_stream(body: nn.Module, path: str | Path, prefix: str | None, allow_partial: bool) -> BlockStream:
    """Check that weights can be streamed into a body: all there, of its names, layout and shapes.

    Args:
        body: a `PlainBody` whose blocks are on the meta device.
        path, prefix, allow_partial: as for `PlainBody.load_pretrained`.

    Raises:
        CheckpointError: they cannot; names the file and what to do.
    """
    if allow_partial:
        raise CheckpointError(f'{path}: allow_partial=True: streamed weights have to be all there')
    reader = InPlaceReader(path, prefix)
    own = body.state_dict()
    if layout := other_layout(reader.weights, own):
        raise CheckpointError(
            f'{path}: has the layout {layout!r}, and weights are not converted while they are streamed. Convert them '
            f'once: tools/convert_checkpoint.py {path} CONVERTED.safetensors'
        )
    resized = {'pos_embed': own['pos_embed']} if 'pos_embed' in reader.weights else {}
    check_fit(body, {**reader.weights, **resized}, path)
    return BlockStream(body.blocks[0], reader)


def refuse_random() -> None:
    """Raise: nothing is stored that could be streamed."""
    raise UserError(
        '--stream-weights: the backbone has random weights, and there is no file to read them from. Name one with '
        '--weights, or leave --stream-weights out'
    )
