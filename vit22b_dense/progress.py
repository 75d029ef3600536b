"""How far long work is, and how long it will take."""

import sys
import time


def duration(seconds: float) -> str:
    """A length of time as people say it: ``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02d} min'


class Progress:
    """A line on the terminal that is written over again; silent where the output is no terminal.

    Args:
        what: plural of what is counted.
    """

    def __init__(self, what: str) -> None:
        self.what, self.start = what, time.time()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done, with the time left."""
        left = (time.time() - self.start) / max(done, 1) * (total - done)
        self.show(f'{done}/{total} {self.what}, {duration(left)} left', last=done >= total)

    @staticmethod
    def show(text: str, last: bool = False) -> None:
        """Write a text over the line."""
        if sys.stderr.isatty():
            print(f'\r\033[K{text}', end='\n' if last else '', file=sys.stderr, flush=True)
