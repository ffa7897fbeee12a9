"""Where a run gets time and randomness from."""

from __future__ import annotations

import time
from collections.abc import Callable

Entropy = Callable[[int], bytes]


def clock() -> int:
    """Seconds since 1970."""
    return int(time.time())
