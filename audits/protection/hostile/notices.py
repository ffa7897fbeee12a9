"""Somebody says of a key what its owner did not say: hands it over, revokes it, or declares its owner gone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.home import notices
from securefl.keys import Identity, Secret
from securefl.protection import key_shares
from securefl.protocol import key_standing
from securefl.protocol import messages as m
from securefl.protocol.key_standing import NotTaken
from securefl.site import key_share
from securefl.site.dispatch import Dispatcher
from securefl.site.run_keys import authentic
from securefl.terms import (
    Departure,
    Handover,
    Hash,
    MemberId,
    Notice,
    Refused,
    Revocation,
    RunId,
    Scheme,
    SignedNotice,
    SumOpened,
)
from securefl.terms.names import FederationName
from securefl.terms.parties import CUSTODIAN
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating


def _tried(federation: Rotating, signed: SignedNotice, by: str) -> Outcome:
    """Have a party take a notice in, and look whether anything came of it."""
    home = federation.home(by)
    with home.transaction():
        before = home.live.now.standings
    try:
        notices.take(home, federation.name, signed)
        stopped = "nothing"
    except NotTaken as refused:
        stopped = refused.rule
    with home.transaction():
        changed = home.live.now.standings != before
    home.engine.dispose()
    return Outcome(changed, stopped)


def _seed(drawn: random.Random) -> Identity:
    return Identity(Secret(drawn.randbytes(32)))


def _of(federation: Rotating, name: str) -> Identity:
    home = federation.home(name)
    home.engine.dispose()
    return home.identity


def tombstone(number: int, folder: Path) -> Outcome:
    """Sign, as coordinator, that a member has left; or put a member's name on the coordinator's own tombstone."""
    drawn, federation = random.Random(number), Rotating(folder).made()  # noqa: S311
    victim, by = drawn.sample(federation.names, 2)
    centre, key = _of(federation, COORDINATOR), federation.seat(victim).key
    forged = Departure(federation.name, federation.seat(victim).member, key, federation.time[0])
    data = wire.encode(forged)
    ways = (
        SignedNotice(forged, centre.sign(key_standing.LABEL, data)),
        SignedNotice(forged, drawn.randbytes(64)),
        key_standing.sign(centre, Departure(federation.name, forged.party, centre.public, federation.time[0])),
        SignedNotice(forged, federation.say(victim, lambda home: key_standing.sign(
            home.identity, Departure("another", forged.party, key, federation.time[0]))).signature),
    )  # fmt: skip
    return _tried(federation, ways[number % len(ways)], by)


def by_revoked(number: int, folder: Path) -> Outcome:
    """Have whoever stole a key that was revoked since hand it over to a key of the thief's."""
    drawn, federation = random.Random(number), Rotating(folder).made()  # noqa: S311
    victim, by = drawn.sample(federation.everybody(), 2)
    stolen = _of(federation, victim)
    federation.taken(federation.say(victim, lambda home: notices.revoke(home, federation.name)))
    now, thief = federation.time[0] + drawn.randint(0, HOUR), _seed(drawn)
    federation.time[0] = now
    owner = federation.seat(victim).member
    said: Notice = Handover(federation.name, owner, stolen.public, now - HOUR, thief.public, now + HOUR, None)
    return _tried(federation, key_standing.sign(stolen, said, thief), by)


def replayed(number: int, folder: Path) -> Outcome:
    """Carry a hand-over of one federation into another one that the same keys are in; or claim a key that is there."""
    drawn = random.Random(number)  # noqa: S311
    first, second = Rotating(folder / "f").made(), Rotating(folder / "g", name="g").made()
    victim, by = drawn.sample(first.everybody(), 2)
    signed = first.rotated(victim)
    if number % 2:
        return _tried(second, signed, by)
    other = next(name for name in first.everybody() if name not in (victim, by))
    thief, known = _of(first, other), first.seat(victim)
    said = Handover("f", first.seat(other).member, thief.public, first.time[0], known.key, first.time[0] + HOUR, None)
    return _tried(first, SignedNotice(said, thief.sign(key_standing.LABEL, wire.encode(said)), signed.by_successor), by)


def rotated_away(number: int, folder: Path) -> Outcome:
    """Sign an invitation with a coordinator's key that was handed over, when only the new one counts, or revoked."""
    drawn, federation = random.Random(number), Rotating(folder).made()  # noqa: S311
    old = _of(federation, COORDINATOR)
    if number % 2:
        federation.taken(federation.rotated(COORDINATOR, drawn.randint(0, HOUR)))
        federation.time[0] += HOUR + 1 + drawn.randint(0, HOUR)
    else:
        federation.taken(federation.say(COORDINATOR, lambda home: notices.revoke(home, federation.name)))
    return _invited_by(old, federation, drawn)


def former_of_revoked(number: int, folder: Path) -> Outcome:
    """Sign an invitation with a former key of a stolen home, within its overlap: its owner revoked the present one."""
    drawn, federation = random.Random(number), Rotating(folder).made()  # noqa: S311
    old = _of(federation, COORDINATOR)
    for _ in range(drawn.randint(1, 3)):
        federation.taken(federation.rotated(COORDINATOR, 24 * HOUR))
    present = federation.seat(COORDINATOR).key.hex()
    federation.taken(federation.say(COORDINATOR, lambda home: notices.revoke(home, federation.name, present)))
    federation.time[0] += drawn.randint(0, 23 * HOUR)
    return _invited_by(old, federation, drawn, named=True)


def too_old(number: int, folder: Path) -> Outcome:
    """Sign an invitation with a key that was stolen long ago, under a policy that bounds a key's age."""
    drawn = random.Random(number)  # noqa: S311
    federation = Rotating(folder, max_age_days=drawn.randint(1, 400)).made()
    old, days = _of(federation, COORDINATOR), federation.max_age_days or 0
    if number % 2:  # the thief hands the key over to itself, and says that it did so just now
        federation.taken(federation.rotated(COORDINATOR, drawn.randint(0, 90) * 24 * HOUR))
        old = _of(federation, COORDINATOR)
    assert Living(federation).play(1)[0].outcome == "finished"
    federation.time[0] += days * 24 * HOUR + drawn.randint(1, 10**8)
    return _invited_by(old, federation, drawn)


def share_by_dead_key(number: int, folder: Path) -> Outcome:
    """Ask members for their shares with a stolen custodian's key that was revoked, handed over or whose owner left."""
    drawn, federation = random.Random(number), Rotating(folder, Scheme.MASKED_CKKS).made()  # noqa: S311
    stolen, victim = _of(federation, CUSTODIAN), drawn.choice(federation.names)
    home, key, seat = federation.home(victim), Hash(drawn.randbytes(32)), federation.seat(CUSTODIAN)
    boxes = {MemberId(victim): keys.public_half(home.identity.box), MemberId("z"): keys.public_half(stolen.box)}
    _, shares = key_shares.split(b"the key", key, 2, boxes, stolen, Secret(drawn.randbytes(32)))
    key_share.keep(home, [home.key_line(federation.name, seat)], shares[MemberId(victim)], "share")
    home.engine.dispose()
    site = Dispatcher([federation.agent(victim)])
    if number % 3 == 0:
        federation.taken(federation.rotated(CUSTODIAN, drawn.randint(0, HOUR)))
        federation.time[0] += HOUR + 1 + drawn.randint(0, HOUR)
    else:
        say = notices.revoke if number % 3 == 1 else notices.leave
        federation.taken(federation.say(CUSTODIAN, lambda home: say(home, federation.name)))
    box = keys.public_half(Secret(drawn.randbytes(32)))
    asked = key_shares.Request(key, box, stolen.sign("key-share-request", key + box))
    try:
        site.handle(wire.encode(asked))
    except PeerFault as refused:
        return Outcome(succeeded=False, stopped_by=refused.rule)
    return Outcome(succeeded=True, stopped_by="nothing")


def ended_by_dead_key(number: int, folder: Path) -> Outcome:
    """End a member's training, or ask how far it is, with a coordinator's key that was revoked or handed over."""
    drawn, federation = random.Random(number), Rotating(folder).made()  # noqa: S311
    stolen, victim, run = _of(federation, COORDINATOR), drawn.choice(federation.names), RunId(drawn.randbytes(16))
    federation.taken(federation.rotated(COORDINATOR, drawn.randint(0, HOUR)))
    if number % 2:
        said = Revocation(federation.name, federation.seat(COORDINATOR).member, stolen.public, federation.time[0])
        federation.taken(key_standing.sign(stolen, said))
    else:
        federation.time[0] += HOUR + 1
    agent, close = federation.agent(victim), m.Close("aborted", "x", 0, b"", ())
    sender, to = federation.seat(COORDINATOR).member, federation.seat(victim).member
    data = wire.encode(m.Frame(m.enclose(stolen, sender, to, run, 0, close, head=None), None))
    under_way = replace(m.enclose(stolen, sender, to, run, 1, close, head=None).receipt, kind=m.Propose.__name__)
    with agent.turns.taken(federation.name, under_way) as turn:
        assert not isinstance(turn, m.InProgress)
        told, stopped = 0, "nothing"
        for ask in (agent.progress, agent.handle):
            try:
                ask(data)
                told += 1
            except PeerFault as refused:
                stopped = refused.rule
        return Outcome(succeeded=bool(told or turn.over), stopped_by=stopped)


def _invited_by(old: Identity, federation: Rotating, drawn: random.Random, *, named: bool = False) -> Outcome:
    """What a member makes of an invitation that this key signed; ``named``: and that names it as the coordinator's."""
    session, victim = federation.session(), drawn.choice(federation.names)
    if named:
        session = replace(session, coordinator=replace(session.coordinator, key=old.public))
    agent = federation.agent(victim)
    home = federation.home(COORDINATOR)
    run = RunId(drawn.randbytes(16))
    invite = m.Invite(m.Session(run, *(getattr(session, name) for name in m.Session.__slots__[1:])))
    head = home.head_under(old)
    sender, to = session.coordinator.member, federation.seat(victim).member
    data = wire.encode(m.Frame(m.enclose(old, sender, to, run, 0, invite, head=head), head))
    home.engine.dispose()
    try:
        authentic(data, agent.charter, agent.home)
        agent.handle(data)
        outcome = Outcome(succeeded=True, stopped_by="nothing")
    except PeerFault as fault:
        outcome = Outcome(succeeded=False, stopped_by=fault.rule)
    agent.home.engine.dispose()
    return outcome


def path_as_name(number: int, folder: Path) -> Outcome:
    """Name a path where a federation's name belongs, so that a key is put there: another federation's, or any file."""
    drawn, federation = random.Random(number), Rotating(folder / "homes").made()  # noqa: S311
    author, by = drawn.sample(federation.everybody(), 2)
    thief, old, outside = _seed(drawn), _of(federation, author), folder / "outside.json"
    outside.write_text("{}")
    names = ("../peers/f", f"{outside.with_suffix('')}", "./f", "f/../f", "..", "f\n", "f/")
    name, party, now = drawn.choice(names), federation.seat(author).member, federation.time[0]
    said = Handover(FederationName(name), party, old.public, now, thief.public, now + HOUR, None)
    home = federation.home(by)
    pins, size = (home.path / "peers" / "f.json").read_bytes(), len(federation.entries(by))
    try:
        signed = notices.read(notices.text_of(key_standing.sign(old, said, thief)).encode(), "mail")
        notices.take(home, signed.notice.federation, signed)
        stopped = "nothing"
    except (NotTaken, ValueError) as refused:
        stopped = getattr(refused, "rule", type(refused).__name__)
    home.engine.dispose()
    changed = pins != (home.path / "peers" / "f.json").read_bytes() or outside.read_text() != "{}"
    return Outcome(changed or len(federation.entries(by)) != size, stopped)


def revoked_amid(number: int, folder: Path) -> Outcome:
    """Ignore, as coordinator, that a key was revoked since its input came, and ask for the sum; or revoke unheard."""
    drawn = random.Random(number)  # noqa: S311
    scheme = (Scheme.MASKING, Scheme.MASKED_CKKS)[number % 2]
    federation = Rotating(folder, scheme).made()
    victim = drawn.choice(federation.names)
    honest = tuple(name for name in federation.parties if name != victim)

    def revoke(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            said = federation.say(victim, lambda home: notices.revoke(home, federation.name))
            federation.taken(said, by=honest if drawn.random() < 0.5 else (COORDINATOR, *honest))

    Living(federation).play(1, 1, revoke)
    sums = [each for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]
    rules = {r.rule for name in honest for e in federation.entries(name) if isinstance(e, Refused) for r in e.reasons}
    return Outcome(any(victim in each.survivors for each in sums), ", ".join(sorted(rules)))


ATTEMPTS = (
    Attempt("A notice names a path where a federation's name belongs", path_as_name),
    Attempt("A sum is asked for with an input under a key that was revoked since", revoked_amid),
    Attempt("A coordinator declares a member gone", tombstone),
    Attempt("A key that was revoked is handed over to whoever stole it", by_revoked),
    Attempt("A hand-over is replayed to another federation, or claims a key that is somebody's", replayed),
    Attempt("A coordinator's key that was handed over or revoked signs an invitation", rotated_away),
    Attempt("A custodian's key that counts no more asks for shares", share_by_dead_key),
    Attempt("A coordinator's key that was revoked or handed over ends a training, or hears of it", ended_by_dead_key),
    Attempt("A coordinator's key that is older than the policy lets one be signs an invitation", too_old),
    Attempt("A former key of a home whose key was revoked signs an invitation within its overlap", former_of_revoked),
)
