"""Somebody without the right signatures changes what a site is held to: each attempt ends before a run begins there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from securefl import keys
from securefl.errors import OperatorFault, Unsafe
from securefl.home import adoption
from securefl.home.home import Home
from securefl.policy import approvals, load
from securefl.policy.approvals import Kind, Signature
from securefl.protection import key_shares
from securefl.site import custody
from securefl.terms import Hash, MemberId, RunId, RunJoined

NOW, END = 1_790_000_000, 4_000_000_000
TEXT = """\
securefl_policy: 1
federation: {name}
version: {version}
valid: {{from: 2020-01-01, until: 2099-12-31}}
budget: {{unit: record, neighbours: add-or-remove-one, epsilon: {limit}, delta: 1e-5, per_round: {{epsilon: {limit}}}, per_dataset: {{epsilon: {limit}}}, overlap: 1}}
training: {{mechanisms: [poisson-gaussian], clip: {{at_most: 1, norm: l2}}, noise_multiplier: {{at_least: 1/2}}, modules: [query], rank: {{at_most: 8}}, base_models: [any]}}
protection: {{schemes: [masking], min_cohort: 3, threshold: {{at_least: 2}}, colluding: 1}}
release: {{fields: [weights], to: members}}
context: {{purposes: [test], regions: [here]}}
approvals: {{required: {required}, keys: {{{keys}}}}}
{parent}"""  # noqa: E501 - as policies are written


@dataclass
class Site:
    """A home under attack, the officers who may sign, and who may not."""

    folder: Path
    number: int
    runs: int = 0
    drawn: random.Random = field(init=False)
    home: Home = field(init=False)

    def __post_init__(self) -> None:
        self.drawn = random.Random(self.number)  # noqa: S311 - to be repeated
        self.home = Home.at(self.folder / "home", MemberId("north"), lambda: NOW)

    def identity(self, name: str) -> keys.Identity:
        """A signer of this trial."""
        return keys.Identity(keys.Secret(hashlib.sha256(f"{name} {self.number}".encode()).digest()))

    def policy(
        self, version: int, limit: int, signers: tuple[str, ...], name: str = "clinic", above: load.Policy | None = None
    ) -> load.Policy:
        """A version of a federation's policy, by whose keys it is signed."""
        named = ", ".join(f"{each}: {self.identity(each).public.hex()}" for each in signers)
        parent = "" if above is None else "parent: {policy: above.yaml}\n"
        text = TEXT.format(
            name=name, version=version, limit=limit, keys=named, parent=parent, required=max(0, len(signers) - 1)
        )
        whole = text.encode() if above is None else load.ABOVE.join([text.encode(), above.text])
        return load.parse(whole, "policy.yaml")

    def signed(self, policy: load.Policy, *signers: str) -> tuple[Signature, ...]:
        """The first signs as its author, the others approve."""
        return tuple(
            approvals.sign(self.identity(each), Kind.APPROVAL if at else Kind.AUTHOR, policy, NOW - 9, END)
            for at, each in enumerate(signers)
        )

    def begin(self, policy: load.Policy, signatures: tuple[Signature, ...] | None) -> None:
        """A run as an operator begins it."""
        adoption.propose(self.home, policy, signatures)
        self.write(policy.federation)

    def write(self, federation: str) -> None:
        """The first entry of a run under whatever lies in the home."""
        policy, shown = adoption.staged(self.home.path, federation, NOW)
        self.open(policy, shown)

    def open(self, policy: load.Policy, shown: bytes) -> None:
        """The first entry of a run."""
        self.runs += 1
        run = RunId(self.runs.to_bytes(16, "big"))
        entry = RunJoined(run, policy.federation, "member", policy.text, "d", (), shown)
        with self.home.transaction() as conn:
            self.home.commit(conn, run, (entry,), Hash(b""))


def tried(attack: Callable[[Site], None]) -> Callable[[int, Path], Outcome]:
    """A trial: two officers' policy is adopted, and then the attack is made."""

    def trial(number: int, folder: Path) -> Outcome:
        site = Site(folder, number)
        first = site.policy(site.drawn.randint(1, 5), 4, ("officer", "second"))
        site.begin(first, site.signed(first, "officer", "second"))
        try:
            attack(site)
        except Unsafe as fault:
            return Outcome(succeeded=False, stopped_by=fault.rule)
        except approvals.Unapproved:
            return Outcome(succeeded=False, stopped_by="policy.approvals")
        except OperatorFault:
            return Outcome(succeeded=False, stopped_by="policy.follows")
        return Outcome(succeeded=True, stopped_by="")

    return trial


def _unsigned_between(site: Site) -> None:
    """A version that is begun without signatures, or never begun, names the keys that sign the next."""
    second = site.policy(site.drawn.randint(6, 9), 1000, ("evil",))
    if site.drawn.random() < 1 / 2:
        adoption.propose(site.home, second, None)
    else:
        site.begin(second, None)
    third = site.policy(second.version + site.drawn.randint(1, 900), 1000, ("evil",))
    site.begin(third, site.signed(third, "evil"))


def _by_hand(site: Site) -> None:
    """Whoever may write into the home puts a policy there, with signatures of its own or with the old ones."""
    evil = site.policy(site.drawn.randint(1, 99), 1000, ("evil",) if site.drawn.random() < 1 / 2 else ("evil", "x"))
    path = adoption.staged_at(site.home.path, "clinic")
    path.write_bytes(evil.text)
    approvals.beside(path).write_bytes(approvals.encode(site.signed(evil, *evil.document.approvals.keys)))
    site.write("clinic")


def _same_version(site: Site) -> None:
    """Other words under the version that was agreed to, signed by one officer alone or by both, or by nobody."""
    path = adoption.staged_at(site.home.path, "clinic")
    evil = site.policy(load.load(path).version, 1000, ("officer", "second"))
    signers = site.drawn.choice([(), ("officer",), ("officer", "second")])
    site.begin(evil, site.signed(evil, *signers) if signers else None)


def _without_keys(site: Site) -> None:
    """A later version names nobody, so that nobody is asked from then on."""
    evil = site.policy(site.drawn.randint(6, 99), 1000, ())
    site.begin(evil, site.drawn.choice([None, ()]))


def _one_officer(site: Site) -> None:
    """One officer lowers how many must approve, and approves that alone."""
    evil = site.policy(site.drawn.randint(6, 99), 1000, ("officer",))
    site.begin(evil, site.signed(evil, "officer"))


def _other_federation(site: Site) -> None:
    """Another federation at the same home begins runs under the clinic's name, or signs the clinic's policy."""
    other = site.policy(1, 1000, ("evil",), name="bank")
    site.begin(other, site.signed(other, "evil"))
    evil = site.policy(site.drawn.randint(6, 99), 1000, ("evil",))
    if site.drawn.random() < 1 / 2:
        site.begin(evil, (*site.signed(evil, "evil"), *site.signed(other, "evil")))
    else:
        site.home.path.joinpath("policies", "clinic.yaml").write_bytes(other.text)
        site.write("clinic")


def _under(site: Site) -> None:
    """A child's signers write the clinic's policy above theirs as they like, once they stand under the true one."""
    true = load.load(adoption.staged_at(site.home.path, "clinic"))
    child = site.policy(1, 4, ("ann", "bob"), name="ward", above=true)
    site.begin(child, (*site.signed(child, "ann", "bob"), *site.signed(true, "officer", "second")))
    kind = site.drawn.randrange(4)
    version = true.version if kind == 0 else true.version + site.drawn.randint(1, 9)
    fake = site.policy(version, 1000, ("ann",) if kind == 3 else ("officer", "second"))
    raised = site.policy(2, 1000, ("ann", "bob"), name="ward", above=fake)
    by_fake = site.signed(fake, "ann") if kind == 3 else site.signed(true, "officer", "second")
    given = (*site.signed(raised, "ann", "bob"), *by_fake)
    site.begin(raised, None if kind == 1 else given)


def _never_seen(site: Site) -> None:
    """A child whose parent names keys is adopted without its parent's signatures."""
    above = site.policy(1, 1000, ("boss",), name=f"top-{site.number}")
    child = site.policy(1, 1000, ("ann",), name="ward", above=above)
    site.begin(child, site.signed(child, "ann"))


def _keyless_child(site: Site) -> None:
    """A child that names nobody stands under a parent who names keys: nobody's signatures would be kept."""
    above = site.policy(1, 1000, ("boss",), name=f"top-{site.number}")
    child = site.policy(1, 1000, (), name="ward", above=above)
    site.begin(child, site.drawn.choice([None, site.signed(above, "boss")]))


def _signed_ahead(site: Site) -> None:
    """A signer whose clock is ahead signs and revokes: the signature is dated after its own revocation."""
    policy = site.policy(site.drawn.randint(6, 99), 1000, ("officer", "second"))
    signer = site.drawn.choice(["officer", "second"])
    ahead = site.drawn.randint(1, approvals.SKEW_S)
    made = tuple(
        approvals.sign(
            site.identity(each),
            Kind.APPROVAL if at else Kind.AUTHOR,
            policy,
            NOW + (ahead if each == signer else -9),
            END,
        )
        for at, each in enumerate(("officer", "second"))
    )
    revoked = approvals.sign(
        site.identity(signer), Kind.REVOCATION, policy, NOW + site.drawn.randint(0, ahead - 1), END
    )
    site.begin(policy, (*made, revoked))


def _revoked_twice(site: Site) -> None:
    """The same, and an older revocation beside the later one, in an order of the attacker's."""
    policy = site.policy(site.drawn.randint(6, 99), 1000, ("officer", "second"))
    author, _ = site.signed(policy, "officer", "second")
    ahead = approvals.sign(site.identity("second"), Kind.APPROVAL, policy, NOW + site.drawn.randint(1, 300), END)
    taken = [approvals.sign(site.identity("second"), Kind.REVOCATION, policy, NOW - back, END) for back in (0, 10**6)]
    site.drawn.shuffle(taken)
    site.begin(policy, (*taken, author, ahead))


def split_for_less(number: int, folder: Path) -> Outcome:
    """Go on with a key that was split when fewer members were assumed to collude, or among others than take part."""
    drawn, custodian = random.Random(number), keys.Identity(keys.Secret(number.to_bytes(32, "big")))  # noqa: S311
    holders, before = drawn.randint(4, 9), drawn.randint(0, 1)
    names = [MemberId(f"m{at}") for at in range(holders + 4)]
    boxes = {each: keys.public_half(keys.Secret(drawn.randbytes(32))) for each in names[:holders]}
    threshold = max(2, load.safe_threshold(holders, before))
    rand = keys.Secret(drawn.randbytes(32))
    vault, _ = key_shares.split(b"key", Hash(drawn.randbytes(32)), threshold, boxes, custodian, rand)
    file = folder / "he.key"
    custody.vault_of(file).write_bytes(vault)
    roster = names[: holders + drawn.choice([0, 4])]
    try:
        custody.check_split(file, roster, drawn.randint(threshold, holders))
    except custody.BelowFloor:
        return Outcome(succeeded=False, stopped_by="custody.below-floor")
    return Outcome(succeeded=True, stopped_by="")


ATTEMPTS = (
    Attempt("a signature is dated after the revocation that takes it back", tried(_signed_ahead)),
    Attempt("an older revocation hides a later one", tried(_revoked_twice)),
    Attempt("a key that was split for fewer colluding members serves a policy with more", split_for_less),
    Attempt("an unsigned version names the keys that sign the next one", tried(_unsigned_between)),
    Attempt("a policy is written into a home by hand", tried(_by_hand)),
    Attempt("other words stand under the version that was agreed to", tried(_same_version)),
    Attempt("a later version names nobody who signs", tried(_without_keys)),
    Attempt("one officer lets himself decide alone", tried(_one_officer)),
    Attempt("another federation of the same home takes this one's place", tried(_other_federation)),
    Attempt("a child's signers rewrite the policy above theirs", tried(_under)),
    Attempt("a parent that names keys is stood under without its signatures", tried(_never_seen)),
    Attempt("a child that names nobody stands under a parent who does", tried(_keyless_child)),
)
