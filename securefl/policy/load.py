"""A policy from its file: the document, its bytes, and the hash it is known by.

A policy under another one is both: its text is its own file and, after a line that says so, each file above it. So its
hash covers the whole chain, and a copy of it can be read and decided on alone.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

from securefl.documents import strict
from securefl.errors import OperatorFault
from securefl.policy.document import Budget, Context, PolicyDocument, Release, Valid
from securefl.policy.limits import Protection, Sharing, Training
from securefl.policy.narrow import decimal, narrow, origin
from securefl.terms import Hash, Level, Limit, RunId, Unit
from securefl.terms.names import FederationName

LIMIT_LEVELS = 8
LIMIT_CAPS = 1024  # kept answers
LIMIT_READ, LIMIT_READ_BYTES = 64, 64 * 1024  # files that are kept as they were read, and how long one of them may be
ABOVE = b"\n--- # the policy above\n"  # between the files of a chain; never part of one, which holds one document


@dataclass(frozen=True, slots=True)
class Policy:
    """A well-formed policy, tightening every policy above it."""

    document: PolicyDocument  # narrowed by all above: what it allows, all of them allow
    text: bytes
    hash: Hash
    above: tuple[PolicyDocument, ...] = ()  # its parent first
    _origins: dict[tuple[str, ...], str] = field(default_factory=dict, compare=False, repr=False)
    _caps: dict[tuple[str, RunId], tuple[Limit, ...]] = field(default_factory=dict, compare=False, repr=False)

    def caps(self, dataset: str, run: RunId) -> tuple[Limit, ...]:
        """Return what this policy, and each above it, lets the accounts hold that a plan of this run counts in."""
        if (dataset, run) not in self._caps:
            if len(self._caps) >= LIMIT_CAPS:
                self._caps.clear()
            self._caps[dataset, run] = self._caps_of(dataset, run)
        return self._caps[dataset, run]

    def _caps_of(self, dataset: str, run: RunId) -> tuple[Limit, ...]:
        budget, mine = self.budget, self.federation
        limits = [
            (Level.DATASET, dataset, budget.per_dataset.epsilon, budget.delta),
            (Level.FEDERATION, mine, budget.epsilon, budget.delta),
            (Level.RUN, run.hex(), budget.per_run.epsilon if budget.per_run else budget.epsilon, budget.delta),
            *((Level.FEDERATION, up.federation, up.budget.epsilon, up.budget.delta) for up in self.above),
        ]
        return tuple(
            Limit(level, name, budget.share(epsilon), delta / budget.overlap, budget.bound, mine)
            for level, name, epsilon, delta in limits
        )

    def whose(self, limits: tuple[str, ...]) -> str:
        """The federation that set these fields: the highest that says the same."""
        if limits not in self._origins:
            self._origins[limits] = origin((self.document, *self.above), limits).federation
        return self._origins[limits]

    @property
    def federation(self) -> FederationName:
        """Whose policy it is."""
        return FederationName(self.document.federation)

    @property
    def version(self) -> int:
        """Which one it is."""
        return self.document.version

    @property
    def valid(self) -> Valid:
        """When it holds."""
        return self.document.valid

    @property
    def budget(self) -> Budget:
        """What may be spent."""
        return self.document.budget

    @property
    def training(self) -> Training:
        """How members may train."""
        return self.document.training

    @property
    def sharing(self) -> Sharing:
        """What members may keep, and how they may count."""
        return self.document.sharing

    @property
    def protection(self) -> Protection:
        """How updates must be hidden."""
        return self.document.protection

    @property
    def release(self) -> Release:
        """What may leave."""
        return self.document.release

    @property
    def context(self) -> Context:
        """What for, and where."""
        return self.document.context


_MECHANISMS = {
    Unit.RECORD: ("poisson-gaussian", "full-batch-gaussian"),
    Unit.CLIENT: ("distributed-discrete-gaussian",),
}


def load(path: Path) -> Policy:
    """The policy at ``path``, with those above it from the files it names.

    Raises:
        OperatorFault: with file, line and field, for everything that is wrong.
    """
    return parse(ABOVE.join(_climbed(path)), str(path))


def parse(text: bytes, name: str) -> Policy:
    """The policy in ``text``, which holds all above it too; ``name`` is what errors call it.

    Raises:
        OperatorFault: as for ``load``.
    """
    texts = text.split(ABOVE)
    if len(texts) > LIMIT_LEVELS:
        raise OperatorFault(f"more than {LIMIT_LEVELS} levels", "put fewer policies above each other", name)
    documents_: list[strict.Document] = []
    levels: list[PolicyDocument] = []
    for index, part in enumerate(texts):
        document, written = _read(part, name)
        place = _place(document)
        if (written.parent is None) != (index == len(texts) - 1):
            known = "is not here" if written.parent else "is named nowhere"
            raise OperatorFault(f"the policy above {known}", "load the policy from its own file", place)
        if any(written.federation == lower.federation for lower in levels):
            raise OperatorFault(f"{written.federation} stands above itself", "give each level its own name", place)
        above = policy_hash(ABOVE.join(texts[index + 1 :])).hex()
        if written.parent is not None and written.parent.hash not in (None, above):
            what = f"the policy above has hash {above}, not {written.parent.hash}"
            raise OperatorFault(what, "restore the version that was agreed to, or agree to this one", place)
        documents_.append(document)
        levels.append(written)
        name = _beside(name, written)
    for index in reversed(range(len(levels) - 1)):
        levels[index] = narrow(levels[index + 1], levels[index], (documents_[index + 1], documents_[index]))
    return Policy(levels[0], text, policy_hash(text), tuple(levels[1:]))


def policy_hash(text: bytes) -> Hash:
    """The name of a policy: SHA-256 of its bytes and those of all above it, labelled."""
    return Hash(hashlib.sha256(b"policy\0" + text).digest())


def _climbed(path: Path) -> tuple[bytes, ...]:
    """The bytes of a policy's file, and of each file above it."""
    return tuple(part for _, text in _chain(path) for part in text.split(ABOVE))


def files(path: Path) -> tuple[Path, ...]:
    """The file of a policy, and of each above it.

    Raises:
        OperatorFault: as for ``load``.
    """
    return tuple(file for file, _ in _chain(path))


def _chain(path: Path) -> tuple[tuple[Path, bytes], ...]:
    texts: list[tuple[Path, bytes]] = []
    seen: list[Path] = []
    asked = ""
    while True:
        if path.resolve() in seen:
            circle = " -> ".join(each.name for each in (*seen[seen.index(path.resolve()) :], path))
            raise OperatorFault(f"policies above each other in a circle: {circle}", "let one have no parent", asked)
        if len(seen) == LIMIT_LEVELS:
            raise OperatorFault(f"more than {LIMIT_LEVELS} levels", "put fewer policies above each other", asked)
        seen.append(path.resolve())
        try:
            text = strict.text_of(path, LIMIT_LEVELS * strict.LIMIT_BYTES)
        except OperatorFault as fault:
            raise OperatorFault(f"{asked}: {fault}" if asked else str(fault)) from fault
        texts.append((path, text))
        document, written = _read(text.split(ABOVE)[-1], str(path))
        if written.parent is None or ABOVE in text:
            return tuple(texts)
        asked = _place(document)
        path = path.parent / written.parent.policy


def _read(text: bytes, name: str) -> tuple[strict.Document, PolicyDocument]:
    """One file of a chain, and the policy that it says: read once, whatever it is called and however often it is asked.

    Raises:
        OperatorFault: as for ``load``, with this name.
    """
    if len(text) <= LIMIT_READ_BYTES:
        with suppress(OperatorFault):  # what is wrong is said of the file that it is in
            document, written = _read_before(text)
            return replace(document, name=name), written
    document = strict.parse(text, name)
    return document, _policy_in(document)


@lru_cache(maxsize=LIMIT_READ)
def _read_before(text: bytes) -> tuple[strict.Document, PolicyDocument]:
    document = strict.parse(text, "")
    return document, _policy_in(document)


def _policy_in(document: strict.Document) -> PolicyDocument:
    if document.has("securefl_federation"):
        remedy = f"give its policy, {document.value.get('policy', 'a file of its own')}; `securefl policy explain` "
        raise OperatorFault("a federation's file, not a policy", f"{remedy}holds one against the other", document.name)
    return strict.validate(document, PolicyDocument)


def _place(document: strict.Document) -> str:
    return f"{document.name}:{document.line_of(('parent',))}: parent"


def _beside(name: str, written: PolicyDocument) -> str:
    return str(Path(name).parent / written.parent.policy) if written.parent else name


def check(policy: Policy, now: int, records: int | None = None, before: Policy | None = None) -> tuple[str, ...]:
    """Return what in a well-formed policy can never be met, or does less than it seems to.

    Args:
        policy: the policy.
        now: seconds since 1970.
        records: how many the smallest data set holds, if it is known.
        before: the version that this one follows, if there is one.
    """
    day = datetime.fromtimestamp(now, UTC).date()
    return (*_never(policy, day), *_idle(policy), *_weak(policy, records), *_follows(policy, before))


def _weak(policy: Policy, records: int | None) -> list[str]:
    """A delta with which the guarantee allows to publish a whole record."""
    delta = policy.budget.delta
    if records is None or delta * records <= 1:
        return []
    least = f"1/{records}"
    return [f"budget.delta: {decimal(delta)} is above {least}: a data set of {records} may lose a record outright"]


def _follows(policy: Policy, before: Policy | None) -> list[str]:
    """Return what does not fit between a version and the next."""
    if before is None:
        return []
    notes = []
    if policy.federation != before.federation:
        notes.append(f"federation: {policy.federation} does not follow {before.federation}")
    elif policy.version <= before.version:
        notes.append(f"version: {policy.version} does not follow {before.version}: no site will change to it")
    gap = (policy.valid.from_ - before.valid.until).days - 1
    if gap > 0:
        notes.append(
            f"valid.from: for {gap} days after {before.valid.until} no version is valid: every plan is refused"
        )
    return notes


def _never(policy: Policy, day: date) -> list[str]:
    """Why every plan is refused, if it is."""
    protection, notes = policy.protection, []
    if policy.valid.until < day:
        notes.append(f"valid.until: {policy.valid.until} is over: every plan is refused")
    if policy.valid.from_ > day:
        notes.append(f"valid.from: {policy.valid.from_} is to come: every plan is refused until then")
    unit, training = policy.budget.unit, policy.training
    fitting = _MECHANISMS[unit]
    if training.mechanisms and not set(fitting) & set(training.mechanisms):
        shown = " or ".join(fitting)
        notes.append(
            f"budget.unit: only {shown}, which training.mechanisms lacks, hides a {unit.value}: every plan is refused"
        )
    empty = {
        "training.mechanisms": training.mechanisms,
        "training.adapters": training.adapters,
        "training.clipping": training.clipping,
        "training.losses": training.losses,
        "training.optimizers": training.optimizers,
        "training.base_models": training.base_models,
        "protection.schemes": protection.schemes,
        "context.purposes": policy.context.purposes,
        "context.regions": policy.context.regions,
    }
    notes += [f"{name}: empty, so every plan is refused" for name, values in empty.items() if not values]
    if not training.rules and any(kind.has_factors for kind in training.adapters):
        notes.append("training.rules: empty, so every plan with LoRA is refused")
    if not training.modules and any(kind.has_targets for kind in training.adapters):
        notes.append("training.modules: empty, so every plan for an adapter on layers is refused")
    budget = policy.budget
    limits = {
        "budget.epsilon": budget.epsilon,
        "budget.per_round.epsilon": budget.per_round.epsilon,
        "budget.per_dataset.epsilon": budget.per_dataset.epsilon,
        **({"budget.per_run.epsilon": budget.per_run.epsilon} if budget.per_run else {}),
    }
    notes += [
        f"{name}: shared by {budget.overlap} overlapping data sets it is less than a millionth: every plan is refused"
        for name, limit in limits.items()
        if limit * 1_000_000 < budget.overlap
    ]
    return notes


def _idle(policy: Policy) -> list[str]:
    """Return what another rule makes pointless, and what is not as safe as it looks."""
    budget, protection, notes = policy.budget, policy.protection, []
    if budget.per_round.epsilon > budget.epsilon:
        notes.append("budget.per_round.epsilon: above budget.epsilon, so it never decides")
    if budget.per_run is not None and budget.per_run.epsilon > budget.epsilon:
        notes.append("budget.per_run.epsilon: above budget.epsilon, so it never decides")
    if budget.epsilon > budget.per_dataset.epsilon:
        notes.append("budget.epsilon: above budget.per_dataset.epsilon, so it never decides")
    if protection.min_cohort - protection.colluding <= 1:
        fix = f"no plan has fewer than {protection.colluding + 2}"
        notes.append(
            f"protection.min_cohort: a sum would hold fewer than two honest inputs, so it never decides: {fix}"
        )
    safe = safe_threshold(protection.min_cohort, protection.colluding)
    if any(scheme.has_masks for scheme in protection.schemes) and protection.threshold.at_least < safe:
        notes.append(f"protection.threshold.at_least: below {safe}, the least that is safe, so it never decides")
    trusting = [scheme for scheme in protection.schemes if scheme.trusts_custodian]
    if trusting and "custodian" not in protection.trust:
        named = " and ".join(f"{scheme.value} ({scheme.masked.value} does)" for scheme in trusting)
        notes.append(f"protection.schemes: without protection.trust: [custodian] no plan passes under {named}")
    notes += [
        f"protection.schemes: `{scheme}` shows every update to the coordinator"
        for scheme in protection.schemes
        if not scheme.hides
    ]
    if not policy.release.fields:
        notes.append("release.fields: empty, so a plan that releases its weights is refused")
    return notes


def safe_threshold(members: int, colluding: int) -> int:
    """The least threshold T with 2 T > members + colluding.

    Below it two groups of survivors, sharing only colluders, could each be led to open the other's half of a mask.
    """
    return (members + colluding) // 2 + 1
