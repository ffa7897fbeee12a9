"""What left each party, looked at as it left: a bench's own eyes, for one person runs all of its sites.

Facts are lines in a file of the run's folder, each written before the message it is about goes on. None depends on how
many records anybody has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from securefl import wire
from securefl.errors import PeerFault
from securefl.ledger import export
from securefl.protection import mask_streams, packing
from securefl.protocol import messages as m
from securefl.seams import Failure, MemberProtection, Runtime, Waiting
from securefl.terms import MemberId, Plan, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 16  # bytes of a record that are its mark: words of a protocol's own are shorter, or stood in the request
KEPT = 1 << 22  # marks that are held at once; of more text, an even share by their hash
PIECE = 1 << 20  # bytes that are looked at together
VALUES = 8  # consecutive entries of an update that are its mark


class Marks:
    """Every ``WINDOW`` bytes of some texts, as 64-bit hashes."""

    def __init__(self, texts: Iterable[str]) -> None:
        given = [text.encode() for text in texts]
        self._stride = np.uint64(1 + sum(map(len, given)) // KEPT)
        parts = [self._kept(_hashes(data)) for data in given]
        self._sorted = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
        self._first = np.zeros(1 << 20, np.bool_)
        self._first[self._sorted >> np.uint64(44)] = True

    def within(self, data: bytes) -> NDArray[np.uint64]:
        """The marks that stand in ``data``."""
        found = [np.empty(0, np.uint64)]
        for start in range(0, len(data), PIECE):
            hashes = self._kept(_hashes(data[start : start + PIECE + WINDOW - 1]))
            found.append(hashes[self._first[hashes >> np.uint64(44)]])
        hashes = np.concatenate(found)
        places = np.searchsorted(self._sorted, hashes)
        places[places == len(self._sorted)] = 0
        return hashes[self._sorted[places] == hashes] if len(self._sorted) else hashes[:0]

    def _kept(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashes[hashes % self._stride == 0] if self._stride > 1 else hashes


def _hashes(data: bytes) -> NDArray[np.uint64]:
    """One hash for each place in ``data`` where ``WINDOW`` bytes begin."""
    count = len(data) - WINDOW + 1
    if count < 1:
        return np.empty(0, np.uint64)
    words = np.empty(count + 8, np.uint64)
    for offset in range(8):
        part = words[offset::8]
        part[:] = np.frombuffer(data, "<u8", len(part), offset)
    mixed = words[:count] * np.uint64(0x9E3779B97F4A7C15) ^ words[8:] * np.uint64(0xC2B2AE3D27D4EB4F)
    hashed: NDArray[np.uint64] = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
    return hashed


def readable(payload: bytes, values: NDArray[np.float64], fraction_bits: int, width: int = 32) -> bool:
    """Return whether entries of an update stand in ``payload`` as they are: as numbers, or as integers of the grid.

    Integers may also be packed, ``width`` bits each: as many as are looked at together fill whole bytes.
    """
    grid = np.rint(values * float(1 << fraction_bits))
    for start in range(0, len(values) - VALUES + 1, VALUES):
        part = grid[start : start + VALUES]
        if np.count_nonzero(part) * 2 < VALUES:
            continue  # zeros say nothing
        whole = (part.astype("<i8"), part.astype("<i8").astype("<i4"))
        if packing.pack(whole[0].view("<u8"), width) in payload:
            return True
        if any(form.tobytes() in payload for form in (*whole, part.astype("<f4"), part.astype("<f8"))):
            return True
        real = values[start : start + VALUES]
        if real.astype("<f4").tobytes() in payload or real.astype("<f8").tobytes() in payload:
            return True
        if start >= VALUES * 32:  # an update that is there, is there from its beginning
            break
    return False


class LeakageProbe:
    """Looks at what passes, and writes down what it sees."""

    def __init__(self, path: Path, texts: Iterable[str]) -> None:
        self._path, self._marks = path, Marks(texts)

    def runtime(self, inner: Runtime) -> Runtime:
        """The same runtime, every answer looked at before it goes on."""
        return _Tapped(inner, self)

    def half(self, inner: MemberProtection) -> MemberProtection:
        """The same half of a scheme, everything it seals held against the update it is of."""
        watched: Any = _Watched(inner, self)  # it delegates what it does not do itself
        return cast("MemberProtection", watched)

    def entropy(self, inner: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """The same source of seeds; where they come from and how few bits one has is noted."""
        least = 1 << 32

        def drawn(size: int) -> bytes:
            nonlocal least
            if size < least:
                least = size
                source = "os.urandom" if inner is os.urandom else "given to the run"
                self.note(what="seed", source=source, bits=8 * size)
            return inner(size)

        return drawn

    def look(self, sender: MemberId, request: bytes, answer: bytes) -> None:
        """Write down whether text of a record stands in an answer, and did not in what was asked."""
        try:
            frame: m.Frame = wire.decode(answer, m.Frame)
        except PeerFault:
            return  # no message: whoever reads it refuses it, and nobody has a receipt for it
        found = self._marks.within(answer)
        if len(found):
            found = np.setdiff1d(found, self._marks.within(request))
        digest = hashlib.sha256(frame.envelope.body).hexdigest()
        self.note(what="message", sender=str(sender), digest=digest, records=bool(len(found)))

    def exported(self, folder: Path) -> None:
        """Write down whether text of a record stands in the ledgers that were copied there."""
        for path in sorted(folder.iterdir()):
            found, head = bool(len(self._marks.within(path.read_bytes()))), export.read(path).head.head
            self.note(what="ledger", name=path.name, size=head.size, root=head.root.hex(), records=found)

    def note(self, **fact: Any) -> None:  # noqa: ANN401 - plain values
        """One line more."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fact, sort_keys=True) + "\n")


class _Tapped:
    def __init__(self, inner: Runtime, tap: LeakageProbe) -> None:
        self._inner, self._tap = inner, tap

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """As the runtime does; each answer is looked at before it goes on."""
        asked = list(outbound)
        requests = dict(asked)
        for sender, answer in self._inner.exchange(asked, waiting):
            if not isinstance(answer, Failure):
                self._tap.look(sender, requests[sender], answer)
            yield sender, answer


class _Watched:
    def __init__(self, inner: MemberProtection, tap: LeakageProbe) -> None:
        self._inner, self._tap = inner, tap

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the half's own attribute
        return getattr(self._inner, name)

    def seal(self, me: MemberId, plan: Plan, *rest: Any) -> tuple[bytes, bytes]:  # noqa: ANN401 - as the seam says
        """As the half does; what comes out is held against the update."""
        payload, kept = self._inner.seal(me, plan, *rest)
        update = next(each for each in rest if isinstance(each, Update))
        seen = readable(payload, update.values, plan.cover.encoding.fraction_bits, mask_streams.sum_bits(plan))
        self._tap.note(what="result", member=str(me), plan=wire.plan_hash(plan).hex(), readable=seen)
        return payload, kept
