"""What is long in a saved state: adapter states, payloads, messages. Each body is written once, to a file of the home.

A saved state refers to its bodies, and they to theirs. With each reference goes the body's own random key, so a body
opens for as long as a state refers to it. Files are on the disk before the transaction that refers to them commits, and
are removed after the one that no longer does. Those of a process that ended between go with the run's next step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from securefl import files, keys, wire
from securefl.errors import Forged, OperatorFault, Tampered
from securefl.terms import RunId

FOLDER: Final = "bodies"
WHOLE: Final = 1 << 16  # bytes: a state whose bodies are shorter than this together has none, and stands in its row
ALONE: Final = 1 << 15  # bytes, sealed, from which on a body has a file of its own, to be removed by itself
NAME: Final = 8  # random bytes
REMEDY: Final = "free some space, or make the folder writable; nothing was lost, and the same command goes on from here"


class Body(NamedTuple):
    """Where a body is, and the key it alone is sealed under."""

    file: bytes
    start: int
    size: int  # bytes, sealed
    key: bytes

    def __repr__(self) -> str:
        """Show everything but the key."""
        return f"Body({self.file.hex()}, {self.start}, {self.size})"


class Cut(NamedTuple):
    """A byte string, its pieces as they are or as bodies, and those bodies by their digests."""

    data: bytes
    pieces: tuple[bytes | Body, ...]
    bodies: Mapping[bytes, Body]


@dataclass(frozen=True, slots=True)
class Known:
    """A state that was saved or loaded, with its bodies by their digests."""

    root: Body
    state: object
    bodies: Mapping[bytes, Body]
    cuts: Mapping[int, Cut]  # of each byte string, by its identity

    @property
    def alone(self) -> Known:
        """The same without what shares a file: the rest of that file can go, then."""
        return replace(self, bodies={name: body for name, body in self.bodies.items() if body.size >= ALONE}, cuts={})


@dataclass(frozen=True, slots=True)
class Bodies:
    """The files of one run in one home. The home's lock lets one transaction at a time use them."""

    folder: Path
    context: bytes

    @classmethod
    def of(cls, home: Path, owner: str, run: RunId) -> Bodies:
        """Name the files of this run in this home."""
        return cls(home / FOLDER / run.hex(), wire.encode((FOLDER, bytes(run), owner)))

    def save(self, state: object, before: Known | None) -> Known | None:
        """Write what of this state is not written yet; None if it is too short to have bodies.

        Args:
            before: the state that stands, whose bodies are not written again.

        Raises:
            OperatorFault: a file cannot be written.
        """
        saving = _Saving(self.context, before)
        data = wire.encode_apart(state, saving.string, saving.encoding)
        if sum(body.size for body in saving.bodies.values()) < WHOLE:
            return None
        root = saving.body(data)
        try:
            saving.write(self.folder)
        except OSError as fault:
            raise OperatorFault(f"cannot be written: {fault.strerror}", REMEDY, str(self.folder)) from fault
        return Known(root, state, saving.bodies, saving.cuts)

    def load(self, root: Body, expected: Any) -> Known:  # noqa: ANN401 - a union of states
        """Read a state that was saved.

        Raises:
            Tampered: a body is gone or altered.
            Malformed: the state is not of the expected type.
        """
        bodies, opened = dict[bytes, Body](), dict[Body, bytes]()

        def get(reference: wire.Reference) -> bytes:
            body = Body(*reference)
            if body not in opened:
                opened[body] = self._open(body)
                bodies[_digest(opened[body])] = body
            return opened[body]

        return Known(root, wire.decode_apart(get(root), expected, get), bodies, {})

    def keep(self, known: Known | None) -> None:
        """Remove every file that this state does not refer to."""
        if not self.folder.exists():
            return
        kept = set[str]() if known is None else {body.file.hex() for body in known.bodies.values()}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        if not kept:
            with suppress(OSError):
                self.folder.rmdir()

    def _open(self, body: Body) -> bytes:
        path = self.folder / body.file.hex()
        files.check(path)
        try:
            with path.open("rb") as file:
                file.seek(body.start)
                return keys.open_at_rest(keys.Secret(body.key), self.context, file.read(body.size))
        except FileNotFoundError as fault:
            raise Tampered(str(path), "gone, and the state of a run refers to it") from fault
        except Forged as fault:
            raise Tampered(str(path), "altered: a part of the state of a run does not open") from fault


class _Saving:
    """One state on its way to the disk."""

    def __init__(self, context: bytes, before: Known | None) -> None:
        self._context, self._before = context, before
        self._shared = os.urandom(NAME)  # the file of this step's shorter bodies
        self._new = dict[bytes, bytearray]()  # files, by their names
        self.bodies = dict[bytes, Body]()
        self.cuts = dict[int, Cut]()

    def string(self, data: bytes) -> tuple[bytes | Body, ...]:
        """Keep the long pieces of a byte string; one that stood in the state before is neither cut nor hashed again."""
        if len(data) < wire.LONG:
            return (data,)
        cut = self.cuts.get(id(data)) or (self._before.cuts.get(id(data)) if self._before else None)
        if cut is None or cut.data is not data:
            cut = self._cut(data)
        self.bodies |= cut.bodies
        self.cuts[id(data)] = cut
        return cut.pieces

    def _cut(self, data: bytes) -> Cut:
        pieces, bodies = list[bytes | Body](), dict[bytes, Body]()
        for piece in wire.cut(data):
            if len(piece) < wire.LONG:
                pieces.append(piece)
            else:
                digest = _digest(piece)
                bodies[digest] = self._body(digest, piece)
                pieces.append(bodies[digest])
        return Cut(data, tuple(pieces), bodies)

    def encoding(self, data: bytes) -> Body | None:
        """Keep a long encoding."""
        return None if len(data) < wire.LONG else self.body(data)

    def body(self, data: bytes) -> Body:
        """Refer to a body, and seal it if nothing that stands has it."""
        return self._body(_digest(data), data)

    def _body(self, digest: bytes, data: bytes) -> Body:
        body = self.bodies.get(digest) or (self._before.bodies.get(digest) if self._before else None)
        self.bodies[digest] = self._sealed(data) if body is None else body
        return self.bodies[digest]

    def _sealed(self, data: bytes) -> Body:
        key = os.urandom(32)
        sealed = keys.seal_at_rest(keys.Secret(key), self._context, data, os.urandom(12))
        name = self._shared if len(sealed) < ALONE else os.urandom(NAME)
        file = self._new.setdefault(name, bytearray())
        body = Body(name, len(file), len(sealed), key)
        file += sealed
        return body

    def write(self, folder: Path) -> None:
        """Write the new files, and have them and their names on the disk."""
        if not self._new:
            return
        for each in (folder.parent, folder):
            if not each.exists():
                files.folder(each)
                files.names_on_disk(each.parent)
        files.check(folder)
        for name, data in self._new.items():
            place = folder / name.hex()
            with os.fdopen(
                os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, files.FILE), "wb"
            ) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        files.names_on_disk(folder)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
