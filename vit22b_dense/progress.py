"""Progress of long work, and the time that is left."""

import sys
import time
from collections.abc import Callable

QUIET = 10  # seconds between two lines where there is no terminal


def duration(seconds: float) -> str:
    """A duration for people to read: ``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02d} min'


def overwrite_line(text: str) -> None:
    """On a terminal, overwrite the last line with a text; elsewhere do nothing."""
    if sys.stdout.isatty():
        print(f'\r\033[K{text}', end='', flush=True)


class Progress:
    """A callback that updates one line on a terminal; elsewhere it prints a line now and then, and the last one.

    Args:
        what: plural of what is counted, or a function from the number done and the number in all to a text.
    """

    def __init__(self, what: str | Callable[[int, int], str]) -> None:
        self.describe = what if callable(what) else lambda done, total: f'{done}/{total} {what}'
        self.start = self.written = time.time()

    def __call__(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` are done, and the time left."""
        now = time.time()
        left = (now - self.start) / max(done, 1) * (total - done)
        text = f'{self.describe(done, total)}, {duration(left)} left'
        overwrite_line(text)
        if done >= total and sys.stdout.isatty():
            print(flush=True)
        elif not sys.stdout.isatty() and (done >= total or now - self.written > QUIET):
            self.written = now
            print(text, flush=True)
