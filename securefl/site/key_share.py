"""A member's share of a decryption key: taken in from its custodian, and given to it again when it asks.

Shares travel sealed: to the member's box, which its card names, when they are dealt, and to the custodian's fresh one
when they are asked for. Nobody looks into another party's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from securefl import files, keys, wire
from securefl.errors import Forged, Malformed, OperatorFault
from securefl.home.home import Home
from securefl.protection import key_shares
from securefl.protocol import key_standing
from securefl.protocol.key_line import KeyLine
from securefl.seams import Failure, Runtime, Waiting
from securefl.site import custody
from securefl.terms import Hash, MemberId, Participant, PublicKey

FOLDER, SUFFIX = "key-shares", ".share"
PATIENCE_S = 600.0  # for members' answers: time enough to start their sites


def deal(
    file: Path, threshold: int, boxes: Mapping[MemberId, bytes], identity: keys.Identity, rand: keys.Secret, out: Path
) -> tuple[Path, ...]:
    """Split the key in ``file``; write each member's sealed share into ``out``, then erase the whole key.

    The shares are on the disk before the key is exchanged for its vault: a crash leaves the key whole, or all shares.

    Raises:
        OperatorFault: there is no key, it was split already, the threshold is none, or ``out`` cannot be written.
    """
    if custody.vault_of(file).is_file():
        remedy = "send the shares again from the folder they were dealt into"
        raise OperatorFault("the key was split already", remedy, str(custody.vault_of(file)))
    vault, shares = custody.dealt(file, threshold, boxes, identity, rand)
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = tuple(out / f"{member}{SUFFIX}" for member in shares)
        for path, share in zip(written, shares.values(), strict=True):
            files.write(path, share)
            path.chmod(0o644)  # sealed: it may lie where it is fetched
    except OSError as fault:
        raise OperatorFault(f"cannot be written: {fault.strerror}", "choose another --out", str(out)) from fault
    custody.exchange(file, vault)
    return written


def keep(home: Home, custodians: Iterable[KeyLine], data: bytes, place: str) -> key_shares.Statement:
    """Keep a share that one of these custodians dealt to this home's owner, once it opens and is the one committed to.

    Raises:
        OperatorFault: it is none, another party's, or dealt under a key that does not count now. Nothing was written.
    """
    remedy = "ask the custodian for this party's own"
    try:
        share: key_shares.Share = wire.decode(data, key_shares.Share)
        _, dealer = _speaker(custodians, lambda key: key_shares.check_dealt(share, key))
    except Malformed as fault:
        raise OperatorFault(str(fault), "give the file that the custodian sent", place) from fault
    except Forged as fault:
        what = f"no share that a custodian of this site dealt to {home.owner}: {fault}"
        raise OperatorFault(what, remedy, place) from fault
    if not any(key_shares.is_mine(home.owner, share, each.box, dealer.key) for each in home.identity.every):
        raise OperatorFault(f"no share that a custodian of this site dealt to {home.owner}", remedy, place)
    path = _place(home, dealer.key, share.statement.key)
    files.folder(path.parent)
    files.write(path, data)
    return share.statement


def answer(home: Home, custodians: Iterable[KeyLine], request: bytes) -> bytes:
    """This member's share, sealed to the request of one of these custodians.

    It may have been dealt under an earlier key of that custodian's line, and to an earlier key of this home's.

    Raises:
        Forged: none of them asks, or by a key that does not count now.
        PeerFault: no share of that key is here.
    """
    asked: key_shares.Request = wire.decode(request, key_shares.Request)
    line, asking = _speaker(custodians, lambda key: key_shares.check_asks(asked, key))
    boxes = [each.box for each in home.identity.every]
    for dealer in line.keys:
        data = files.read(_place(home, dealer, asked.key))
        if data is not None:
            return key_shares.answer(home.owner, data, boxes, request, asking.key, dealer)
    raise Forged("a request for a share that is not here")


def _speaker(custodians: Iterable[KeyLine], holds: Callable[[PublicKey], None]) -> tuple[KeyLine, Participant]:
    """The custodian that signed this, and its key, which counts in a federation of this site and is revoked in none.

    Raises:
        Forged: none signed it, or by a key that does not count.
    """
    counting, refused = list[tuple[KeyLine, Participant]](), list[Forged]()
    for line in custodians:
        with suppress(Forged):
            seat = line.author(holds)
            try:
                line.counts(seat)
                counting.append((line, seat))
            except Forged as fault:
                refused.append(fault)
    revoked = [
        fault for fault in refused if fault.rule == key_standing.REVOKED
    ]  # it was stolen, whoever goes on with it
    if counting and not revoked:
        return counting[0]
    raise next(iter((*revoked, *refused)), Forged("a request of nobody whom this site answers"))


def _place(home: Home, custodian: PublicKey, key: Hash) -> Path:
    """Where a share is kept: what one custodian calls its key takes no other custodian's place."""
    return home.path / FOLDER / custodian.hex() / f"{key.hex()}{SUFFIX}"


def asked_over(runtime: Runtime, members: Iterable[MemberId]) -> Callable[[Path], custody.Gather]:
    """The way to the shares of a custodian's key: its members are asked, each where it serves."""
    asked = tuple(members)

    def gather(request: bytes) -> Iterator[bytes]:
        for _, given in runtime.exchange([(member, request) for member in asked], Waiting(PATIENCE_S, time.monotonic)):
            if not isinstance(given, Failure):
                yield given

    return lambda _: gather
