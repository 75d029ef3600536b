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
IMAGES = 3  # times float32 images: as they are read, normalised, and their labels


@dataclass(frozen=True)
class Setup:
    """A set-up, and what it takes on each device in bytes.

    Attributes:
        name: for the table. devices: how many it uses.
        weights, gradients, optimizer, activations: see above.
        communication: received by each device in a step. read: from disk in a pass.
        flags, options: of the command, and for its ``--cfg-options``.
    """

    name: str
    devices: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    communication: int = 0
    read: int = 0
    flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def whole(parts: Rehearsal, frozen: bool, weight_bytes: int = FLOAT, checkpointed: bool = False) -> Setup:
    """The whole model on one device.

    Args:
        parts: counted as it runs: mixed precision, dtype.
        frozen: the backbone.
        weight_bytes: of a number of a frozen backbone.
        checkpointed: activations are computed again in the backward pass.
    """
    decoder = parts.decoder * FLOAT
    held = parts.backbone * (weight_bytes if frozen else FLOAT) + decoder + parts.folded
    gradients = decoder + (0 if frozen else parts.backbone * FLOAT)
    if frozen:
        activations = _frozen(parts, parts.run, decoder)
    else:
        activations = _trained(parts, parts.run, gradients, decoder, checkpointed)
    return Setup('one device', 1, held, gradients, MOMENTS * gradients, activations)


def several(one: Setup, devices: int) -> Setup:
    """The whole model on each of several devices (DDP), whose buckets hold the gradients once more."""
    exchanged = 2 * one.gradients * (devices - 1) // devices
    return replace(
        one, name=f'DDP on {devices}', devices=devices, gradients=2 * one.gradients, communication=exchanged
    )


def sharded(
    parts: Rehearsal, frozen: bool, devices: int, tp: int = 1, weight_bytes: int = FLOAT, checkpointed: bool = False
) -> Setup:
    """FSDP2 with bf16 blocks, fp32 reduction and fp32 shards of what is trained, optionally with tensor parallelism.

    Two blocks are gathered at a time, and stem and decoder for the whole step. A block's gradients are there in bf16,
    and in fp32 while they are reduced.

    Args:
        parts, frozen, weight_bytes, checkpointed: as for `whole`.
        devices: all of them. tp: how many share a block.
    """
    data, decoder = devices // tp, parts.decoder * FLOAT
    trained = parts.decoder + (0 if frozen else parts.backbone)
    shard = trained * FLOAT // devices
    held = shard + (parts.backbone * weight_bytes // devices if frozen else 0)
    held += 2 * parts.block * LOW // tp + (parts.stem + parts.decoder) * FLOAT
    block, blocks = divided(parts, tp), parts.blocks * parts.block // tp
    if frozen:
        activations = _frozen(parts, block, decoder)
    else:
        activations = _trained(parts, block, shard, decoder, checkpointed, devices)
        activations += parts.block * FLOAT // tp
    gathered = (1 if frozen else 2) * blocks * LOW
    reduced = 0 if frozen else blocks * FLOAT
    exchanged = parts.blocks * parts.token_map * LOW // FLOAT * 2 * (tp - 1) // tp  # all-reduces, one a block and pass
    passes = 1 if frozen else 2 + checkpointed
    names = [f'FSDP2 on {data}'] * (data > 1) + [f'TP on {tp}'] * (tp > 1)
    return Setup(
        ' x '.join(names),
        devices,
        held,
        shard,
        MOMENTS * shard,
        activations,
        (gathered + reduced) * (data - 1) // data + passes * exchanged,
    )


def streamed(parts: Rehearsal, weight_bytes: int = LOW) -> Setup:
    """Two blocks in memory; no training."""
    held = (2 * parts.block + parts.stem) * weight_bytes + parts.decoder * FLOAT
    maps = parts.levels * parts.token_map
    activations = IMAGES * parts.images + max(maps + parts.run.alone, maps + parts.decode.alone)
    return Setup('streaming', 1, held, 0, 0, activations, read=parts.blocks * parts.block * weight_bytes)


def _frozen(parts: Rehearsal, block: Pass, decoder: int) -> int:
    """Beside the decoder's gradients: a block's pass, while the maps of former levels are kept, or the decoder's."""
    maps = parts.levels * parts.token_map
    return IMAGES * parts.images + max(maps + max(block.alone, parts.decode.peak) - decoder, 0)


def _trained(parts: Rehearsal, block: Pass, gradients: int, decoder: int, checkpointed: bool, devices: int = 1) -> int:
    """Beside all gradients: the highest moment of a step. The state is divided among devices."""
    stored = parts.token_map if checkpointed else block.stored
    others = parts.token_map + (parts.blocks - 1) * stored
    moments = (
        others + stored + parts.levels * parts.maps.stored + parts.decode.peak,
        others + parts.token_map + block.peak + decoder,
        2 * parts.token_map + block.peak + (parts.blocks - 1) * parts.block * FLOAT // devices + decoder,
        gradients + max(parts.block, parts.largest) * FLOAT // devices,
    )
    return IMAGES * parts.images + max(max(moments) - gradients, 0)


def divided(parts: Rehearsal, tp: int) -> Pass:
    """A bf16 block's pass where its products are divided: its first norm, its input and its result are not."""
    block, norm, tokens = parts.low, parts.norm, parts.token_map
    outside = dict(stored=norm.stored + tokens, peak=norm.stored + 3 * tokens, alone=norm.stored + tokens)
    pairs = {name: (getattr(block, name), min(size, getattr(block, name))) for name, size in outside.items()}
    return Pass(**{name: left + (full - left) // tp for name, (full, left) in pairs.items()})
