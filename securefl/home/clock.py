"""Where a party gets time from, and the type of its source of randomness."""

from __future__ import annotations

import time
from collections.abc import Callable

Entropy = Callable[[int], bytes]  # this many bytes that nobody can guess


def clock() -> int:
    """Seconds since 1970."""
    return int(time.time())
