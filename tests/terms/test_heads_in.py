"""Every signed head that can stand in an entry is found: a ledger is held to it, wherever it was written down."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from securefl.terms import (
    Departure,
    Handover,
    Hash,
    Head,
    MemberId,
    MessageReceived,
    MessageSent,
    Noticed,
    PublicKey,
    Receipt,
    RunId,
    SignedHead,
    SignedNotice,
    Witnessed,
)
from securefl.terms.entries import Entry, heads_in
from securefl.terms.events import MicroEpsilon

HEAD = SignedHead(Head(MemberId("a"), 3, Hash(bytes(32))), bytes(64))
KEY = PublicKey(bytes(32))


def ways(kind: Any, seen: tuple[Any, ...] = ()) -> set[str]:
    """By which fields of a type a signed head is reached."""
    if kind is SignedHead:
        return {""}
    if typing.get_origin(kind) is not None or isinstance(kind, types.UnionType):
        return {way for each in typing.get_args(kind) for way in ways(each, seen)}
    if not dataclasses.is_dataclass(kind) or kind in seen:
        return set()
    hints = typing.get_type_hints(kind)
    return {f".{name}{way}" for name in hints for way in ways(hints[name], (*seen, kind))}


def test_no_entry_holds_a_signed_head_that_is_not_found() -> None:
    """A new field with a head fails here until ``heads_in`` returns it."""
    found = {each.__name__: ways(each) for each in typing.get_args(Entry)}
    assert {name: way for name, way in found.items() if way} == {
        "MessageReceived": {".receipt.head"},
        "MessageSent": {".receipt.head"},
        "Noticed": {".notice.notice.head"},
        "Witnessed": {".head"},
    }


def test_the_heads_of_each_entry_are_returned() -> None:
    digest, run = Hash(bytes(32)), RunId(bytes(16))
    receipt = Receipt(MemberId("a"), MemberId("b"), run, 1, "Bye", None, MicroEpsilon(0), digest, 1, HEAD)
    bare = dataclasses.replace(receipt, head=None)
    notice = Handover("f", MemberId("a"), KEY, 0, KEY, 1, HEAD)
    left = Departure("f", MemberId("a"), KEY, 0)
    for entry in (
        MessageSent(receipt, bytes(64)), MessageReceived(receipt, bytes(64)), Witnessed(HEAD), Noticed(SignedNotice(notice, b"")),
    ):  # fmt: skip
        assert heads_in(entry) == (HEAD,)
    for entry in (
        MessageSent(bare, bytes(64)), MessageReceived(bare, bytes(64)), Noticed(SignedNotice(left, b"")),
        Noticed(SignedNotice(dataclasses.replace(notice, head=None), b"")),
    ):  # fmt: skip
        assert heads_in(entry) == ()
