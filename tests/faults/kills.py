"""Tools that are killed for good, at a named point or at any, and started again."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import world
from running import Outcome, Tool, run

from vit22b_dense.files import LEFT

# What each is started again with: the rest of its work is then done.
AGAIN = {'train': ['--resume'], 'resume': [], 'prepare': [], 'convert': ['--overwrite'], 'predict': [], 'test': [],
         'fewshot': [], 'cache': []}  # fmt: skip
MORE = {'overwrite': ['--overwrite'], 'workers': ['--workers', '2']}  # variants of prepare


@dataclass(frozen=True)
class KillAt:
    """Kills its process at the n-th call of a function, before or after it does its work; it can be pickled."""

    function: str  # of the module os
    number: int
    after: bool = False

    def __call__(self) -> None:
        real, calls = getattr(os, self.function), []

        def counted(*arguments, **options):
            calls.append(arguments)
            if len(calls) == self.number and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if len(calls) == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, self.function, counted)

    def __str__(self) -> str:
        return f'{"after" if self.after else "at"} {self.function} {self.number}'


POINTS = [
    *(('train', KillAt('fsync', n)) for n in (1, 3)),
    *(('train', KillAt('replace', n, after)) for n, after in ((1, False), (1, True), (3, False), (3, True))),
    *(('cache', KillAt('replace', n, after)) for n, after in ((1, True), (4, False), (4, True))),
    *(('predict', KillAt('replace', n)) for n in (1, 3)),
    ('predict', KillAt('fsync', 2)),
    *(('convert', KillAt('fsync', n)) for n in (1, 4)),
    *(('convert', KillAt('replace', 1, after)) for after in (False, True)),
    *(('prepare', KillAt('fsync', n)) for n in (1, 8)),
    *(('prepare', KillAt('replace', n, after)) for n, after in ((1, False), (2, False), (2, True))),
    *(('overwrite', KillAt('rename', n, after)) for n in (1, 2) for after in (False, True)),
    ('overwrite', KillAt('fsync', 3)),
]


def command_of(name: str) -> list[str]:
    """The command of a name of `world.COMMANDS`, or of a variant of prepare."""
    return [*world.COMMANDS['prepare'], *MORE[name]] if name in MORE else world.COMMANDS[name]


def killed_and_repeated(
    name: str, made: Path, folder: Path, point: KillAt | None = None, seconds: float | None = None
) -> tuple[Outcome, Path]:
    """Kill a command in a copy of the world at a point, or after some seconds, and run it again to its end.

    Returns:
        The second run's outcome, and the copy's folder of outputs.
    """
    place = world.copied(made, folder)
    if name == 'overwrite':  # something is there to be overwritten
        assert run(world.COMMANDS['prepare'], place).status == 0
    tool = Tool(command_of(name), place, point)
    if seconds is not None:
        time.sleep(seconds)
        while pids := working_in(place):  # one may just be starting another
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            tool.process.join(0.1)
    first = tool.finish()
    assert point is None or first.status == -signal.SIGKILL, f'{name} never came {point}: {first.said[-2000:]}'
    again = AGAIN['prepare' if name in MORE else name]
    return run([*world.COMMANDS['prepare' if name in MORE else name], *again], place), place / 'out'


def working_in(place: Path) -> list[int]:
    """The processes whose working directory is a folder, but for those that are dead and not yet waited for."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            if os.readlink(process / 'cwd') == str(place.resolve()):
                found.append(int(process.name))
    return found


def leftovers(out: Path) -> list[str]:
    """Names of what a dead process has left."""
    return [path.name for path in out.rglob('.*') if LEFT.fullmatch(path.name)]


def moments(count: int, seed: int = 0) -> list[tuple[str, float]]:
    """Commands with a random share of their time."""
    rng = random.Random(seed)
    names = ['train', 'prepare', 'overwrite', 'workers', 'convert', 'predict', 'fewshot', 'cache']
    return [(rng.choice(names), rng.random()) for _ in range(count)]
