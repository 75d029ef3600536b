"""Errors that are the user's to mend: they name the file or value and what to do."""

import re
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something outside the program is wrong; the message is all that the user needs.

    Attributes:
        status: with which a tool ends.
    """

    status = 1


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit: with what it returns, or with the status and bare message of a `UserError`."""
    try:
        status = main()
    except UserError as error:
        # A data loader's worker wraps the error in its own traceback; the message stands at the end.
        message = re.split(r'(?:^|\n)(?:\w+\.)*\w*Error: ', str(error))[-1].strip()
        print(f'error: {message}', file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status or 0)
