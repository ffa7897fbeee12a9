"""One request at a time for each run of a site, and one training at a time for all of them; how far it is may be asked.

A site may be asked by several connections at once: a coordinator that lost one asks again, or goes on with a later
round. Whoever comes while a run is worked on is told so, and may ask again. Nothing is trained twice for it, and
nothing is written down. A training whose round goes on without it ends after the step that it is in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from securefl.protocol import messages as m
from securefl.runtime.answering import Leaving
from securefl.terms import Receipt, RunId


class RoundOver(Exception):
    """The coordinator went on without this training, or the site gives it no more time; ``done`` steps had begun."""

    def __init__(self, done: int, steps: int, *, late: bool = False) -> None:
        self.done = done
        what = "the round takes longer than this site lets it" if late else "the round went on without this site"
        super().__init__(f"{what}, after {done} of {steps} steps; what ran is paid for")


def never() -> bool:
    """A training that may take as long as it takes."""
    return False


@dataclass(slots=True)
class Turn:
    """One request that is worked on."""

    request: Receipt
    done: int = 0
    steps: int = 0
    over: bool = False  # the coordinator has gone past it
    late: Callable[[], bool] = never  # whether the site gives it no more time

    def progress(self) -> m.InProgress:
        """Say how far it is."""
        return m.InProgress.coarse(self.done, self.steps)


class Turns:
    """Who may work now, of all threads of one process. Processes of one site exclude each other by its home."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, RunId], Turn] = {}
        self._model = threading.RLock()  # reentrant: a node's training may hold that of a federation below, here
        self._training: Turn | None = None
        self._leaving = False

    @contextmanager
    def taken(self, federation: str, request: Receipt) -> Iterator[Turn | m.InProgress]:
        """Take this run's turn; or say how far the request is that has it.

        A request of a later round, or one to close, tells the one under way that its round is over. ``request`` must be
        authentic, and of the coordinator of ``federation``: no other may end a training, or hear how far it is.
        """
        place = federation, request.run
        with self._lock:
            other = self._under_way.get(place)
            mine = Turn(request)
            if other is None:
                self._under_way[place] = mine
            elif request.kind == m.Close.__name__ or request.round > other.request.round:
                other.over = True
        if other is not None:
            yield other.progress()
            return
        try:
            yield mine
        finally:
            with self._lock:
                del self._under_way[place]

    def progress(self, federation: str, run: RunId) -> m.InProgress:
        """Say how far the request is that is worked on for this federation's run, if any."""
        with self._lock:
            turn = self._under_way.get((federation, run))
        return m.InProgress(0, 0) if turn is None else turn.progress()

    @contextmanager
    def model(self) -> Iterator[None]:
        """Have the model alone: another run of this site may want it, too."""
        with self._model:
            yield

    @contextmanager
    def training(self, turn: Turn, steps: int, late: Callable[[], bool] = never) -> Iterator[None]:
        """Have the model alone, to train ``steps`` steps for this turn, until it is ``late``.

        Raises:
            RoundOver: the round went on meanwhile, or has no more time; no record was read.
        """
        with self._model:
            before, self._training, turn.steps, turn.late = self._training, turn, steps, late
            try:
                self._go_on(turn, 0)
                yield
            finally:
                self._training = before

    def step(self, done: int, steps: int) -> None:
        """Note one more step of the training under way. A trainer calls this after each.

        Raises:
            RoundOver: the round goes on without it, or the site gives it no more time.
            Leaving: this process ends.
        """
        turn = self._training
        if turn is None:
            return
        turn.done, turn.steps = done, max(done, steps)
        if done < steps:  # what is all done may as well be answered
            self._go_on(turn, done)

    def leave(self) -> None:
        """End every training of this process after the step that it is in; their reservations stand."""
        self._leaving = True

    @property
    def idle(self) -> bool:
        """Whether no request is worked on."""
        with self._lock:
            return not self._under_way

    def _go_on(self, turn: Turn, done: int) -> None:
        if self._leaving:
            raise Leaving
        if turn.over or turn.late():
            raise RoundOver(done, turn.steps, late=not turn.over)
