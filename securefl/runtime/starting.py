"""How processes of this machine's peers are started: each like a fresh one, but that what all import is there already.

On Linux a server imports it once, does nothing else, and forks each of them: six members cost the imports once, and one
that was killed is back at once. Elsewhere each process imports for itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any, Final

STREAMS: Final = (1, 2)
IMPORTED = ["securefl.simulation.parties", "securefl.training.shared_model", "peft", "tenseal"]  # what is here of it


def context() -> Any:  # noqa: ANN401 - one of several of the standard library
    """The standard library's way to start a process here."""
    if sys.platform != "linux":
        return get_context("spawn")
    made = get_context("forkserver")
    made.set_forkserver_preload(IMPORTED)  # read when the server is started, with the first process
    return made


def start(target: Callable[..., object], *args: object, daemon: bool) -> BaseProcess:
    """A process that runs ``target``, with this one's environment, standard output and standard error of now."""
    made: BaseProcess = context().Process(target=_begin, args=(_Surroundings(), target, *args), daemon=daemon)
    made.start()
    return made


class _Surroundings:
    """What a process has from whoever starts it. They are taken as it is started, and there before all else is read."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[object, ...]]:
        return _surrounded, (dict(os.environ), [(each, DupFd(each)) for each in STREAMS if _is_open(each)])


def _is_open(stream: int) -> bool:
    with suppress(OSError):
        os.fstat(stream)
        return True
    return False


def _surrounded(environment: dict[str, str], streams: list[tuple[int, Any]]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, given in streams:
        here = given.detach()
        os.dup2(here, stream)
        os.close(here)


def _begin(_: None, target: Callable[..., object], *args: object) -> None:
    target(*args)
