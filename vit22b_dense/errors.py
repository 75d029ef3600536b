"""Errors that the user can fix: they name the file or value and say what to do."""

import gc
import re
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something outside the program is wrong; the message is all that the user needs.

    Attributes:
        status: exit status of the tool.
    """

    status = 1


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit: with what it returns, or with the status and bare message of a `UserError`."""
    gc.freeze()  # what is imported stays; mmengine asks for a full collection at each data set that it builds
    try:
        status = main()
    except UserError as error:
        print(f'error: {without_traceback(error)}', file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status or 0)


def without_traceback(error: UserError) -> str:
    """The bare message, without the traceback that a data loader's worker puts in front of it."""
    name = re.escape(f'{type(error).__module__}.{type(error).__qualname__}')
    wrapped = re.match(rf'Caught {type(error).__name__} in .*?^(?:{name}): (.*)', str(error), re.DOTALL | re.MULTILINE)
    return (wrapped[1] if wrapped else str(error)).strip()
