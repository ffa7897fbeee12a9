"""Messages that a malicious coordinator forges for a member, each with the name it is to be refused by.

The member is a whole site, unmodified: its machine, its half of masking, its policy, its account and its ledger. Every
other party is its real machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from securefl import key_files, keys, wire
from securefl.errors import PeerFault
from securefl.home.home import Home
from securefl.ledger import store
from securefl.policy import load as policies
from securefl.privacy import accountant
from securefl.protection import masking_terms
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import messages as m
from securefl.seams import Own
from securefl.site.agent import MemberAgent
from securefl.terms import Entry, Hash, MemberId, Plan, Refused, RunId, Update
from securefl.terms.names import SignatureBytes
from tests.support.worlds import World, an_update, entropy, identity, seat

ROUNDS = 2
POLICY = """\
securefl_policy: 1
federation: f
version: 1
valid: {{from: 2020-01-01, until: 2099-12-31}}
budget: {{unit: record, neighbours: add-or-remove-one, epsilon: 90, delta: 1e-5, per_round: {{epsilon: 40}}, per_dataset: {{epsilon: 90}}, overlap: 1}}
training:
  mechanisms: [poisson-gaussian]
  clip: {{at_most: 1.0, norm: l2}}
  noise_multiplier: {{at_least: 0.5}}
  learning_rate: {{at_least: 1, at_most: 1024}}
  modules: [query]
  rank: {{at_most: 8}}
  base_models: ["sha256:{model}"]
protection: {{schemes: [masking], min_cohort: {min_cohort}, threshold: {{at_least: 2}}, colluding: {colluding}, grid: {{fraction_bits: {{at_least: 0, at_most: 40}}, value_bits: {{at_most: 48}}}}}}
release: {{fields: [weights], to: members}}
context: {{purposes: [test], regions: [here]}}
"""  # noqa: E501 - as policies are written


@dataclass(frozen=True, slots=True)
class Noise:
    """A trainer whose updates the test knows."""

    name: str
    dimension: int

    def admit(self, plan: Plan, base: bytes) -> None:
        """Any plan can be trained here."""

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """What this member's update of the round is."""
        del base
        return Update(an_update(self.name, plan.round, self.dimension), plan.learning.event), own


class Field(World):
    """A federation of random shape; ``victim`` is a whole site with a home of its own."""

    def prepare(self, drawn: random.Random, folder: Path, agreed: int, policy: str = POLICY) -> None:
        """Give everybody a policy with ``agreed`` colluding, and the victim a home."""
        self.rand = entropy(f"field {drawn.random()}")
        text = policy.format(model=bytes(32).hex(), min_cohort=self.min_cohort, colluding=agreed).encode()
        self.policy = policies.parse(text, "policy.yaml")
        for party in self.parties.values():
            charter = replace(party.state.charter, policy=self.policy.hash, policy_text=text)  # type: ignore[attr-defined]
            party.saved = wire.encode(member_state.Idle(charter))
        course = self.coordinator.state.course  # type: ignore[attr-defined]
        session = replace(course.session, policy=self.policy.hash)
        course = replace(course, session=session, policy_text=text, plan=replace(course.plan, policy=self.policy.hash))
        self.coordinator.saved = wire.encode(coordinator_state.Planned(course))
        self.drawn, self.session = drawn, session
        self.victim = MemberId(drawn.choice(self.names))
        own = folder / "victim"
        own.mkdir(mode=0o700)
        key_files.kept(own / "identity.key", lambda: identity_seed(self.victim))
        self.home = Home.at(own, self.victim, lambda: 1_800_000_000)
        charter = self.parties[self.victim].state.charter  # type: ignore[attr-defined]
        self.agent = MemberAgent(
            self.home, charter, self.policy, self.member_plugs(self.victim), Noise(self.victim, self.dimension),
            lambda plan, account: accountant.price(
                plan, account, charter.dataset, float(self.policy.budget.delta_share),
                self.policy.caps(charter.dataset, plan.run),
            ), os.urandom,
        )  # fmt: skip
        self.got: list[m.Frame] = []  # what the victim was genuinely sent
        self.attempt: Callable[[m.Frame], m.Frame | None] = lambda _: None
        self.tried: Tried | None = None

    def handle(self, name: str, data: bytes) -> bytes:
        """The victim's own agent answers for it; before the genuine message comes the forged one."""
        if name != self.victim:
            return super().handle(name, data)
        frame: m.Frame = wire.decode(data, m.Frame)
        forged = None if self.tried else self.attempt(frame)
        if forged is not None:
            self.tried = self.send(forged)
        answer = self.agent.handle(data)
        self.got.append(frame)
        return answer

    def send(self, forged: m.Frame) -> Tried:
        """Put one forged message before the victim."""
        run = forged.envelope.receipt.run
        before, known = self.state(run), self.written()
        try:
            answer = wire.decode(self.agent.handle(wire.encode(forged)), m.Frame)
        except PeerFault as fault:
            return Tried("refused", fault.rule, self.written()[len(known) :], before == self.state(run))
        kind = answer.envelope.receipt.kind
        return Tried(kind, "", self.written()[len(known) :], kind == "Declined")

    def state(self, run: RunId) -> object:
        """Where the victim's machine stands."""
        with self.home.transaction() as conn:
            return self.home.saved(conn, run, member_state.State)

    def written(self) -> list[Entry]:
        """Every entry of the victim's ledger."""
        with self.home.transaction() as conn:
            return [leaf.entry for leaf in store.read(conn, self.home.identity.public)[1]]


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one forged message."""

    answer: str  # "refused", or the kind of message the victim answered with
    rule: str  # the name of the fault that refused it; "" where it was answered
    written: list[Entry]  # what the victim's ledger has of it
    unmoved: bool  # nothing of the round was done for it

    def names(self) -> list[str]:
        """The names it is refused by, as the ledger has them; of what nobody signed, the fault's."""
        unsigned = self.rule in UNSIGNED and not self.written
        return [self.rule] if unsigned else rules_of(self.written)

    def refused_by(self, expected: str) -> bool:
        """Whether this name refused it, nothing moved, and the ledger has exactly what it should have of it."""
        kept = not self.written if expected in UNSIGNED else expected in rules_of(self.written)
        return self.answer in ("refused", "Declined") and self.unmoved and kept and expected in self.names()


UNSIGNED = ("protocol.signature", "protocol.altered")  # not from the coordinator: a stranger writes into no ledger


def rules_of(entries: list[Entry]) -> list[str]:
    """The rule of every reason of every refusal among these entries."""
    return [reason.rule for entry in entries if isinstance(entry, Refused) for reason in entry.reasons]


@dataclass(frozen=True, slots=True)
class Attack:
    """A forgery at one moment, and the names it may be refused by."""

    kind: str
    forge: Callable[[Field, m.Frame], tuple[m.Frame, str]]
    since: int = 1  # the first round it can be tried in


def identity_seed(name: str) -> bytes:
    """What `tests.support.worlds.identity` makes a party's key of."""
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(b"identity " + name.encode()).digest()


# How a coordinator forges: its own signature is good.


def signed(frame: m.Frame, message: m.Request, signer: str = "coordinator", plan: Hash | None = None) -> m.Frame:
    """The message in the place of the frame's own."""
    r = frame.envelope.receipt
    made = m.enclose(identity(signer), r.sender, r.to, r.run, r.round, message, plan or r.plan)
    return m.Frame(made, frame.head)


def proposed(frame: m.Frame, **changes: object) -> m.Frame:
    """The proposal with another plan, base or relay; the receipt names the plan it carries."""
    given = wire.decode(frame.envelope.body, m.Propose)
    plan = replace(given.plan, **{name: value for name, value in changes.items() if name not in ("state", "relayed")})  # type: ignore[arg-type]
    message = m.Propose(plan, changes.get("state", given.base), changes.get("relayed", given.relayed))  # type: ignore[arg-type]
    return signed(frame, message, plan=wire.plan_hash(plan))


def covered(frame: m.Frame, **changes: object) -> m.Frame:
    """The proposal with another cover."""
    plan = wire.decode(frame.envelope.body, m.Propose).plan
    return proposed(frame, cover=replace(plan.cover, **changes))


def asked(frame: m.Frame, survivors: list[MemberId], signer: str = "coordinator") -> m.Frame:
    """A question about these survivors."""
    told: m.Ask = wire.decode(frame.envelope.body, m.Ask)
    sealed = tuple(each for each in told.sealed if each.receipt.sender in survivors)
    message = m.Ask(told.round, wire.encode(masking_terms.Survivors(tuple(survivors))), sealed)
    return signed(frame, message, signer)


def others(field: Field) -> list[MemberId]:
    """Everybody but the victim, in random order."""
    rest = [MemberId(name) for name in field.names if name != field.victim]
    return field.drawn.sample(rest, len(rest))


def relayed_with(
    frame: m.Frame, change: Callable[[list[masking_terms.Relayed]], list[masking_terms.Relayed]]
) -> m.Frame:
    """The proposal with another relay of keys."""
    relay = wire.decode(wire.decode(frame.envelope.body, m.Propose).relayed, masking_terms.Relay)
    return proposed(frame, relayed=wire.encode(masking_terms.Relay(relay.roster, tuple(change(list(relay.peers))))))


# The ten. Each draws one of its variants.


def both_shares(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A second question about a round, with another survivor called dropped."""
    del frame
    before = next(sent for sent in reversed(field.got) if sent.envelope.receipt.kind == "Ask")
    everybody = [field.victim, *others(field)]
    return asked(before, sorted(everybody[: field.drawn.randint(1, len(everybody) - 1)])), "protocol.second-question"


def replayed_round(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A message of an earlier round, as it was, or beside today's head, there signed again or not."""
    names = {"Propose": "protocol.replayed-round", "Enrol": "protocol.replayed-round", "Ask": "protocol.another-round"}
    old = [sent for sent in field.got if sent.envelope.receipt.kind in names]
    chosen = field.drawn.choice([sent for sent in old if sent.envelope.receipt.round < frame.envelope.receipt.round])
    again = signed(chosen, m.opened(chosen.envelope, m.Request))  # type: ignore[arg-type]
    return field.drawn.choice(
        [
            (chosen, "protocol.ledger-set-back"),  # the head beside it is older than the victim saw
            *((replace(each, head=frame.head), names[chosen.envelope.receipt.kind]) for each in (chosen, again)),
        ]
    )


def swapped_keys(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A key the coordinator knows, or somebody else's, in the place of a peer's or of the victim's own."""
    mine = keys.public_half(keys.Secret(field.drawn.randbytes(32)))

    def change(peers: list[masking_terms.Relayed]) -> list[masking_terms.Relayed]:
        place = field.drawn.randrange(len(peers))
        said = replace(peers[place].statement, mask_key=mine)
        other = peers[place - 1]
        made = {
            "unsigned": lambda: replace(peers[place], statement=said),
            "empty": lambda: replace(peers[place], signature=SignatureBytes(bytes(64))),
            "by the coordinator": lambda: replace(
                peers[place], statement=said, signature=identity("coordinator").sign("mask-key", wire.encode(said))
            ),
            "another's": lambda: replace(
                other, statement=replace(other.statement, member=peers[place].statement.member), box=peers[place].box
            ),
        }
        peers[place] = made[field.drawn.choice(sorted(made))]()
        return peers

    return relayed_with(frame, change), "protocol.swapped-key"


def another_model(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """An adapter state that is not the plan's, or a base model the policy does not pin."""
    given = wire.decode(frame.envelope.body, m.Propose)
    digest, spoiled = Hash(field.drawn.randbytes(32)), bytearray(given.base)
    spoiled[field.drawn.randrange(len(spoiled))] ^= 1 << field.drawn.randrange(8)
    variants = (
        (lambda: proposed(frame, base=digest), "protocol.another-state"),
        (lambda: proposed(frame, state=bytes(spoiled)), "protocol.another-state"),
        (lambda: proposed(frame, dimension=field.dimension + 1), "protocol.another-state"),
        (lambda: proposed(frame, model=replace(given.plan.model, digest=digest)), "protocol.another-model"),
        (lambda: proposed(frame, model=replace(given.plan.model, name="m2")), "protocol.another-model"),
    )
    made, name = field.drawn.choice(variants)
    return made(), name


def another_cohort(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A made-up member, a doubled one, one under another key, or a cohort the relay does not fit."""
    cohort = wire.decode(frame.envelope.body, m.Propose).plan.cohort
    place = next(i for i, each in enumerate(cohort) if each.member != field.victim)
    forged = replace(cohort[place], key=identity("sybil").public)
    variants = (
        ((*cohort, seat("sybil")), "protocol.stranger"),
        ((*cohort, cohort[place]), "protocol.stranger"),
        ((*cohort[:place], forged, *cohort[place + 1 :]), "protocol.stranger"),
        (tuple(each for each in cohort if each.member != field.victim), "protocol.without-me"),
    )
    if field.drawn.random() < 0.2:
        return relayed_with(frame, lambda peers: peers[1:]), "protocol.another-cohort"
    seats, name = field.drawn.choice(variants)
    return proposed(frame, cohort=seats), name


def low_threshold(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A plan that needs fewer shares than the session agreed on."""
    return covered(frame, threshold=field.drawn.randrange(field.threshold)), "protocol.another-cover"


def cohort_of_few(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A cohort below the least one, down to the victim alone; or a lower least one to go with it."""
    given = wire.decode(frame.envelope.body, m.Propose)
    few = field.drawn.randint(1, field.min_cohort - 1)
    names = {field.victim, *others(field)[: few - 1]}
    seats = tuple(each for each in given.plan.cohort if each.member in names)
    relay = wire.decode(given.relayed, masking_terms.Relay)
    relayed = wire.encode(
        masking_terms.Relay(relay.roster, tuple(p for p in relay.peers if p.statement.member in names))
    )
    cover, name = given.plan.cover, "protocol.small-cohort"
    if field.drawn.random() < 0.5:
        cover = replace(cover, min_cohort=few)
        name = "protocol.few-honest" if few - cover.colluding <= 1 else name
    if name == "protocol.small-cohort" and few >= max(cover.min_cohort, cover.threshold):
        name = "protection.min_cohort"  # a safe sum, but of fewer than this site's own policy asks for
    return proposed(frame, cohort=seats, relayed=relayed, cover=cover), name


def shrinking_cohort(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A question about fewer survivors than a sum may have."""
    need = max(field.threshold, field.min_cohort)
    few = [field.victim, *others(field)][: field.drawn.randint(1, need - 1)]
    return asked(frame, sorted(few)), "protocol.few-survivors"


def wrong_survivors(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A survivor set nobody signed, with strangers or doubles in it, or without the one who is asked."""
    everybody = sorted(MemberId(name) for name in field.names)
    spoiled = replace(frame.envelope, body=asked(frame, everybody[1:]).envelope.body)
    variants = (
        (lambda: asked(frame, everybody, field.drawn.choice(others(field))), "protocol.signature"),
        (
            lambda: m.Frame(replace(frame.envelope, signature=field.drawn.randbytes(64)), frame.head),
            "protocol.signature",
        ),
        (lambda: m.Frame(spoiled, frame.head), "protocol.altered"),
        (lambda: asked(frame, [*everybody, MemberId("sybil")]), "protocol.stranger"),
        (lambda: asked(frame, [*everybody, everybody[0]]), "protocol.stranger"),
        (lambda: asked(frame, [name for name in everybody if name != field.victim]), "protocol.called-dropped"),
    )
    made, name = field.drawn.choice(variants)
    return made(), name


def stale_policy(field: Field, frame: m.Frame) -> tuple[m.Frame, str]:
    """A plan, or an invitation to a new run, under a policy this site does not hold."""
    old = Hash(field.drawn.randbytes(32))
    if field.drawn.random() < 0.5:
        return proposed(frame, policy=old), "protocol.stale-policy"
    run = RunId(field.drawn.randbytes(16))
    r = frame.envelope.receipt
    invite = m.Invite(replace(field.session, run=run, policy=old))
    return m.Frame(m.enclose(identity("coordinator"), r.sender, r.to, run, 0, invite), frame.head), (
        "protocol.stale-policy"
    )


ATTACKS: dict[str, Attack] = {
    "both shares of one member": Attack("Close", both_shares, 0),
    "a replayed round": Attack("Ask", replayed_round, 2),
    "swapped or unsigned keys": Attack("Propose", swapped_keys),
    "another model or state": Attack("Propose", another_model),
    "another cohort": Attack("Propose", another_cohort),
    "a threshold below the safe one": Attack("Propose", low_threshold),
    "a cohort of one, or of too few": Attack("Propose", cohort_of_few),
    "a cohort that shrinks": Attack("Ask", shrinking_cohort),
    "wrong survivors, or under a wrong signature": Attack("Ask", wrong_survivors),
    "a stale policy": Attack("Propose", stale_policy),
}
