"""Running cases in turn: medians, spread, ratios within a round, peak memory."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from .memory import PeakMemory

SHORTEST = 0.02  # seconds: shorter cases run several times a round
PRODUCT_SIDE = {'cpu': 2048, 'cuda': 8192}  # of the square matrices whose product is the ceiling


@dataclass(frozen=True)
class Group:
    """Cases that are compared.

    Attributes:
        section, title: where it stands.
        cases: by name; the first is the one that ratios refer to.
        flops: of a run, the same for all; None where shares of the ceiling say nothing.
        dtype: of the products.
    """

    section: str
    title: str
    cases: dict[str, Callable[[], object]]
    flops: float | None = None
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Row:
    """A case as measured.

    Attributes:
        seconds: of a run, median over the rounds. low, high: lowest and highest.
        speed: how many times as fast as the group's first case, median of the rounds' own ratios.
        speed_low, speed_high: lowest and highest.
        ceiling: share of the speed of a large matrix product in the same rounds, median.
        peak_bytes: memory that the tensors of a run take at most, beyond those it begins with; None if not known.
    """

    section: str
    title: str
    case: str
    seconds: float
    low: float
    high: float
    speed: float
    speed_low: float
    speed_high: float
    ceiling: float | None
    peak_bytes: int | None

    def to_dict(self) -> dict:
        """For a JSON file."""
        return asdict(self)


def measure(group: Group, rounds: int, device: torch.device) -> list[Row]:
    """Run the cases of a group in turn, each once a round, so that whatever else the machine does hits all alike.

    Args:
        group: what to run.
        rounds: 1 or more.
        device: that the cases run on.

    Returns:
        A row for each case, in their order.
    """
    cases = dict(group.cases)
    if group.flops:
        side = PRODUCT_SIDE[device.type]
        a, b = torch.randn(2, side, side, device=device, dtype=group.dtype)
        cases[''] = lambda: a @ b
    repeats, peaks, times = {}, {}, {name: [] for name in cases}
    for name, run in cases.items():
        run()  # warm
        # Compiled code takes memory behind PyTorch's operations.
        peaks[name] = None if device.type == 'cpu' and name.endswith('compiled') else _peak(run, device)
        repeats[name] = max(1, round(SHORTEST / _seconds(run, 1, device)))
    for i in range(rounds):
        names = list(cases)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(_seconds(cases[name], repeats[name], device))
    first = times[next(iter(cases))]
    rows = []
    for name in group.cases:
        taken = times[name]
        speeds = [one / other for one, other in zip(first, taken, strict=True)]
        share = None
        if group.flops:
            at_ceiling = [seconds * group.flops / (2 * side**3) for seconds in times['']]
            share = statistics.median(c / t for c, t in zip(at_ceiling, taken, strict=True))
        rows.append(
            Row(
                group.section, group.title, name,
                statistics.median(taken), min(taken), max(taken),
                statistics.median(speeds), min(speeds), max(speeds),
                share, peaks[name],
            )
        )  # fmt: skip
    return rows


def _seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    # The processor time of one thread is what the time would be if no other process took turns with it.
    clock = time.process_time if device.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        run()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def _peak(run: Callable[[], object], device: torch.device) -> int:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with PeakMemory() as memory:
        run()
    return memory.peak


def shown(rows: Sequence[Row]) -> list[list[str]]:
    """Rows of a table: case, milliseconds with spread, speed with spread, share of the ceiling, peak memory in MB."""
    return [
        [
            row.case,
            f'{1e3 * row.seconds:.4g} ({1e3 * row.low:.4g}–{1e3 * row.high:.4g})',
            f'{row.speed:.2f} ({row.speed_low:.2f}–{row.speed_high:.2f})',
            '–' if row.ceiling is None else f'{row.ceiling:.2f}',
            '–' if row.peak_bytes is None else f'{row.peak_bytes / 1e6:.0f}',
        ]
        for row in rows
    ]


HEADER = ['case', 'ms', 'times as fast', 'of ceiling', 'peak MB']
