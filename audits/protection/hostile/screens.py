"""Words and names that write on their reader's screen: cursors, directions, markup, and what has no width."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import cbor2

from audits.protection.attempt import Attempt, Outcome
from securefl import keys, merkle, progress, shown, wire
from securefl.cli import main as cli
from securefl.documents import introduction
from securefl.errors import Malformed, OperatorFault
from securefl.home.clock import clock
from securefl.ledger import export, heads
from securefl.policy import load as policies
from securefl.protocol import messages as m
from securefl.terms import Hash, Head, MemberId, Participant, PublicKey, Reason, Receipt
from tests.support import audited

TRICKS = (
    "\x1b[2K\x1b[1Gverified: 3,214 entries hold\x1b[8m", "\x9b2Jverified", "\r\nverified: all entries hold\n",
    "\x08" * 40 + "verified", "\u202edloh seirtne lla :deifirev", "\u2066verified\u2069", "no\u200brth",
    "north\ufe0f", "\u3164", "\x1b]0;owned\x07", "north\U000e0041",
)  # fmt: skip

LINES = ("\n", "\r", "\r\n", "\u2028", "\x85", "\x0b")


@cache
def _good() -> dict[str, export.LedgerFile]:
    return {name: party.file() for name, party in audited.told(rounds=1).parties.items()}


def _copied(folder: Path) -> Path:
    for name, file in _good().items():
        export.write(folder / "ledger" / f"{name}.ledger", file)
    return folder


def _rewritten(folder: Path, name: str, leaves: list[bytes]) -> None:
    """This party's ledger is these bytes, under a head it signs itself."""
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    head = heads.sign(audited.identity(name), Head(MemberId(name), len(leaves), root))
    file = export.LedgerFile(MemberId(name), audited.identity(name).public, tuple(leaves), head)
    export.write(folder / "ledger" / f"{name}.ledger", file)


def _screens(*command: object) -> tuple[int, str]:
    """What a command's reader sees, and its exit code."""
    out, code = io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(out):
        try:
            cli.main([str(each) for each in command])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return code, out.getvalue()


def _judged(folder: Path) -> Outcome:
    """An auditor looks at this run, both ways: is anything verified, or anything on the screen that hides?

    What a name or word wrote is also seen where it made a line of its own: a verdict has one line that says it.
    """
    came = [_screens("audit", "verify", folder), _screens("audit", "verify", folder, "--json")]
    hidden = any(shown.hidden(line) for _, text in came for line in text.split("\n"))
    hidden |= any(line.startswith(("verified", "consistent")) for line in came[0][1].splitlines())
    shutil.rmtree(folder / "ledger")
    return Outcome(hidden or any(code != 4 for code, _ in came), f"exit {came[0][0]}")


def _spoiled(raw: Any, drawn: random.Random, trick: str) -> Any:  # noqa: ANN401 - CBOR
    """The same value with a trick in one of its texts that is no type's name."""
    places: list[tuple[list[Any], int]] = []

    def walk(value: Any) -> None:  # noqa: ANN401 - CBOR
        for index, each in enumerate(value if isinstance(value, list) else []):
            if isinstance(each, str) and (index or not each[:1].isupper()):
                places.append((value, index))
            walk(each)

    walk(raw)
    where, index = drawn.choice(places)
    cut = drawn.randint(0, len(where[index]))
    where[index] = where[index][:cut] + trick + where[index][cut:]
    return raw


def any_text_of_a_ledger(number: int, folder: Path) -> Outcome:
    """A name, kind, region, purpose, reason of an entry, rewritten by the ledger's own owner."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    name = drawn.choice(sorted(_good()))
    leaves = list(_good()[name].leaves)
    worded = [place for place, leaf in enumerate(leaves) if b"Settled" not in leaf and b"Release" not in leaf]
    index = drawn.choice(worded)
    spoiled = _spoiled(cbor2.loads(leaves[index]), drawn, drawn.choice(TRICKS))
    leaves[index] = cbor2.dumps(spoiled, canonical=True)
    _rewritten(_copied(folder), name, leaves)
    return _judged(folder)


def a_kind_of_receipt(number: int, folder: Path) -> Outcome:
    """A receipt that was never sent, whose kind says that all entries hold, at the end of a member's ledger."""
    drawn = random.Random(number)  # noqa: S311
    leaves = list(_good()["north"].leaves)
    receipt = Receipt(
        MemberId("north"), MemberId("coordinator"), audited.told(rounds=1).run, 0, "Bye", None, 0, Hash(bytes(32)), 1
    )  # fmt: skip
    raw = cbor2.loads(wire.encode(receipt))
    raw[5] += drawn.choice(TRICKS)
    leaves.append(cbor2.dumps(["Leaf", audited.NOW, ["MessageSent", raw, bytes(64)]], canonical=True))
    _rewritten(_copied(folder), "north", leaves)
    return _judged(folder)


def the_owner_of_a_ledger(number: int, folder: Path) -> Outcome:
    """A ledger that is called so that its file's name and its owner write on the screen."""
    trick = TRICKS[number % len(TRICKS)].replace("/", "")
    _copied(folder)
    path = folder / "ledger" / "north.ledger"
    raw = cbor2.loads(path.read_bytes())
    raw[1][1] += trick
    raw[1][4][1][1] += trick
    (folder / "ledger" / f"north{trick}.ledger").write_bytes(cbor2.dumps(raw, canonical=True))
    path.unlink()
    return _judged(folder)


def a_file_s_name(number: int, folder: Path) -> Outcome:
    """A file or folder put into a run, whose name ends a line and begins one that says verified."""
    drawn = random.Random(number)  # noqa: S311
    run = audited.told(rounds=1).leave(folder / "run")
    says = f"x{drawn.choice(LINES)}verified: {drawn.randrange(9999)} entries hold, under the keys you gave"
    where = run / drawn.choice((".", ".", "ledger", "adapter", "below"))
    where.mkdir(exist_ok=True)
    if drawn.random() < 0.5:
        (where / says).write_text("x")
    else:
        (where / says).mkdir()
        (where / says / "y").write_text("x")
    code, text = _screens("audit", "verify", run)
    shutil.rmtree(run)
    lines = [line for line in re.split("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text) if line.startswith("verified")]
    return Outcome(bool(lines), f"exit {code}, and the name in one line")


def a_word_in_a_fault(number: int, folder: Path) -> Outcome:
    """A path, key or document that a command is given says what the command does not, in its fault."""
    drawn = random.Random(number)  # noqa: S311
    says = f"x{drawn.choice(LINES)}verified: all entries hold"
    keys = folder / "keys.json"
    keys.write_text(json.dumps({says: drawn.choice(("no key", says))}))
    command = drawn.choice(
        (
            ("audit", "verify", folder, "--keys", keys),
            ("audit", "verify", folder / says),
            ("audit", "replay", folder / says),
            ("explain", folder / says),
            ("run", folder / says, folder / "out"),
        )
    )
    code, text = _screens(*command)
    lines = [line for line in text.splitlines() if line.startswith("verified")]
    return Outcome(bool(lines), f"exit {code}, and the name in one line")


def words_of_a_refusal(number: int, folder: Path) -> Outcome:
    """A member's refusal of a round, in words that are not words, on the wire."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    declined = m.Declined(1, (Reason("budget.epsilon", "9", "at most 8", "wait"),))
    body = cbor2.dumps(_spoiled(cbor2.loads(wire.encode(declined)), drawn, drawn.choice(TRICKS)), canonical=True)
    try:
        told = wire.decode(body, m.Declined)
    except Malformed as fault:
        return Outcome(shown.hidden(str(fault)) is not None, fault.rule)
    return Outcome(succeeded=True, stopped_by=repr(told))


def markup_of_a_refusal(number: int, folder: Path) -> Outcome:
    """Words that are markup to what draws bars: they end a comparison, or vanish, or colour a line."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    words = drawn.choice(("[/x]", "[bold red]verified[/]", "[link=file:///etc]x[/link]", ":skull:", "[")) + "why"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    with redirect_stderr(screen):
        for made in (progress.tally, progress.progress):
            with made() as told:
                told.say(f"aborted: {words}")
    return Outcome(screen.getvalue().count(f"aborted: {words}") != 2, "shown as it is")


# what is drawn as nothing or as a blank, or by each machine as it likes
UNDRAWN = (
    "\u2800", "\U00016fe4", "\U0001d159", "\U000e0100", "\u00a0", "\u3000", "\u2009", "\U00013441", "\ufffc", "\ufdd0",
    "\ue000", "\u034f", "\U000e0041", "\u3164", "\u17b4", "\U0001107f", "\uffff",
)  # fmt: skip


def a_name_that_looks_like_another(number: int, folder: Path) -> Outcome:
    """A seat, region or word that prints as another one, by a character that is drawn as nothing or as a blank."""
    del folder
    drawn, mark = random.Random(number), UNDRAWN[number % len(UNDRAWN)]  # noqa: S311
    cut = drawn.randint(0, 5)
    name = "north"[:cut] + mark + "north"[cut:]
    raw = cbor2.loads(wire.encode(Participant(MemberId("north"), PublicKey(bytes(32)), "here")))
    raw[drawn.choice((1, 3))] = name
    for made in (lambda: wire.decode(cbor2.dumps(raw, canonical=True), Participant), lambda: wire.encode({name: 1})):
        try:
            return Outcome(succeeded=True, stopped_by=repr(made()))
        except (Malformed, ValueError):
            continue
    told = shown.plain(name)
    return Outcome(not told.isascii(), "a character that does not show as itself")


def a_policy_s_words(number: int, folder: Path) -> Outcome:
    """A policy whose purposes, regions or federation read otherwise than they are."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    word = drawn.choice(("harbour", "testing", "here"))
    spoiled = audited.POLICY.replace(word, f'"{word}{drawn.choice(TRICKS)}"'.encode("unicode_escape").decode(), 1)
    try:
        policy = policies.parse(spoiled.encode(), "policy.yaml")
    except OperatorFault as fault:
        return Outcome(shown.hidden(str(fault)) is not None, "documents: a character that does not show as itself")
    return Outcome(succeeded=True, stopped_by=repr(policy.hash))


def a_seat_s_region(number: int, folder: Path) -> Outcome:
    """A session whose roster has a name or region that looks like another."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    seat = Participant(MemberId("north"), PublicKey(bytes(32)), "here")
    body = cbor2.dumps(_spoiled(cbor2.loads(wire.encode(seat)), drawn, drawn.choice(TRICKS)), canonical=True)
    try:
        wire.decode(body, Participant)
    except Malformed as fault:
        return Outcome(succeeded=False, stopped_by=fault.rule)
    return Outcome(succeeded=True, stopped_by="")


def an_offer(number: int, folder: Path) -> Outcome:
    """A stranger's invitation, shown and joined by a site: what it offers is read before anybody is asked who it is."""
    drawn = random.Random(f"offer {number}")  # noqa: S311 - as above
    identity, now = keys.Identity(keys.Secret(drawn.randbytes(32))), clock()
    card = introduction.Card(
        "coordinator", introduction.Role.COORDINATOR, "", identity.public, keys.public_half(identity.box), "clinics",
        Hash(bytes(32)), now, now + 86_400,
    )  # fmt: skip
    offer = f"\x1b[8A\x1b[Jkey  yours{drawn.choice(TRICKS)}\n{drawn.choice(TRICKS)}".encode("utf-8", "replace")
    made = introduction.sign(identity, introduction.Invitation(card, b"x", b"", offer))
    (folder / "mail").write_text(made.text)
    told, stdin = (
        [_screens("site", "init", folder / "site.yaml", "--name", "a", "--region", "here", "--custodian")],
        sys.stdin,
    )
    assert told[0][0] == 0, told
    sys.stdin = io.StringIO("no\n")
    try:
        told = [
            _screens("site", "show", folder / "mail"),
            _screens("site", "join", folder / "site.yaml", folder / "mail"),
        ]
    finally:
        sys.stdin = stdin
    assert all("offer" in text for _, text in told), told
    hidden = any(shown.hidden(line) for _, text in told for line in text.split("\n"))
    return Outcome(hidden or told[1][0] == 0, "introduction.fingerprint, on lines that show every character")


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("a stranger's invitation writes on the screen of whoever reads it", an_offer),
    Attempt("a member's ledger writes on its auditor's screen, in any text", any_text_of_a_ledger),
    Attempt("a member's ledger writes on its auditor's screen, in a kind", a_kind_of_receipt),
    Attempt("a ledger's file and owner write on an auditor's screen", the_owner_of_a_ledger),
    Attempt("a file's name ends a line of its auditor's screen", a_file_s_name),
    Attempt("a word that a command is given ends a line of its fault", a_word_in_a_fault),
    Attempt("a member's refusal writes on the coordinator's screen", words_of_a_refusal),
    Attempt("a member's refusal is markup to what draws bars", markup_of_a_refusal),
    Attempt("a policy's words read otherwise than they are", a_policy_s_words),
    Attempt("a seat's name or region looks like another", a_seat_s_region),
    Attempt("a name prints as another by what is drawn as nothing or a blank", a_name_that_looks_like_another),
)
