"""Who agreed to a policy: signatures over one version of it, kept beside it in ``POLICY.approvals.json``.

A version is signed if one of the keys it names signed as its author, and as many others as it requires approved. Each
signature is over the policy's hash, federation and version, its signer, and from when until when it counts; its label
says which kind it is, so an approval never passes for an authorship. A version that follows another needs the
signatures that its predecessor asked for as well as its own: nobody lets themselves in by naming new keys, and a larger
budget is a new version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from securefl import keys, wire
from securefl.documents import strict
from securefl.documents.strict import First, Whole
from securefl.errors import Fault, Forged, OperatorFault
from securefl.policy.document import Approvals
from securefl.policy.load import Policy
from securefl.terms import Hash, PublicKey, Reason

SUFFIX = ".approvals.json"
DAY_S = 24 * 3600
SKEW_S = 300  # how far ahead of this clock a signer's may be, and how long a revocation reaches ahead of its own


class Kind(StrEnum):
    """What a signature says of the policy."""

    AUTHOR = "author"  # I wrote this version
    APPROVAL = "approval"  # I agree to it
    REVOCATION = "revocation"  # whatever I signed for it until now, by any clock that is accepted, counts no longer


class Unapproved(Fault):
    """A policy that has not the signatures it needs. Nothing was trained."""

    exit_code: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed."""

    kind: Kind
    policy: Hash
    federation: str
    version: int
    signer: PublicKey
    issued: int  # seconds since 1970
    expires: int  # the last second it counts; of no meaning to a revocation


@dataclass(frozen=True, slots=True)
class Signature:
    """A statement, under its signer's key."""

    statement: Statement
    signature: bytes  # 64 bytes, Ed25519


@dataclass(frozen=True, slots=True)
class Standing:
    """What the signatures for a policy amount to."""

    author: str | None
    approvers: tuple[str, ...]
    required: int
    refused: tuple[Reason, ...]  # signatures that do not count, each with its signer

    @property
    def signed(self) -> bool:
        """Whether it has an author, and enough others who approve."""
        return self.author is not None and len(self.approvers) >= self.required

    def __str__(self) -> str:
        who = f"author {self.author}" if self.author else "no author"
        approved = f"approved by {', '.join(self.approvers)}" if self.approvers else "approved by nobody"
        return (
            f"{'signed' if self.signed else 'UNSIGNED'}: {who}, {approved} ({len(self.approvers)} of {self.required})"
        )

    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "signed": self.signed,
            "author": self.author,
            "approved_by": list(self.approvers),
            "required": self.required,
        }


def sign(identity: keys.Identity, kind: Kind, policy: Policy, issued: int, expires: int) -> Signature:
    """A signature for this version of the policy."""
    statement = Statement(kind, policy.hash, policy.federation, policy.version, identity.public, issued, expires)
    return Signature(statement, identity.sign(f"policy-{kind}", wire.encode(statement)))


def judge(policy: Policy, signatures: Iterable[Signature], now: int, rules: Approvals | None = None) -> Standing:
    """Return what these signatures amount to, by the policy's own rules or those of another version; total.

    Every signature that does not count is refused by name: ``approvals.forged``, ``stranger``, ``replayed``,
    ``early``, ``expired``, ``revoked``, ``duplicate`` or ``self``.
    """
    rules = rules or policy.document.approvals
    names = {bytes.fromhex(key): name for name, key in rules.keys.items()}
    refused: list[Reason] = []
    good: list[Signature] = []
    for each in sorted(signatures, key=_order):
        reason = _wrong(policy, each, names, now)
        if reason:
            refused.append(reason)
        else:
            good.append(each)
    revoked = _revoked(good)
    author: bytes | None = None
    approvers: list[bytes] = []
    for each in good:
        signer, kind, name = each.statement.signer, each.statement.kind, names[each.statement.signer]
        if kind is Kind.REVOCATION:
            continue
        if each.statement.issued <= revoked.get(signer, -1):
            fix = f"sign again, more than {SKEW_S} seconds after the revocation"
            refused.append(Reason("approvals.revoked", f"the {kind} of {name}", "what stands", fix))
        elif (kind is Kind.AUTHOR and author is not None) or signer in approvers:
            refused.append(Reason("approvals.duplicate", f"another {kind} by {name}", "one each", "remove it"))
        elif kind is Kind.AUTHOR:
            author = signer
        elif signer == author:
            refused.append(Reason("approvals.self", f"the approval of {name}", "others than the author", "ask another"))
        else:
            approvers.append(signer)
    named = names[author] if author is not None else None
    return Standing(named, tuple(sorted(names[each] for each in approvers)), rules.required, tuple(refused))


def _revoked(signatures: Iterable[Signature]) -> dict[bytes, int]:
    """Up to which second what a signer signed counts no longer: by the same skew by which a clock ahead is accepted."""
    revoked: dict[bytes, int] = {}
    for each in signatures:
        if each.statement.kind is Kind.REVOCATION:
            reach = each.statement.issued + SKEW_S
            revoked[each.statement.signer] = max(reach, revoked.get(each.statement.signer, reach))
    return revoked


def _order(each: Signature) -> tuple[Any, ...]:
    """Authors first, so that their own approvals are known; then by time."""
    statement = each.statement
    return (statement.kind is not Kind.AUTHOR, statement.issued, statement.expires, each.signature)


def _wrong(policy: Policy, each: Signature, names: dict[bytes, str], now: int) -> Reason | None:
    """Why a signature counts for nothing by itself, if it does."""
    told, name = each.statement, names.get(each.statement.signer)
    if name is None:
        who = f"key {told.signer.hex()[:16]}"
        return Reason("approvals.stranger", f"the {told.kind} of {who}", f"{', '.join(names.values())}", "name the key")
    whose = f"the {told.kind} of {name}"
    try:
        keys.verify(told.signer, f"policy-{told.kind}", wire.encode(told), each.signature)
    except Forged:
        return Reason("approvals.forged", whose, "what its key signed", "remove it")
    if (told.policy, told.federation, told.version) != (policy.hash, policy.federation, policy.version):
        of = f"{whose} for {told.federation}, version {told.version}, hash {told.policy.hex()[:16]}"
        this = f"{policy.federation}, version {policy.version}, hash {policy.hash.hex()[:16]}"
        return Reason("approvals.replayed", of, this, "sign this version")
    if told.kind is not Kind.REVOCATION and told.issued > now + SKEW_S:
        return Reason("approvals.early", whose, "what is signed by now", "set the signer's clock")
    if told.kind is not Kind.REVOCATION and told.expires < now:
        return Reason("approvals.expired", whose, "what has not ended", "sign again")
    return None


def require(policy: Policy, signatures: Iterable[Signature], now: int, before: Policy | None = None) -> Standing:
    """The standing of a policy that may be used: signed, or one that names nobody who could have signed it.

    Args:
        policy: the policy.
        signatures: all that are known.
        now: seconds since 1970.
        before: the version agreed to until now, if there was one.

    Raises:
        Unapproved: signatures are missing, by its own rules or its predecessor's.
    """
    signatures = tuple(signatures)
    own = judge(policy, signatures, now)
    asked = [(own, f"{policy.federation}, version {policy.version}")] if policy.document.approvals.keys else []
    if before is not None and before.hash != policy.hash and before.document.approvals.keys:
        by_old = judge(policy, signatures, now, before.document.approvals)
        asked.append((by_old, f"a successor of {before.federation}, version {before.version}"))
    for standing, what in asked:
        if not standing.signed:
            lines = [f"{what} is not signed: {standing}", *(str(reason) for reason in standing.refused)]
            remedy = "sign it (`securefl policy sign`, `approve`)"
            raise Unapproved(
                "\n".join(lines) + f"\n{remedy}, or run with --unsafe-unsigned, which every report will say"
            )
    return own


# Files.


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    policy: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    federation: str
    version: Whole
    signer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    issued: Whole
    expires: Whole
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    securefl_approvals: First
    signatures: tuple[_Entry, ...]


def beside(policy: Path) -> Path:
    """Return where the signatures of the policy at this path are kept."""
    return policy.with_name(policy.stem + SUFFIX)


def read(path: Path) -> tuple[Signature, ...]:
    """The signatures at ``path``; none if there is no such file.

    Raises:
        OperatorFault: it is not well formed, with line and field.
    """
    return decode(strict.text_of(path), str(path)) if path.exists() else ()


def decode(text: bytes, name: str) -> tuple[Signature, ...]:
    """The signatures in ``text``; ``name`` is what errors call it. An empty text holds none.

    Raises:
        OperatorFault: it is not well formed, with line and field.
    """
    if not text:
        return ()
    file = strict.validate(strict.parse(text, name), _File)
    return tuple(
        Signature(
            Statement(
                each.kind, Hash(bytes.fromhex(each.policy)), each.federation, each.version,
                PublicKey(bytes.fromhex(each.signer)), each.issued, each.expires,
            ),
            bytes.fromhex(each.signature),
        )
        for each in file.signatures
    )  # fmt: skip


def encode(signatures: Iterable[Signature]) -> bytes:
    """The same signatures as a file."""
    rows = [
        {
            "kind": each.statement.kind.value,
            "policy": each.statement.policy.hex(),
            "federation": each.statement.federation,
            "version": each.statement.version,
            "signer": each.statement.signer.hex(),
            "issued": each.statement.issued,
            "expires": each.statement.expires,
            "signature": each.signature.hex(),
        }
        for each in signatures
    ]
    return json.dumps({"securefl_approvals": 1, "signatures": rows}, indent=1).encode() + b"\n"


def add(path: Path, policy: Policy, made: Signature, now: int) -> Standing:
    """One more signature beside the policy at ``path``, and what all of them amount to.

    Raises:
        Unapproved: it would count for nothing; nothing was written.
        OperatorFault: the file beside it is not well formed, or cannot be written.
    """
    kept = read(beside(path))
    standing = judge(policy, (*kept, made), now)
    alone = judge(policy, kept, now)
    new = [reason for reason in standing.refused if standing.refused.count(reason) > alone.refused.count(reason)]
    if new and made.statement.kind is not Kind.REVOCATION:
        raise Unapproved("\n".join(map(str, new)))
    if made.statement.signer.hex() not in policy.document.approvals.keys.values():
        raise Unapproved("\n".join(map(str, new)) or "a key that the policy does not name")
    try:
        beside(path).write_bytes(encode((*kept, made)))
    except OSError as fault:
        raise OperatorFault(
            f"cannot be written: {fault.strerror}", "choose a folder you may write", str(path)
        ) from fault
    return standing


def revocations(signatures: Iterable[Signature]) -> tuple[Signature, ...]:
    """Those that take something back: whoever saw one keeps it."""
    return tuple(each for each in signatures if each.statement.kind is Kind.REVOCATION)


def last_revocations(policy: Policy, signatures: Iterable[Signature], *named: Approvals) -> tuple[Signature, ...]:
    """Each signer's last revocation of this version, by the keys that one of these rules names; what is forged is none.

    No more than there are keys, whatever is given.
    """
    names = {bytes.fromhex(key): name for rules in named for name, key in rules.keys.items()}
    last = dict[bytes, Signature]()
    for each in sorted(revocations(signatures), key=_order):
        if _wrong(policy, each, names, each.statement.issued) is None:
            last[each.statement.signer] = each
    return tuple(last[signer] for signer in sorted(last))
