"""Files and folders that only the user who runs this may read or change. Every key, database and home is one.

A home's files are as safe as its folder: it is made for its owner alone, and so is each of them, whatever the umask.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from securefl.errors import OperatorFault

FOLDER, FILE = 0o700, 0o600
LOCK = ".lock"  # of a run's folder: who holds it has the folder
UNFINISHED = re.compile(r"(?P<file>.+)\.[0-9a-f]{8}\.new")  # what a file is called until it is whole


def check(path: Path) -> None:
    """Refuse a file or folder that others may use, or that a link only points to; one that is absent passes.

    Raises:
        OperatorFault: it is a link, another user owns it, or group or others may read, write or enter it.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as fault:
        raise OperatorFault(
            f"cannot be looked at: {fault.strerror}", "choose a place you may use", str(path)
        ) from fault
    if stat.S_ISLNK(found.st_mode):
        raise OperatorFault("a symbolic link", f"run: rm {path}; and put what it points to in its place", str(path))
    folder = stat.S_ISDIR(found.st_mode)
    if not folder and not stat.S_ISREG(found.st_mode):
        raise OperatorFault("neither a file nor a folder", "move it away", str(path))
    if found.st_uid != os.geteuid():
        what = f"user {found.st_uid} owns it, and user {os.geteuid()} runs this"
        raise OperatorFault(what, f"run as its owner, or run: chown {os.geteuid()} {path}", str(path))
    if found.st_mode & 0o077:
        may = "others may enter this home" if folder else "others may read this file"
        raise OperatorFault(may, f"run: chmod {FOLDER if folder else FILE:o} {path}", str(path))


def folder(path: Path) -> None:
    """Make the folder, with those above it that are missing, for this user alone; check one that is there.

    Raises:
        OperatorFault: it cannot be made, or is not this user's alone.
    """
    try:
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=FOLDER, exist_ok=True)
    except OSError as fault:
        what = f"cannot make a home here: {fault.strerror}"
        raise OperatorFault(what, "choose a folder you may write", str(path)) from fault
    check(path)
    if not path.is_dir():
        raise OperatorFault("a file where a folder belongs", "choose another folder", str(path))


def file(path: Path) -> None:
    """Make the file, empty, for this user alone; check one that is there.

    Raises:
        OperatorFault: it is not this user's alone.
        OSError: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE))
    except FileExistsError:
        check(path)


def read(path: Path) -> bytes | None:
    """Return what the file holds; None if there is none.

    Raises:
        OperatorFault: it is not this user's alone.
    """
    check(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(path: Path, data: bytes) -> None:
    """Write the file, whole and on the disk or as it was, for this user alone; another process may write it now, too.

    The folder is on the disk as well: else a power cut could bring the old file back after this has returned.

    Raises:
        OSError: it cannot be written.
    """
    with beside(path, data) as whole:
        whole.replace(path)
        names_on_disk(path.parent)


@contextmanager
def beside(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a file with these bytes, whole and on the disk, that is to get the name ``path``; it is gone afterwards.

    Whoever is killed meanwhile leaves it to ``clear``, which waits for whoever is not: the file is locked.

    Raises:
        OSError: it cannot be written.
    """
    while True:
        place = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        with os.fdopen(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, FILE), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # cleared before it was locked
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield place
            finally:
                _discard(place)
            return


def clear(path: Path) -> None:
    """Erase what processes that were killed left of files they had not finished: of this one, or of all in a folder.

    Raises:
        OSError: it cannot be looked at or erased.
    """
    if path.is_dir():
        places = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    else:
        places = list(path.parent.glob("*.new"))
    for place in places:
        name = UNFINISHED.fullmatch(place.name)
        if name is not None and (path.is_dir() or name["file"] == path.name) and not place.is_symlink():
            with suppress(FileNotFoundError), place.open("rb") as unfinished:  # another process may finish it now
                fcntl.flock(unfinished, fcntl.LOCK_EX)
                _discard(place)


def _discard(place: Path) -> None:
    """Erase a file that is not needed, if it has this name still; with a second name, its bytes are that one's."""
    with suppress(FileNotFoundError):
        if place.stat().st_nlink == 1:
            erase(place)
        else:
            place.unlink()


def names_on_disk(folder: Path) -> None:
    """Have the names of a folder's files outlive a power cut, as their contents do.

    Raises:
        OSError: they could not be written.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def erase(path: Path) -> None:
    """Overwrite a secret where it lies, then remove its file.

    As far as it goes: a disk that moves what it rewrites, a snapshot or a backup may still have the old bytes.
    """
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as opened:
        opened.write(os.urandom(size))
        os.fsync(opened.fileno())
    path.unlink()


@contextmanager
def written_over(path: Path) -> Iterator[None]:
    """Overwrite what lies at ``path`` now, once the block has put something else there; not if the block fails."""
    with path.open("r+b", buffering=0) as old:
        size = os.fstat(old.fileno()).st_size
        yield
        old.write(os.urandom(size))
        os.fsync(old.fileno())


def keep(path: Path, data: bytes) -> None:
    """Write the file as ``write`` does, unless it holds exactly that already.

    Raises:
        OperatorFault: it is there, and not this user's alone.
        OSError: it cannot be written.
    """
    if read(path) != data:
        write(path, data)


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Hold this lock while the block runs, once whoever has it is through.

    Raises:
        OperatorFault: others may read or write the file.
    """
    file(lock)
    with lock.open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)  # also for a process that was forked meanwhile and has the file, too


@contextmanager
def alone_in(out: Path, doing: str) -> Iterator[None]:
    """Make the folder of a run, and keep every other process out while the block runs.

    Args:
        out: the folder that a command was given as ``--out``.
        doing: what another process is told to be doing there, such as ``running``.

    Raises:
        OperatorFault: it cannot be written, or another process has it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a")
    except OSError as fault:
        raise OperatorFault(f"cannot write there: {fault.strerror}", "choose another --out", str(out)) from fault
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            what, remedy = f"another process is {doing} there", "wait for it, or choose another --out"
            raise OperatorFault(what, remedy, str(out)) from fault
        yield
