"""A courier between a coordinator's folder and one party's machine: it copies packages, and may meddle with them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from securefl.home.home import Home
from securefl.runtime.answering import Handler
from securefl.runtime.courier_packages import packages_in
from securefl.site.carry import answer_all
from securefl.terms import MemberId, PublicKey
from securefl.wire import LIMIT_BYTES

Meddle = Callable[[str, Path, Path], None]  # whose courier, the package on its medium, where it is carried


def lay(package: Path, folder: Path) -> None:
    """Put a copy of a package into a folder, whole."""
    beside = folder / f".{package.name}"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(package, beside)
    shutil.rmtree(folder / package.name, ignore_errors=True)
    beside.rename(folder / package.name)


class Walk:
    """One party and its courier, until ``end``. Each package is answered by a thread: a site may be asked meanwhile."""

    def __init__(
        self, name: str, party: Handler, home: Home, centre: Callable[[], tuple[PublicKey, ...]], carried: Path, meddle: Meddle,
        said: list[str],
    ) -> None:  # fmt: skip
        self.name, self.party, self.home, self.centre, self.meddle, self.said = name, party, home, centre, meddle, said
        self.to, self.back = carried / "to" / name, carried / "from" / name
        self.there, self.here = set[str](), set[str]()
        self.at_work, self.stop = list[threading.Thread](), threading.Event()
        self.thread = threading.Thread(target=self._walk)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        for each in (self.thread, *self.at_work):
            each.join()
        self.home.engine.dispose()

    def _walk(self) -> None:
        while not self.stop.wait(0.002):
            for package in self._carried(self.to, self.home.path / "taken", self.there):
                self.at_work.append(threading.Thread(target=self._answer, args=(package,)))
                self.at_work[-1].start()
            self._carried(self.home.path / "answers", self.back, self.here)

    def _carried(self, there: Path, here: Path, done: set[str]) -> list[Path]:
        """Copy what lies there and was not carried yet, one package after the other."""
        new = [each for each in packages_in(there) if each.name not in done]
        for package in new:
            medium = self.home.path / "medium" / package.name
            shutil.rmtree(medium, ignore_errors=True)
            with suppress(FileNotFoundError):  # its answer came meanwhile
                shutil.copytree(package, medium)
                done.add(package.name)
                self.meddle(self.name, medium, here)
                lay(medium, here)
        return [here / each.name for each in new if each.name in done]

    def _answer(self, package: Path) -> None:
        own = self.home.path / "answers"
        (handled,) = answer_all(
            self.party, self.home.identity, MemberId(self.name), self.centre(), package, own, most=LIMIT_BYTES
        )
        shutil.rmtree(package)
        if handled.refused:
            self.said.append(str(handled.refused))
            self.there.discard(package.name)  # its sender is asked for it again
