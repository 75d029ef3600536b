"""Imported first by every tool: while the rest is being imported, which takes seconds, Ctrl-C ends it without a word.

It is a module beside the package, because importing the package is what takes the time. `run_tool` undoes it.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)
