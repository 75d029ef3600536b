"""Which of the processes that torchrun has started says what all of them have met."""

import hashlib
import os
from datetime import timedelta

SECONDS = 10.0  # that processes may differ in what they have done


def first_says(error: Exception, message: str) -> bool:
    """Whether the first process reports this error, so that this one need not.

    The first one leaves word in the store through which the processes found each other. What was compared among them
    before has an attribute ``first_says``.

    Args:
        error: that ends this process. message: that it would print.
    """
    if hasattr(error, 'first_says'):
        return error.first_says
    rank, world = (os.environ.get(name, '') for name in ('RANK', 'WORLD_SIZE'))
    if not rank.isdigit() or world in ('', '1'):
        return False
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    key = f'{__name__}/{attempt}/{hashlib.sha256(message.encode()).hexdigest()}'
    try:
        from torch.distributed import TCPStore

        where, wait = (os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])), timedelta(seconds=SECONDS)
        store = TCPStore(*where, is_master=False, wait_for_workers=False, timeout=wait)
        if rank == '0':
            store.set(key, 'said')
            return False
        store.wait([key], wait)
    except Exception:  # there is nobody to ask, or nobody who has met the same
        return False
    return True
