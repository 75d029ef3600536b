"""How far long work is, and how long it will take."""

import sys
import time
from collections.abc import Callable

QUIET = 10  # seconds between two lines where there is no terminal


def duration(seconds: float) -> str:
    """A length of time as people say it: ``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02d} min'


def overwrite_line(text: str) -> None:
    """On a terminal, write a text over the last line; elsewhere nothing."""
    if sys.stdout.isatty():
        print(f'\r\033[K{text}', end='', flush=True)


class Progress:
    """A callback that keeps one line on a terminal; elsewhere it writes one now and then, and the last.

    Args:
        what: plural of what is counted, or a function from the number done and the number in all to a text.
    """

    def __init__(self, what: str | Callable[[int, int], str]) -> None:
        self.describe = what if callable(what) else lambda done, total: f'{done}/{total} {what}'
        self.start = self.written = time.time()

    def __call__(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` are done, and the time left."""
        now = time.time()
        left = (now - self.start) / max(done, 1) * (total - done)
        text = f'{self.describe(done, total)}, {duration(left)} left'
        overwrite_line(text)
        if done >= total and sys.stdout.isatty():
            print(flush=True)
        elif not sys.stdout.isatty() and (done >= total or now - self.written > QUIET):
            self.written = now
            print(text, flush=True)
