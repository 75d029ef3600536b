"""The set-ups of a plan, which of them fit, and the one to take."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from mmengine.config import Config
from prettytable import PrettyTable

from ..engine.config import load_config
from ..errors import UserError
from .rehearsal import FLOAT, rehearse
from .setups import LOW, Setup, several, sharded, streamed, whole

LEAVES = {'linear': 'ade20k/linear.py', 'upernet': 'ade20k/upernet.py', 'dpt': 'kitti/dpt.py'}
USABLE = 0.9  # of a device's memory; the rest is the context, the libraries' and what lies between tensors
UNITS = {'': 1e9, 'GB': 1e9, 'GiB': 2**30, 'MB': 1e6, 'MiB': 2**20}
BF16, CHECKPOINTED, STORED = (f'model.backbone.{o}' for o in ('dtype=bfloat16', 'with_cp=True', 'with_cp=False'))


@dataclass(frozen=True)
class Wanted:
    """What is to be planned.

    Attributes:
        backbone, regime: as the tools take them; the regime ``frozen`` or ``finetune``.
        decoder: a key of `LEAVES`.
        gpus: devices of one machine. memory: bytes of one.
        tokens: of an image. batch: images of a device in a step.
    """

    backbone: str
    regime: str
    decoder: str
    gpus: int
    memory: float
    tokens: int
    batch: int


@dataclass(frozen=True)
class Row:
    """A set-up, whether it fits, and why."""

    setup: Setup
    fits: bool
    why: str


def memory_of(text: str) -> float:
    """Bytes of ``80GB``, ``16 GiB`` or ``80``, gigabytes.

    Raises:
        UserError: something else.
    """
    match = re.fullmatch(r'(\d+\.?\d*) ?([KMG]i?B)?', text)
    if not match or (match[2] or '') not in UNITS or not float(match[1]):
        raise UserError(f'--memory {text}: give a number with GB, GiB, MB or MiB, such as 80GB')
    return float(match[1]) * UNITS[match[2] or '']


def rows_of(wanted: Wanted) -> list[Row]:
    """Every set-up, in the order in which one would prefer them.

    Raises:
        UserError: a backbone that cannot be planned for, an unknown decoder or regime, numbers below 1.
    """
    if wanted.regime not in ('frozen', 'finetune') or wanted.decoder not in LEAVES:
        raise UserError(f'plans are for frozen and finetune, with {", ".join(LEAVES)}')
    if min(wanted.gpus, wanted.tokens, wanted.batch) < 1:
        raise UserError('--gpus, --tokens and --batch-size: give at least 1')
    setups = _frozen(wanted) if wanted.regime == 'frozen' else _finetuned(wanted)
    return [_judged(setup, wanted) for setup in setups]


def _config(wanted: Wanted, **overrides: str) -> Config:
    axes = dict(backbone=wanted.backbone, regime=wanted.regime)
    return load_config(LEAVES[wanted.decoder], axes, {f'model.backbone.{k}': v for k, v in overrides.items()})


def _frozen(wanted: Wanted) -> Iterator[Setup]:
    count, tokens = wanted.batch, wanted.tokens
    low, full = (rehearse(_config(wanted, dtype=dtype), count, tokens) for dtype in ('bfloat16', 'float32'))
    for parts, size, name, options in ((low, LOW, 'bf16', (BF16,)), (full, FLOAT, 'fp32', ())):
        one = replace(whole(parts, True, size), options=options)
        for setup in (several(one, wanted.gpus), one) if wanted.gpus > 1 else (one,):
            yield replace(setup, name=f'{setup.name}, {name}')
    if wanted.gpus > 1:
        setup = sharded(low, True, wanted.gpus, 1, LOW)
        yield replace(setup, name=f'{setup.name}, bf16', flags=('--strategy fsdp2',), options=(BF16,))
    yield from _streamed(wanted)


def _finetuned(wanted: Wanted) -> Iterator[Setup]:
    cfg = _config(wanted)
    parts = rehearse(cfg, wanted.batch, wanted.tokens, amp=True)
    heads = [1]
    if cfg.model.backbone.type == 'ViT22B':
        heads += [tp for tp in (2, 4, 8) if wanted.gpus % tp == 0 and parts.heads % tp == 0]
    for checkpointed, option in ((False, STORED), (True, CHECKPOINTED)):
        one = replace(whole(parts, False, FLOAT, checkpointed), flags=('--amp',), options=(option,))
        yield _named(one if wanted.gpus == 1 else several(one, wanted.gpus), checkpointed)
    for tp in heads if wanted.gpus > 1 else ():
        for checkpointed, option in ((False, STORED), (True, CHECKPOINTED)):
            flags = ('--strategy fsdp2', *([f'--tp {tp}'] if tp > 1 else []))
            setup = replace(
                sharded(parts, False, wanted.gpus, tp, FLOAT, checkpointed), flags=flags, options=(option,)
            )
            yield _named(setup, checkpointed)
    yield from _streamed(wanted)


def _named(setup: Setup, checkpointed: bool) -> Setup:
    return replace(setup, name=f'{setup.name}, checkpointed') if checkpointed else setup


def _streamed(wanted: Wanted) -> Iterator[Setup]:
    cfg = _config(replace(wanted, regime='frozen'), dtype='bfloat16')
    setup = streamed(rehearse(cfg, wanted.batch, wanted.tokens))
    yield replace(setup, name='streaming, bf16', flags=('--stream-weights',), options=(BF16,))


def _judged(setup: Setup, wanted: Wanted) -> Row:
    room, state = USABLE * wanted.memory, setup.weights + setup.gradients + setup.optimizer
    if setup.total <= room:
        why = f'{gigabytes(wanted.memory - setup.total)} left'
        if setup.read:
            why = f'reads {gigabytes(setup.read)} a pass; no training, but testing, predicting and caching'
        return Row(setup, True, why)
    beyond = 'weights, gradients and optimizer alone are' if state > room else 'with activations it is'
    return Row(setup, False, f'{beyond} {gigabytes(state if state > room else setup.total)}')


def recommended(wanted: Wanted, rows: list[Row]) -> Row | None:
    """The first that fits; nothing is fine-tuned while it is streamed."""
    return next((row for row in rows if row.fits and not (wanted.regime == 'finetune' and row.setup.read)), None)


def advice(wanted: Wanted) -> str:
    """What to change where nothing fits."""
    other = ', or --regime frozen' if wanted.regime == 'finetune' else ''
    return f'nothing fits: take devices with more memory, more of them, a smaller backbone or a smaller batch{other}'


def commands(wanted: Wanted, setup: Setup) -> list[str]:
    """What to type for a set-up."""
    weights = f'--backbone {wanted.backbone} --weights WEIGHTS'
    leaf = f'configs/{LEAVES[wanted.decoder]}'
    if setup.read:
        options = f'--cfg-options {" ".join(setup.options)}'
        cached = f'tools/train.py {leaf} {weights} --regime cached {options}'
        return [f'tools/cache_features.py {leaf} {weights} --stream-weights {options}', cached]
    launched = setup.devices > 1
    parts = [
        f'torchrun --nproc_per_node={setup.devices} ' * launched + f'tools/train.py {leaf}', weights,
        f'--regime {wanted.regime}', *setup.flags, '--launcher pytorch' * launched,
        '--cfg-options', *setup.options, f'train_dataloader.batch_size={wanted.batch}',
    ]  # fmt: skip
    return [' '.join(part for part in parts if part)]


def gigabytes(nbytes: float) -> str:
    """``43.5 GB``; below 1 GB with two digits."""
    return f'{nbytes / 1e9:.{1 if nbytes >= 1e9 else 2}f} GB'


def table_of(rows: list[Row]) -> str:
    """The rows as text, bytes in GB on each device."""
    columns = ['weights', 'gradients', 'optimizer', 'activations', 'total', 'communication']
    table = PrettyTable(['set-up (GB on each device)', *columns, 'fits', 'why'], align='r')
    table.align['set-up (GB on each device)'] = table.align['why'] = 'l'
    for row in rows:
        numbers = [getattr(row.setup, name) for name in columns]
        shown = [f'{number / 1e9:.{1 if number >= 1e9 else 2}f}' for number in numbers]
        table.add_row([row.setup.name, *shown, 'yes' if row.fits else 'no', row.why])
    return table.get_string()


def as_json(wanted: Wanted, rows: list[Row]) -> dict:
    """The plan as plain values, bytes."""
    best = recommended(wanted, rows)
    return dict(
        wanted=asdict(wanted),
        rows=[dict(asdict(row.setup), total=row.setup.total, fits=row.fits, why=row.why) for row in rows],
        recommended=best and dict(name=best.setup.name, commands=commands(wanted, best.setup)),
    )
