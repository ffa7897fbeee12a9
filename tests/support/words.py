"""Whatever one member may say under its own key in place of what it should: one thing is changed, and signed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from securefl import merkle, wire
from securefl.protection.enrolments import roster_hash
from securefl.protection.masking_terms import Public, Revealed
from securefl.protocol import messages as m
from securefl.terms import Envelope, Hash, Receipt, SignedHead
from tests.support.worlds import identity, signed_head

WEAK = bytes(32)  # an X25519 key of low order
PAD = bytes(4096)  # far more than what an honest member says beside its vector
Draw = Callable[[st.SearchStrategy], object]


def own_heads(name: str) -> st.SearchStrategy[SignedHead | None]:
    """Of this party's own ledger, or said to be: older, of another ledger, far ahead, unsigned, none."""
    sizes, roots = st.sampled_from([0, 1, 2, 3, 5, 9, 20_000]), st.sampled_from([b"", b"x" * 32])
    own = st.builds(signed_head, st.just(name), sizes, roots)
    return st.none() | own | own.map(lambda head: replace(head, signature=bytes(64)))


def junk(value: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([b"", b"\0", value[:-1], value + b"\0", bytes(len(value)), b"\xff" * len(value), PAD])


def keys_of_a_round(name: str, data: bytes, draw: Draw) -> bytes:
    """An enrolment with one thing changed that stands in the open. What was dealt in boxes stays what it was."""
    if not data:
        return draw(junk(b"xx"))
    public: Public = wire.decode(data, Public)
    said = public.statement
    changes: list[Callable[[], Public | bytes]] = [
        lambda: draw(junk(data)),
        lambda: replace(
            public, statement=replace(said, round=draw(st.integers(-1, 9).filter(lambda n: n != said.round)))
        ),
        lambda: replace(public, statement=replace(said, threshold=said.threshold + draw(st.sampled_from([-1, 1, 9])))),
        lambda: replace(public, statement=replace(said, member=draw(st.sampled_from(["a", "mallory"])))),
        lambda: replace(public, statement=replace(said, run=bytes([1]) * 16)),
        lambda: replace(public, statement=replace(said, mask_key=draw(st.sampled_from([WEAK, b"", PAD])))),
        lambda: replace(public, statement=replace(said, seed=draw(st.sampled_from([b"", PAD])))),
        lambda: replace(public, statement=replace(said, roster=Hash(b"x" * 32))),
        lambda: replace(public, statement=replace(said, shares=Hash(b"x" * 32))),
        lambda: replace(public, commitments=draw(st.sampled_from([(), (PAD,), public.commitments[::-1]]))),
        lambda: replace(
            public,
            boxes=draw(
                st.sampled_from(
                    [{}, {**public.boxes, name: b"x" * 200}, {**public.boxes, "a": b""}, {**public.boxes, "a": PAD}]
                )
            ),
        ),  # fmt: skip
        lambda: to_others(public),
        lambda: padded(public),
    ]
    changed = draw(st.sampled_from(changes))()
    if isinstance(changed, bytes):
        return changed
    if draw(st.integers(0, 5)):
        changed = replace(changed, signature=identity(name).sign("mask-key", wire.encode(changed.statement)))
    else:
        changed = replace(changed, signature=bytes(64))
    return wire.encode(changed)


def to_others(public: Public) -> Public:
    """Dealt to a part of the roster, and stated so."""
    return stated(public, public.roster[:2], public.commitments[:2])


def padded(public: Public) -> Public:
    """Commitments that are too long, and stated so."""
    return stated(public, public.roster, (*public.commitments[:-1], PAD))


def stated(public: Public, roster: tuple[str, ...], commitments: tuple[bytes, ...]) -> Public:
    root = merkle.root(tuple(map(merkle.leaf_hash, commitments)))
    statement = replace(public.statement, roster=roster_hash(roster), shares=root)
    return replace(public, statement=statement, roster=roster, commitments=commitments)


def message(name: str, said: m.Reply, draw: Draw) -> m.Reply | bytes:
    """Another message of its kind; or bytes that are none."""
    if not draw(st.integers(0, 9)):
        return draw(junk(wire.encode(said)))
    if isinstance(said, m.Accept):
        others = signed_head("a", 1)  # which `a` has signed; what it never signed nobody can say under its key
        of_others = st.sampled_from([others, replace(others, signature=bytes(64)), signed_head("mallory", 3)])
        seen = st.lists(own_heads(name).filter(bool) | of_others, min_size=1, max_size=3).map(tuple)
        return draw(st.sampled_from([
            lambda: replace(said, box=draw(st.sampled_from([WEAK, b"", bytes([1]) + bytes(31), PAD]))),
            lambda: replace(said, material=draw(st.sampled_from([b"x", PAD]))),
            lambda: replace(said, seen=draw(seen)),
        ]))()  # fmt: skip
    if isinstance(said, m.Enrolled):
        return replace(said, public=keys_of_a_round(name, said.public, draw))
    if isinstance(said, m.Submitted):
        if draw(st.booleans()):
            return replace(said, following=keys_of_a_round(name, said.following, draw))
        return replace(said, payload=draw(st.sampled_from([b"", b"\0", said.payload[:-1], said.payload + b"\0", PAD])))
    if isinstance(said, m.Answered):
        revealed: Revealed = wire.decode(said.answer, Revealed)
        lies = [Revealed({}, {}), Revealed(dict.fromkeys(revealed.seeds, PAD), {}),
                Revealed(dict.fromkeys(revealed.seeds, bytes(66)), revealed.keys), Revealed(revealed.keys, revealed.seeds)]  # fmt: skip
        return replace(said, answer=draw(st.sampled_from(lies).map(wire.encode) | junk(said.answer)))
    return said


def receipt_of(name: str, receipt: Receipt, draw: Draw) -> Receipt:
    """Another receipt of the same message."""
    return draw(st.sampled_from([
        lambda: replace(receipt, head=draw(own_heads(name))),
        lambda: replace(receipt, round=receipt.round + draw(st.sampled_from([-1, 1, 2**40]))),
        lambda: replace(receipt, plan=draw(st.none() | st.just(Hash(b"x" * 32)))),
        lambda: replace(receipt, kind=draw(st.sampled_from(["Accept", "Enrolled", "Submitted", "Declined", "Bye"]))),
        lambda: replace(receipt, sender=draw(st.sampled_from(["a", "mallory"])), head=None),
        lambda: replace(receipt, to="a"),
        lambda: replace(receipt, cost=draw(st.sampled_from([-1, 2**60]))),
        lambda: replace(receipt, size=receipt.size + 1),
        lambda: replace(receipt, digest=Hash(b"x" * 32)),
    ]))()  # fmt: skip


def another(name: str, frame: m.Frame, draw: Draw) -> m.Frame:
    """What ``name`` says in place of this frame, under its own key."""
    receipt, body, head = frame.envelope.receipt, frame.envelope.body, frame.head
    what = draw(st.sampled_from(["message", "message", "message", "receipt", "receipt", "head"]))
    if what == "message":
        said = message(name, wire.decode(body, getattr(m, receipt.kind)), draw)
        body = said if isinstance(said, bytes) else wire.encode(said)
        receipt = replace(receipt, digest=Hash(hashlib.sha256(body).digest()), size=len(body))
    elif what == "receipt":
        receipt = receipt_of(name, receipt, draw)
    else:
        head = draw(own_heads(name) | st.builds(signed_head, st.sampled_from(["a", "mallory"]), st.just(3)))
    return m.Frame(Envelope(receipt, identity(name).sign("receipt", wire.encode(receipt)), body), head)
