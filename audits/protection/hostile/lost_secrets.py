"""Does a secret stay what it was? It is lost while exchanged, replaced by a stranger's, or used for two messages."""

from __future__ import annotations

import errno
import hmac
import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from unittest import mock

from audits.protection.attempt import Attempt, Outcome
from securefl import key_files, keys, passphrases, wire
from securefl.cli.keys import keys_encrypt
from securefl.errors import OperatorFault, PeerFault
from securefl.home import adoption, identity, ring
from securefl.home.home import Home
from securefl.keys import Identity, Secret
from securefl.policy import approvals, load
from securefl.protection import key_shares
from securefl.protocol.key_line import KeyLine
from securefl.site import charged_records, key_share
from securefl.terms import Hash, MemberId, Participant, PublicKey
from securefl.terms.parties import CUSTODIAN
from tests.support import audited

PASSPHRASE = b"of this home"
NAMES = tuple(MemberId(each) for each in ("north", "south", "west", "east"))


def _drawn(number: int) -> random.Random:
    return random.Random(number)  # noqa: S311 - to be repeated


# Exchanged.


@contextmanager
def _ending(drawn: random.Random) -> Iterator[None]:
    """Some call that changes a file fails: the disk is full, or the process was killed there."""
    left = drawn.randint(1, 6)

    def full(real: Callable[..., object]) -> Callable[..., object]:
        def called(*given: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "no space left")
            return real(*given, **more)

        return called

    names = ("link", "unlink", "replace", "fsync", "open", "urandom")
    with mock.patch.multiple(os, **{name: full(getattr(os, name)) for name in names}), suppress(OSError):
        yield


def _exchanged(drawn: random.Random, path: Path) -> None:
    """The command that the message advises, again and again."""
    for _ in range(drawn.randint(2, 4)):
        with _ending(drawn):
            held = key_files.secret(path, PASSPHRASE)
            key_files.exchange(path, key_files.encrypted(held, PASSPHRASE) if drawn.random() < 1 / 2 else held.raw)


def another_identity(number: int, folder: Path) -> Outcome:
    """A disk that is full turns an identity into another one, under whose name nothing was ever spent."""
    path, drawn = folder / "identity.key", _drawn(number)
    before = key_files.load_or_create(path).public
    _exchanged(drawn, path)
    try:
        after = Identity(key_files.secret(path, PASSPHRASE)).public
    except OperatorFault:
        return Outcome(succeeded=False, stopped_by="key.not-readable")
    return Outcome(succeeded=after != before, stopped_by="" if after != before else "key.exchange-is-whole")


def new_records(number: int, folder: Path) -> Outcome:
    """The key that charged records are known by is exchanged, lost or replaced: they come back under another name."""
    drawn, home = _drawn(number), Home.at(folder / "home", MemberId("north"), lambda: 0)
    forms = [drawn.randbytes(20) for _ in range(9)]
    charged_records.remember(home, "letters", forms)
    path, kind = home.path / charged_records.KEY, drawn.randrange(3)
    if kind == 0:
        _exchanged(drawn, path)
        held = key_files.secret(path, PASSPHRASE)
        key_files.exchange(path, held.raw)
    elif kind == 1:
        path.unlink()
    else:
        path.write_bytes(drawn.randbytes(key_files.SECRET))
    try:
        charged_records.check(home.path, "other-name", drawn.sample(forms, 3))
        charged_records.remember(home, "other-name", drawn.sample(forms, 3))
    except OperatorFault as fault:
        stopped = "site.other-account" if "say `dataset:" in str(fault) else "site.key-of-records-lost"
        return Outcome(succeeded=False, stopped_by=stopped)
    finally:
        home.engine.dispose()
    return Outcome(succeeded=True, stopped_by="")


# Shares of a decryption key.


def _homes(folder: Path) -> dict[MemberId, Home]:
    return {name: Home.at(folder / name, name, lambda: 0) for name in NAMES}


def _lines(home: Home, custodian: Identity) -> list[KeyLine]:
    return [home.key_line("f", Participant(CUSTODIAN, custodian.public, ""))]


def _dealt(homes: dict[MemberId, Home], key: Hash, threshold: int, by: Identity, drawn: random.Random) -> bytes:
    boxes = {name: keys.public_half(home.identity.box) for name, home in homes.items()}
    vault, shares = key_shares.split(b"the key", key, threshold, boxes, by, Secret(drawn.randbytes(32)))
    for name, home in homes.items():
        key_share.keep(home, _lines(home, by), shares[name], "share")
    return vault


def share_replaced(number: int, folder: Path) -> Outcome:
    """A custodian of another federation deals shares under the name of this one's key: this one's key is lost."""
    drawn, homes = _drawn(number), _homes(folder)
    own, other = (Identity(Secret(drawn.randbytes(32))) for _ in range(2))
    key, threshold = Hash(drawn.randbytes(32)), drawn.randint(2, 4)
    vault = _dealt(homes, key, threshold, own, drawn)
    _dealt(homes, key, drawn.randint(2, 4), other, drawn)

    def gather(request: bytes) -> Iterator[bytes]:
        for home in homes.values():
            with suppress(PeerFault):  # a member that does not answer
                yield key_share.answer(home, _lines(home, own), request)

    try:
        whole = key_shares.assemble(vault, own, gather, Secret(drawn.randbytes(32)))
    except OperatorFault:
        return Outcome(succeeded=True, stopped_by="")
    return Outcome(succeeded=whole != b"the key", stopped_by="share.of-its-custodian")


def share_read(number: int, folder: Path) -> Outcome:
    """Two members know their shares of a key that was split for more; one request is asked again after a new split.

    What they lack is a share of the new split: the sum of two answers to one request is that of two shares, if both
    are under one key.
    """
    drawn, homes = _drawn(number), _homes(folder)
    custodian, key = Identity(Secret(drawn.randbytes(32))), Hash(drawn.randbytes(32))
    box = keys.public_half(Secret(drawn.randbytes(32)))
    asked = wire.encode(key_shares.Request(key, box, custodian.sign("key-share-request", key + box)))
    victim, given, opened = homes[NAMES[0]], list[bytes](), list[bytes]()
    for threshold in (2, drawn.randint(3, 4)):
        _dealt(homes, key, threshold, custodian, drawn)
        answered = key_share.answer(victim, _lines(victim, custodian), asked)
        answer: key_shares.Answer = wire.decode(answered, key_shares.Answer)
        given.append(answer.box)
        opened.append(_share_of(victim, custodian.public, key))
    seen = bytes(a ^ b for a, b in zip(given[0][32:-16], given[1][32:-16], strict=True))
    guess = bytes(a ^ b for a, b in zip(seen, opened[0], strict=True))  # the old one follows from two old shares
    return Outcome(succeeded=guess == opened[1], stopped_by="share.a-key-for-each-answer")


def _share_of(home: Home, custodian: PublicKey, key: Hash) -> bytes:
    """What the home's own box opens: to judge an attack by."""
    path = home.path / key_share.FOLDER / custodian.hex() / f"{key.hex()}{key_share.SUFFIX}"
    held: key_shares.Share = wire.decode(path.read_bytes(), key_shares.Share)
    return keys.open_box(home.identity.box, "key-share", key, held.box)


# What is kept of what was shown.


def policies_blocked(number: int, folder: Path) -> Outcome:
    """Policies with revocations that nobody named made are shown until the federation's own can be read no more."""
    drawn, home = _drawn(number), Home.at(folder / "home", MemberId("north"), lambda: audited.NOW)
    good = load.parse(audited.POLICY.encode(), "policy.yaml")
    for _ in range(2):
        text = audited.POLICY.replace("version: 1", f"version: {drawn.randint(1, 1)}") + f"# {drawn.random()}\n"
        shown = load.parse(text.encode(), "policy.yaml")
        about = drawn.choice([good, shown])
        forged = tuple(
            approvals.Signature(
                approvals.Statement(
                    approvals.Kind.REVOCATION, about.hash, about.federation, about.version,
                    PublicKey(drawn.randbytes(32)), audited.NOW, audited.NOW,
                ),
                drawn.randbytes(64),
            )
            for _ in range(1200)
        )  # fmt: skip
        with suppress(OperatorFault, approvals.Unapproved):
            adoption.propose(home, shown, forged)
    kept = sum(path.stat().st_size for path in home.path.rglob("*.json") if adoption.REVOKED.name in str(path))
    try:
        adoption.propose(home, good, ())
    except OperatorFault:
        return Outcome(succeeded=True, stopped_by="")
    finally:
        home.engine.dispose()
    return Outcome(succeeded=kept > 0, stopped_by="approvals.forged-is-not-kept")


# Drawn.


def found_on_disk(number: int, folder: Path) -> Outcome:
    """Whoever has the disk of a home whose passphrase is typed at a terminal asks whether somebody is in it."""
    drawn, record, account = _drawn(number), _drawn(number).randbytes(20), "d"
    home = Home.at(folder / "home", NAMES[0], lambda: audited.NOW)
    with (
        mock.patch.object(key_files, "COST", 2),
        mock.patch.object(passphrases, "_read_once", {}),
        mock.patch.object(passphrases, "getpass", return_value=(PASSPHRASE * 2).decode()),
        mock.patch.object(passphrases.sys, "stdin", mock.Mock(isatty=mock.Mock(return_value=True))),
    ):
        if drawn.random() < 1 / 2:  # it was drawn before
            charged_records.remember(home, account, [b"another"])
        if drawn.random() < 1 / 2:
            ring.drawn(home.path)
        with redirect_stdout(io.StringIO()):
            keys_encrypt(home.path / drawn.choice(("", identity.NAME)))
        charged_records.remember(home, account, [record])
    home.engine.dispose()
    written = [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    known = b"".join(written)
    told = any(hmac.digest(each, record, "sha256")[: charged_records.SIZE] in known for each in written)
    clear = any(not key_files.is_encrypted(path) for path in identity.secrets(home.path))
    return Outcome(succeeded=told or clear, stopped_by="keys.encrypted")


ATTEMPTS = (
    Attempt("a full disk turns a site's identity into another", another_identity),
    Attempt("charged records are new once the key they are known by was lost", new_records),
    Attempt("another federation's custodian deals over this one's shares", share_replaced),
    Attempt("a share is read from two answers to one request", share_read),
    Attempt("who has the disk of a home whose passphrase is typed asks who is in its records", found_on_disk),
    Attempt("revocations that nobody made keep a federation's policies out", policies_blocked),
)
