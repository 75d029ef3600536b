"""Set-ups of a run, and what each takes per device: arithmetic on a `Rehearsal`.

The formulas follow one training step after the first, when the optimiser has its moments:

- *weights*, *gradients* and *optimizer* (AdamW: two moments in float32) are those of the parameters that are trained,
  and the weights of those that are not;
- *activations* is what the highest moment of the step takes beside them. It is the highest of four: the decoder's
  passes, with all activations of the backbone; the backward pass of the last block, with those of the others, and of
  the first, with nearly all gradients; the optimiser's step. Of a frozen backbone it is that of its last block, or
  the decoder's.
"""

from dataclasses import dataclass, replace

from .rehearsal import FLOAT, Pass, Rehearsal

LOW = 2  # bytes of a bfloat16
MOMENTS = 2


@dataclass(frozen=True)
class Setup:
    """A set-up, and what it takes on each device in bytes.

    Attributes:
        name: for the table. flags: of the command. devices: how many it uses.
        weights, gradients, optimizer, activations: see above.
        communication: received by each device in a step.
        note: what else there is to know.
    """

    name: str
    flags: str
    devices: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    communication: int
    note: str = ''

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def whole(parts: Rehearsal, frozen: bool, weight_bytes: int, checkpointed: bool) -> Setup:
    """The whole model on one device.

    Args:
        parts: counted as it runs: mixed precision, dtype.
        frozen: the backbone.
        weight_bytes: of a number of a frozen backbone.
        checkpointed: activations are computed again in the backward pass.
    """
    decoder = parts.decoder * FLOAT
    trained = parts.decoder + (0 if frozen else parts.backbone)
    held = parts.backbone * (weight_bytes if frozen else FLOAT) + decoder + parts.folded
    gradients = trained * FLOAT
    if frozen:
        activations = _frozen(parts, parts.run, decoder)
    else:
        activations = _trained(parts, parts.run, gradients, parts.block * FLOAT, decoder, checkpointed)
    return Setup('one device', '', 1, held, gradients, MOMENTS * gradients, activations, 0)


def _frozen(parts: Rehearsal, block: Pass, decoder: int) -> int:
    """Beside the decoder's gradients: a block's pass, while the maps of the levels before are kept, or the decoder's."""
    maps = parts.levels * parts.token_map
    run = parts.token_map + block.alone + maps - parts.token_map
    step = 2 * decoder // 3  # no gradients while the backbone runs
    return 2 * parts.images + max(run - decoder, maps + parts.decode.peak - decoder, step)


def _trained(
    parts: Rehearsal, block: Pass, gradients: int, block_gradients: int, decoder: int, checkpointed: bool
) -> int:
    """Beside all gradients: the highest moment of a step."""
    stored = parts.token_map if checkpointed else block.stored
    others = parts.token_map + (parts.blocks - 1) * stored
    maps = parts.levels * parts.maps.stored
    moments = (
        others + stored + maps + parts.decode.peak,
        others + block.peak + parts.token_map + decoder,
        parts.token_map * 2 + block.peak + (parts.blocks - 1) * block_gradients + decoder,
        gradients + max(block_gradients, parts.largest * FLOAT),
    )
    return 2 * parts.images + max(max(moments) - gradients, 0)


def several(one: Setup, parts: Rehearsal, devices: int, trained: int) -> Setup:
    """The whole model on each of several devices (DDP): its buckets hold the gradients once more."""
    grads = trained * FLOAT
    return replace(
        one,
        name=f'DDP on {devices}',
        devices=devices,
        gradients=one.gradients + grads,
        communication=2 * grads * (devices - 1) // devices,
    )


def sharded(
    parts: Rehearsal, frozen: bool, devices: int, tensor_parallel: int, checkpointed: bool, trained: int
) -> Setup:
    """FSDP2 with bf16 blocks, fp32 shards and reduction, optionally tensor parallel.

    Two blocks are gathered at a time. A block's gradients are there in bf16, and in fp32 while they are reduced.
    """
    data, tp = devices // tensor_parallel, tensor_parallel
    block = divided(parts.low, parts, tp)
    gathered = 2 * parts.block * LOW // tp
    root = (parts.stem + parts.decoder) * FLOAT  # gathered for the whole step
    shard = trained * FLOAT // devices
    weights = shard + (0 if not frozen else parts.backbone * FLOAT // devices) + gathered + root
    decoder = parts.decoder * FLOAT
    if frozen:
        activations = _frozen(parts, block, decoder)
    else:
        reduced = parts.block * FLOAT // tp
        activations = reduced + _trained(parts, block, shard, parts.block * FLOAT // devices, decoder, checkpointed)
    passes = 1 if frozen else 2
    gather = passes * parts.blocks * parts.block * LOW // tp * (data - 1) // data
    reduce = 0 if frozen else parts.blocks * parts.block * FLOAT // tp * (data - 1) // data
    exchanged = parts.blocks * parts.token_map // 2 * 2 * (tp - 1) // tp  # an all-reduce in bf16
    times = 1 if frozen else 2 + checkpointed
    name = f'FSDP2 on {devices}' if tp == 1 else f'FSDP2 on {data} x TP on {tp}'
    flags = '--strategy fsdp2' + (f' --tp {tp}' if tp > 1 else '')
    return Setup(
        name, flags, devices, weights, shard, MOMENTS * shard, activations, gather + reduce + times * exchanged
    )


def divided(block: Pass, parts: Rehearsal, tp: int) -> Pass:
    """A block's pass under tensor parallelism: all but its norm, its input and its result is divided."""
    outside = Pass(
        parts.norm.stored + parts.token_map,
        parts.norm.stored + 3 * parts.token_map,
        parts.norm.stored + parts.token_map,
    )
    share = (min(o, b) + (b - min(o, b)) // tp for o, b in zip(_values(outside), _values(block), strict=True))
    return Pass(*share)


def _values(p: Pass) -> tuple[int, int, int]:
    return p.stored, p.peak, p.alone


def streamed(parts: Rehearsal, weight_bytes: int) -> Setup:
    """Two blocks in memory; for testing, predicting and caching."""
    weights = (2 * parts.block + parts.stem) * weight_bytes + parts.decoder * FLOAT
    read = parts.blocks * parts.block * weight_bytes
    activations = parts.token_map * parts.levels + max(parts.run.alone, parts.decode.alone) + 2 * parts.images
    return Setup(
        'streaming', '--stream-weights', 1, weights, 0, 0, activations, 0, f'reads {read / 1e9:.1f} GB a pass'
    )
