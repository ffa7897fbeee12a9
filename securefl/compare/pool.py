"""Runs spread over processes: each keeps its records and tokens, one thread each, and ends when the first one does."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from securefl.compare.run_cell import Kept, Outcome, perform
from securefl.documents.experiment import Cell
from securefl.documents.federation import Loaded

Work = tuple[Cell, Loaded]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def each(work: Sequence[Work], out: Path, jobs: int, *, unsafe_unsigned: bool = False) -> Iterator[Outcome]:
    """The outcome of each run, as they end. Leaving early ends every process: what they did is in their runs."""
    waiting = list(reversed(work))
    pool = _Pool(out, unsafe_unsigned=unsafe_unsigned)
    try:
        for _ in range(min(jobs, len(waiting))):
            pool.give(waiting.pop())
        while pool.running:
            for outcome in pool.ended():
                if waiting:
                    pool.give(waiting.pop())
                yield outcome
    finally:
        pool.close()


class _Pool:
    def __init__(self, out: Path, *, unsafe_unsigned: bool) -> None:
        self._out, self._unsigned = out, unsafe_unsigned
        self._idle: list[tuple[BaseProcess, Connection]] = []
        self.running: dict[Connection, tuple[BaseProcess, Cell]] = {}

    def give(self, work: Work) -> None:
        """An idle process, or a new one, has this to do."""
        process, pipe = self._idle.pop() if self._idle else self._started()
        pipe.send(work)
        self.running[pipe] = (process, work[0])

    def ended(self) -> list[Outcome]:
        """The outcomes that have come meanwhile: at least one."""
        found: list[Outcome] = []
        for pipe in wait(list(self.running)):
            assert isinstance(pipe, Connection), "only pipes are waited for"
            process, cell = self.running.pop(pipe)
            try:
                found.append(pipe.recv())
            except (EOFError, OSError):
                process.join()
                pipe.close()
                why = f"its process ended with {process.exitcode}; the same command goes on with it"
                found.append(Outcome(cell, "failed", why, exit_code=5))
            else:
                self._idle.append((process, pipe))
        return found

    def close(self) -> None:
        """No process of this pool is left."""
        for pipe, (process, _) in self.running.items():
            self._idle.append((process, pipe))
        for process, pipe in self._idle:
            pipe.close()
            process.kill()
            process.join()

    def _started(self) -> tuple[BaseProcess, Connection]:
        spawn = get_context("spawn")
        ours, theirs = spawn.Pipe()
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))  # read when a process begins
        try:
            process = spawn.Process(target=_serve, args=(theirs, self._out, self._unsigned), daemon=True)
            process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        return process, ours


def _serve(pipe: Connection, out: Path, unsigned: bool) -> None:  # noqa: FBT001 - what a process is started with
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    kept = Kept()
    while True:
        try:
            cell, loaded = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(perform(cell, loaded, out, kept, unsafe_unsigned=unsigned))
        except Exception as bug:  # noqa: BLE001 - a bug in one run is told, and ends no other
            traceback.print_exc()
            pipe.send(Outcome(cell, "failed", f"a bug in securefl: {type(bug).__name__}: {bug}", exit_code=70))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "this process was started by another"
    wait([parent.sentinel])
    os._exit(1)
