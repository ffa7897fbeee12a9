"""Progress as a person sees it: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from securefl.shown import on_screen, plain
from securefl.telling import screen, tell

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """Told what happens, in order."""

    def say(self, text: str) -> None:
        """A thing worth a line."""
        ...

    def round(self, number: int, rounds: int, epsilon: float, limit: float) -> None:
        """A round is about to begin; this much is spent."""
        ...

    def step(self, member: str, done: int, steps: int) -> None:
        """A member did one more step."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def round(self, number: int, rounds: int, epsilon: float, limit: float) -> None:
        """Nothing."""

    def step(self, member: str, done: int, steps: int) -> None:
        """Nothing."""


class Under:
    """Tells of a federation below, by the way that leads there."""

    def __init__(self, inner: Progress, way: str) -> None:
        self._inner, self._way = inner, way

    def say(self, text: str) -> None:
        """The same, with its place."""
        self._inner.say(f"{self._way}: {text}")

    def round(self, number: int, rounds: int, epsilon: float, limit: float) -> None:
        """A line with its place: the bar is the root's."""
        self.say(f"round {number}/{rounds}  epsilon {epsilon:.3f} of {limit:g}")

    def step(self, member: str, done: int, steps: int) -> None:
        """The same, with its place."""
        self._inner.step(f"{self._way}/{member}", done, steps)


class Lines:
    """One plain line a round."""

    def say(self, text: str) -> None:
        """One line."""
        tell(text)

    def round(self, number: int, rounds: int, epsilon: float, limit: float) -> None:
        """One line."""
        self.say(f"round {number}/{rounds}  epsilon {epsilon:.3f} of {limit:g}")

    def step(self, member: str, done: int, steps: int) -> None:
        """Nothing: a line a step would be too many."""


def _console(out: TextIO) -> Console:
    """The terminal that is standard error, as wide as it is: rich asks the three standard files, and one is a pipe."""
    from rich.console import Console  # noqa: PLC0415

    columns = None
    if not os.isatty(0) and not os.isatty(1):
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(out.fileno()).columns or None
    return Console(file=out, width=columns, markup=False, emoji=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars if standard error is a terminal, lines if not."""
    out = screen()
    if not out.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=_console(out)) as bars:
        rounds_bar = bars.add_task("rounds", total=None)
        steps_bar = bars.add_task("", total=None, visible=False)

        class Shown:
            def say(self, text: str) -> None:
                bars.console.print(on_screen(text), highlight=False, markup=False, emoji=False)

            def round(self, number: int, rounds: int, epsilon: float, limit: float) -> None:
                told = f"round {number}/{rounds}, epsilon {epsilon:.3f} of {limit:g}"
                bars.update(rounds_bar, description=plain(told), completed=number - 1, total=rounds)

            def step(self, member: str, done: int, steps: int) -> None:
                bars.update(steps_bar, description=plain(member), completed=done, total=steps, visible=True)

        yield Shown()


class Tally(Protocol):
    """Told how many of many runs are over."""

    def say(self, text: str) -> None:
        """A thing worth a line."""
        ...

    def count(self, done: int, total: int, left_s: float | None) -> None:
        """So many are over; the rest may take this long."""
        ...


def _left(left_s: float | None) -> str:
    if left_s is None:
        return ""
    return f", about {left_s / 60:.0f} min left" if left_s >= 90 else f", about {left_s:.0f} s left"


class CountedLines:
    """Plain lines."""

    def say(self, text: str) -> None:
        """One line."""
        tell(text)

    def count(self, done: int, total: int, left_s: float | None) -> None:
        """One line."""
        self.say(f"{done} of {total} runs{_left(left_s)}")


@contextmanager
def tally() -> Iterator[Tally]:
    """A bar if standard error is a terminal, lines if not."""
    out = screen()
    if not out.isatty():
        yield CountedLines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("runs", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Bars(*columns, console=_console(out)) as bars:
        bar = bars.add_task("", total=None, left="")

        class Shown:
            def say(self, text: str) -> None:
                bars.console.print(on_screen(text), highlight=False, markup=False, emoji=False)

            def count(self, done: int, total: int, left_s: float | None) -> None:
                bars.update(bar, completed=done, total=total, left=_left(left_s).removeprefix(", "))

        yield Shown()
